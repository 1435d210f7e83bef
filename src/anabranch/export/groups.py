"""Convolutions in groups of few channels, in an INT8 graph, written in fewer and wider groups.

Engines multiply INT8 in blocks of many channels, which a group of four fills to a part. A group that holds several of
the old has zeros where these do not meet: what a convolution adds up stays the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

# Channels that a group takes in, of 8, 16, 32 and 64 that were tried
FOR_OPENVINO = 8  # sooner with AMX and VNNI, and as soon with AVX2 alone, where 16 is slower
FOR_ONNXRUNTIME = 16  # a quarter sooner with VNNI, the one kind that was tried


def widen_groups(path: Path, channels: int) -> None:
    """Write an INT8 graph anew, which answers as before; narrower groups take in up to so many `channels` then."""
    model = onnx.load(path)
    constants = {each.name: each for each in model.graph.initializer}
    made_by = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        groups = next((each for each in node.attribute if node.op_type == "Conv" and each.name == "group"), None)
        if groups is None or groups.i == 1:
            continue
        name = made_by[node.input[1]].input[0]
        levels = numpy_helper.to_array(constants[name])
        wider = _wider(levels.shape[1], groups.i, channels)
        constants[name].CopyFrom(numpy_helper.from_array(_side_by_side(levels, groups.i, wider), name))
        groups.i //= wider
    onnx.save(model, path)


def _wider(has: int, groups: int, channels: int) -> int:
    """How many groups become one. Those of one channel have ways of their own in every engine."""
    most = channels // has if has > 1 else 1
    return max(each for each in range(1, max(1, most) + 1) if groups % each == 0)


def _side_by_side(levels: NDArray[Any], groups: int, wider: int) -> NDArray[Any]:
    """(out, in, ...) of a group's channels each to (out, wider * in, ...), of zeros but for those that were there."""
    out, channels, *size = levels.shape
    # the wide group, the old one in it, its own outputs; the old one in it again, its own inputs
    held = np.zeros((groups // wider, wider, out // groups, wider, channels, *size), levels.dtype)
    old = np.arange(wider)
    held[:, old, :, old] = levels.reshape(groups // wider, wider, out // groups, channels, *size).swapaxes(0, 1)
    return held.reshape(out, wider * channels, *size)
