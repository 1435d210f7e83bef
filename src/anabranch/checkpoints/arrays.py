"""How a pickle spells numpy's numbers and arrays, as stand-ins for the machine that reads it: see `pickled`.

An array is a view of the file, except where protocol 2 spelt its bytes as text, which is turned back when the array
is asked for. Its shape must match the bytes that the file holds for it, so that no shape, however large, takes memory
that the file does not fill.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anabranch.checkpoints.pickled import Call, Stated, Unreadable
from anabranch.errors import shown

_MAX_DIMENSIONS = 32
_LONG = 1 << 16  # so many characters are worth not to be held twice
KINDS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
_STATES = ((3, "<", None, None, None, -1, -1, 0), (3, "|", None, None, None, -1, -1, 0))  # of dtypes in `KINDS`


class Kind(Stated):
    """Stands for a numpy dtype: plain numbers of one of `KINDS`, little-endian."""

    def __init__(self, code: Any, *_: Any) -> None:
        if type(code) is not str:
            raise TypeError(type(code))
        if code not in KINDS:
            raise Unreadable(f"holds values of numpy's kind {shown(code)}, not plain numbers; save numbers alone")
        self.dtype: np.dtype[Any] = np.dtype(f"<{code}")

    def set_state(self, state: Any) -> None:
        if state[1] == ">":
            raise Unreadable("holds big-endian numbers; save it again on a little-endian machine")
        if state not in _STATES:
            raise ValueError(len(state))


class Spelt:
    """Stands for many bytes that protocol 2 spelt as text: a character for each of them."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __len__(self) -> int:
        return len(self._text)

    def bytes(self) -> bytearray:
        try:
            return bytearray(self._text, "latin1")
        except UnicodeEncodeError:
            raise Unreadable(
                "is damaged or forged: it spells bytes in text that spells none; take another copy"
            ) from None


class Array(Stated):
    """Stands for a numpy array. `values` is a view of the file wherever the file holds them as they are."""

    def __init__(self) -> None:
        self._values: NDArray[Any] | _Unspelt | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._begun().dtype

    @property
    def nbytes(self) -> int:
        return self._begun().nbytes

    @property
    def values(self) -> NDArray[Any]:
        values = self._begun()
        if isinstance(values, _Unspelt):
            self._values = values = values.array()  # and the text is let go of
        return values

    def set_state(self, state: Any) -> None:
        version, shape, kind, is_fortran, data = state
        if version != 1:
            raise ValueError(version)
        if isinstance(data, Spelt):
            self._values = _Unspelt(data, kind, shape, is_fortran=is_fortran is True)
        else:
            self._values = _array(data, kind, shape, is_fortran=is_fortran is True)

    def _begun(self) -> NDArray[Any] | _Unspelt:
        if self._values is None:
            raise Unreadable("is damaged or forged: it holds an array without values; take another copy")
        return self._values


class _Unspelt:
    """An array whose values are still text: half as much memory as both take."""

    def __init__(self, data: Spelt, kind: Any, shape: Any, *, is_fortran: bool) -> None:
        self._data, self._kind, self._shape, self._is_fortran = data, kind, shape, is_fortran
        self.nbytes = _num_bytes(len(data), kind, shape)
        self.dtype: np.dtype[Any] = kind.dtype

    def array(self) -> NDArray[Any]:
        return _array(self._data.bytes(), self._kind, self._shape, is_fortran=self._is_fortran)


def _num_bytes(given: int, kind: Any, shape: Any) -> int:
    """How many bytes an array of this shape takes. Raises Unreadable where that is not as many as are given."""
    if not isinstance(kind, Kind) or type(shape) is not tuple or len(shape) > _MAX_DIMENSIONS:
        raise TypeError(type(shape))
    if any(type(length) is not int or not 0 <= length < 1 << 63 for length in shape):
        raise ValueError("not a shape")
    wanted = math.prod(shape) * kind.dtype.itemsize
    if given != wanted:
        raise Unreadable(
            f"is damaged or forged: an array of shape {str(shape)[:60]} takes {wanted} bytes and the file gives it "
            f"{given}; take another copy"
        )
    return wanted


def _array(data: Any, kind: Any, shape: Any, *, is_fortran: bool = False) -> NDArray[Any]:
    wanted = _num_bytes(len(data) if isinstance(data, bytes | bytearray | memoryview) else 0, kind, shape)
    flat = np.frombuffer(data, kind.dtype) if wanted else np.empty(0, kind.dtype)
    return flat.reshape(shape, order="F" if is_fortran else "C")


def _begun_array(_: Any, shape: Any, code: Any) -> Array:
    if shape != (0,) or code not in (b"b", "b"):
        raise ValueError("not what numpy writes")
    return Array()


def _whole_array(data: Any, kind: Any, shape: Any, order: Any) -> Array:
    array = Array()
    array.set_state((1, shape, kind, order == "F", data))
    return array


def _number(kind: Any, data: Any) -> object:
    return _array(data, kind, ()).item()


def _encoded(text: Any, codec: Any) -> Spelt | bytes:
    """How protocol 2 spells bytes. No other codec: some double what they are given, each time that they are asked."""
    if type(text) is not str or codec != "latin1":
        raise ValueError("not how bytes are spelt")
    return Spelt(text) if len(text) > _LONG else text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


# Each under both of the names that numpy gave its inner modules.
NUMBERS: Mapping[str, object] = {
    "_codecs.encode": Call(_encoded),
    "numpy.dtype": Call(Kind),
    "numpy.core.multiarray.scalar": Call(_number),
    "numpy._core.multiarray.scalar": Call(_number),
}
ARRAYS: Mapping[str, object] = {
    "builtins.bytes": Call(_no_bytes),  # torch's safe reader refuses it
    "numpy.ndarray": None,
    "numpy.core.multiarray._reconstruct": Call(_begun_array),
    "numpy._core.multiarray._reconstruct": Call(_begun_array),
    "numpy.core.numeric._frombuffer": Call(_whole_array),
    "numpy._core.numeric._frombuffer": Call(_whole_array),
}
