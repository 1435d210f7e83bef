"""Paddle's `.pdparams`, read without Paddle: a pickle of arrays by name, in each form that `paddle.save` writes.

form                                         what is made of it
name -> array                                the tensor
name -> (variable's name, array)             the tensor
`StructuredToParameterName@@`                dropped: which variable each name had in the program
`UnpackBigParamInfor@@`                      the slices of an array of more than 1 GiB joined again (protocols 2 and 3)

Source: PaddlePaddle, python/paddle/framework/io.py and io_utils.py.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from anabranch.checkpoints.arrays import ARRAYS, NUMBERS, Array
from anabranch.checkpoints.pickled import Call, Machine, by_name
from anabranch.checkpoints.steps import Source, Unreadable
from anabranch.errors import shown

_VARIABLES = "StructuredToParameterName@@"
_SLICED = "UnpackBigParamInfor@@"
_ALLOWED: Mapping[str, object] = {
    **NUMBERS,
    **ARRAYS,
    "collections.OrderedDict": Call(lambda pairs=(): by_name(pairs)),
    "builtins.tuple": Call(lambda items: tuple(items)),  # how Paddle 2.1 and later write one (name, array)
}


def read_paddle(mapped: mmap.mmap) -> dict[Any, Any]:
    """What the pickle holds by name, its arrays still views of the file: see `tensors`. Raises Unreadable."""
    held = Machine(Source(memoryview(mapped)), _ALLOWED, protocols=(2, 3, 4, 5)).run()
    if not isinstance(held, dict):
        raise Unreadable(f"holds a single {type(held).__name__.lower()}, not tensors by name; save a state_dict()")
    return held


def tensors(entries: Mapping[Any, Any], *, file_bytes: int) -> dict[Any, Any]:
    """The same names with tensors for arrays, each made once out of the file. Raises Unreadable."""
    held = {name: _array(value) for name, value in entries.items() if name not in (_VARIABLES, _SLICED)}
    arrays = {name: value for name, value in held.items() if isinstance(value, Array)}
    if marked := [name for name, value in arrays.items() if value.dtype == np.uint16]:
        raise Unreadable(
            f"holds uint16 values ({', '.join(map(shown, marked[:3]))}): Paddle writes bfloat16 so, and nothing tells "
            "it from whole numbers; save it as float32"
        )
    if sum(value.nbytes for value in arrays.values()) > file_bytes:
        raise Unreadable("is forged: its arrays repeat each other, and would take more memory than the file is long")
    joined = _joined(held, entries.get(_SLICED, {}))
    alone = {name: _tensor(value.values) if isinstance(value, Array) else value for name, value in held.items()}
    return alone | {name: torch.from_numpy(values) for name, values in joined.items()}


def _array(value: Any) -> Any:
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        value = value[1]
    return value


def _joined(held: dict[Any, Any], sliced: Any) -> dict[Any, NDArray[Any]]:
    """The arrays that were written in slices, which are taken out of `held`."""
    whole = {}
    try:
        for name, how in sliced.items():
            slices = [held.pop(part) for part in how["slices"] if isinstance(part, str)]
            if not all(isinstance(each, Array) for each in slices):
                raise ValueError("a slice is no array")
            whole[name] = np.concatenate([each.values for each in slices]).reshape(how["OriginShape"])
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise Unreadable(
            f"is damaged: the slices of its large arrays do not fit ({str(error)[:80]}); take another copy"
        ) from None
    return whole


def _tensor(values: NDArray[Any]) -> torch.Tensor:
    own = values.flags.writeable and values.flags.c_contiguous  # of text, and not a view of the file
    return torch.from_numpy(values if own else values.copy(order="C"))
