"""How a pickle spells numpy's numbers and arrays, as stand-ins for the machine that reads it: see `pickled`.

An array is a view of the file, except where protocol 2 spelt its bytes as text. Its shape must match the bytes that
the file holds for it, so that no shape, however large, takes memory that the file does not fill.
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


class Array(Stated):
    """Stands for a numpy array. `values` is a view of the file wherever the file holds them as they are."""

    def __init__(self) -> None:
        self._values: NDArray[Any] | None = None

    @property
    def values(self) -> NDArray[Any]:
        if self._values is None:
            raise Unreadable("is damaged or forged: it holds an array without values; take another copy")
        return self._values

    def set_state(self, state: Any) -> None:
        version, shape, kind, is_fortran, data = state
        if version != 1:
            raise ValueError(version)
        self._values = _array(data, kind, shape, is_fortran=is_fortran is True)


def _array(data: Any, kind: Any, shape: Any, *, is_fortran: bool = False) -> NDArray[Any]:
    if not isinstance(kind, Kind) or type(shape) is not tuple or len(shape) > _MAX_DIMENSIONS:
        raise TypeError(type(shape))
    if any(type(length) is not int or length < 0 for length in shape):
        raise ValueError("not a shape")
    wanted = math.prod(shape) * kind.dtype.itemsize
    given = len(data) if isinstance(data, bytes | bytearray | memoryview) else 0
    if given != wanted:
        raise Unreadable(
            f"is damaged or forged: an array of shape {str(shape)[:60]} takes {wanted} bytes and the file gives it "
            f"{given}; take another copy"
        )
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


def _encoded(text: Any, codec: Any) -> bytes:
    """How protocol 2 spells bytes. No other codec: some double what they are given, each time that they are asked."""
    if type(text) is not str or codec != "latin1":
        raise ValueError("not how bytes are spelt")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


# Each under both of the names that numpy gave its inner modules.
NUMBERS: Mapping[str, object] = {
    "_codecs.encode": Call(_encoded),
    "builtins.bytes": Call(_no_bytes),
    "numpy.dtype": Call(Kind),
    "numpy.core.multiarray.scalar": Call(_number),
    "numpy._core.multiarray.scalar": Call(_number),
}
ARRAYS: Mapping[str, object] = {
    "numpy.ndarray": None,
    "numpy.core.multiarray._reconstruct": Call(_begun_array),
    "numpy._core.multiarray._reconstruct": Call(_begun_array),
    "numpy.core.numeric._frombuffer": Call(_whole_array),
    "numpy._core.numeric._frombuffer": Call(_whole_array),
}
