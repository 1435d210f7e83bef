"""How a pickle spells numpy's numbers and arrays, as stand-ins for the machine that reads it: see `pickled`.

An array is a view of the file, except where protocol 2 spelt its bytes as text, which is turned back when the array
is asked for. Its shape must match the bytes that the file holds for it, so that no shape, however large, takes memory
that the file does not fill.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anabranch.checkpoints.pickled import Call, Stated
from anabranch.checkpoints.steps import Text, Unreadable
from anabranch.errors import shown

_MAX_DIMENSIONS = 32
_PIECE_BYTES = 1 << 20  # of text, turned back at a time
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


@dataclass(frozen=True, slots=True)
class Spelt:
    """Stands for many bytes that protocol 2 spelt as text: a character for each of them, which takes a byte or two."""

    utf8: memoryview

    def bytes(self) -> bytearray:
        result = bytearray()
        pieces = (bytes(self.utf8[at : at + _PIECE_BYTES]) for at in range(0, len(self.utf8), _PIECE_BYTES))
        try:
            for text in codecs.iterdecode(pieces, "utf-8"):
                result += text.encode("latin1")
            return result
        except UnicodeError:
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
    """An array whose values still lie in the file as text."""

    def __init__(self, data: Spelt, kind: Any, shape: Any, *, is_fortran: bool) -> None:
        self._data, self._kind, self._shape, self._is_fortran = data, kind, shape, is_fortran
        self.nbytes = _num_bytes(kind, shape)
        if not self.nbytes <= len(data.utf8) <= 2 * self.nbytes:
            raise _misfit(self.nbytes, len(data.utf8), shape)
        self.dtype: np.dtype[Any] = kind.dtype

    def array(self) -> NDArray[Any]:
        return _array(self._data.bytes(), self._kind, self._shape, is_fortran=self._is_fortran)


def _num_bytes(kind: Any, shape: Any) -> int:
    """How many bytes an array of this shape takes."""
    if not isinstance(kind, Kind) or type(shape) is not tuple or len(shape) > _MAX_DIMENSIONS:
        raise TypeError(type(shape))
    if any(type(length) is not int or not 0 <= length < 1 << 63 for length in shape):
        raise ValueError("not a shape")
    return math.prod(shape) * int(kind.dtype.itemsize)


def _misfit(wanted: int, given: int, shape: Any) -> Unreadable:
    return Unreadable(
        f"is damaged or forged: an array of shape {str(shape)[:60]} takes {wanted} bytes and the file gives it "
        f"{given}; take another copy"
    )


def _array(data: Any, kind: Any, shape: Any, *, is_fortran: bool = False) -> NDArray[Any]:
    wanted = _num_bytes(kind, shape)
    given = len(data) if isinstance(data, bytes | bytearray | memoryview) else 0
    if given != wanted:
        raise _misfit(wanted, given, shape)
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
    if not isinstance(text, str | Text) or codec != "latin1":
        raise ValueError("not how bytes are spelt")
    return Spelt(text.utf8) if isinstance(text, Text) else text.encode("latin1")


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
