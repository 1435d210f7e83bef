"""The sums between a net's blocks in floats, in a graph that is INT8 otherwise.

What one block hands to the next is rounded at each block anew, though most of it only passes through. Where that costs
more answers than it may, these sums are kept as they are, and rounded for the convolutions that read them alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from anabranch.export.bias import PICTURES, centre_logits, mean_logits

_PASSES_ON = ("Add", "ReduceMean")  # the next block's sum, and the mean of all places behind the last


def keep_sums(rounded: Path, path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write `path`: the graph of `rounded`, as `write_int8` writes it, with what passes from sum to sum in f32.

    The logits are as high in the mean as they are there, on the first of the `pixels` (M, S, S, 3).
    """
    model = onnx.load(rounded)
    nodes, constants = model.graph.node, {each.name: each for each in model.graph.initializer}
    made_by = {name: node for node in nodes for name in node.output}
    kept: dict[str, str] = {}  # the sum, and what it is in floats
    for node in [each for each in nodes if each.op_type in _PASSES_ON]:
        for place, name in enumerate(node.input):
            into_levels = _rounding_of(made_by, name)
            if into_levels is not None and _is_sum(made_by, into_levels.input[0]):
                before, zero = into_levels.input[0], constants[into_levels.input[2]]
                # levels from zero up are the ReLU too, which the graph does not have beside them
                kept[before] = before if numpy_helper.to_array(zero) else f"{before}_relu"
                node.input[place] = kept[before]
    for before, after in kept.items():
        if after != before:
            place = next(at for at, node in enumerate(nodes) if before in node.output)
            nodes.insert(place + 1, onnx.helper.make_node("Relu", [before], [after], name=after))
    onnx.save(model, path)
    shown = pixels[:PICTURES]
    centre_logits(path, mean_logits(rounded, shown), shown)


def _rounding_of(made_by: dict[str, onnx.NodeProto], name: str) -> onnx.NodeProto | None:
    """The QuantizeLinear whose levels DequantizeLinear gives under this name, if that is what it is."""
    back = made_by.get(name)
    if back is None or back.op_type != "DequantizeLinear":
        return None
    into_levels = made_by.get(back.input[0])
    return into_levels if into_levels is not None and into_levels.op_type == "QuantizeLinear" else None


def _is_sum(made_by: dict[str, onnx.NodeProto], name: str) -> bool:
    return name in made_by and made_by[name].op_type == "Add"
