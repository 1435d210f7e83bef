"""Where INT8 loses what: the error of each layer of a quantised graph against the same layer in f32."""

from __future__ import annotations

import csv
import importlib
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from anabranch.disk import replacing_file
from anabranch.engines import onnxruntime
from anabranch.export.int8 import prepare
from anabranch.export.onnx import INPUT, OUTPUT


class Layer(NamedTuple):
    """A layer's output that is held in INT8, or the logits. Errors are lengths, over the output's length in f32."""

    name: str  # of the module whose weights come last before it
    operation: str  # ONNX's
    own: float  # by its rounding alone; the logits are not rounded
    grown: float  # with all that it takes in from the layers before it


def layer_errors(f32: Path, int8: Path, pixels: NDArray[np.uint8]) -> list[Layer]:
    """The layers in their order, measured on `pixels` (M, S, S, 3): a few, as all outputs are held at once.

    Raises MissingExtra.
    """
    onnxruntime()
    debug = importlib.import_module("onnxruntime.quantization.qdq_loss_debug")
    with tempfile.TemporaryDirectory() as scratch:
        prepared = prepare(f32, Path(scratch) / "prepared.onnx")
        outputs = []
        for path in (int8, prepared):
            shown = Path(scratch) / f"{path.stem}.shown.onnx"
            debug.modify_model_output_intermediate_tensors(path, shown, save_as_external_data=True)
            outputs.append(debug.collect_activations(str(shown), [{INPUT: np.ascontiguousarray(pixels)}]))
        places = _places(onnx.load(prepared, load_external_data=False))
    matched = debug.create_activation_matching(*outputs)
    held = {tensor: matched[tensor] for tensor in places if "float" in matched.get(tensor, {})}
    rounded, exact = (each[OUTPUT] for each in outputs)
    return [
        *(
            Layer(*places[tensor], _own(places[tensor][1], each), _apart(each["float"], each["post_qdq"]))
            for tensor, each in held.items()
        ),
        Layer(*places[OUTPUT], 0.0, _apart(exact, rounded)),
    ]


def write_layers(f32: Path, int8: Path, pixels: NDArray[np.uint8], path: Path) -> None:
    """`layer_errors` as a CSV file, a row a layer. Raises MissingExtra, CheckpointError."""
    with replacing_file(path) as made, made.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["layer", "operation", "own error", "grown error"])
        for each in layer_errors(f32, int8, pixels):
            rows.writerow([each.name, each.operation, f"{each.own:.5f}", f"{each.grown:.5f}"])


def _places(model: onnx.ModelProto) -> dict[str, tuple[str, str]]:
    """Of each tensor, in their order: the module that was met last on the way to it, and what computes it."""
    places: dict[str, tuple[str, str]] = {}
    modules = [INPUT]
    for node in model.graph.node:
        own = [name.removesuffix(".weight") for name in node.input if name.endswith(".weight")]
        modules += own
        taken = [places[name][0] for name in node.input if name in places]
        places.update({name: (max(own or taken or [INPUT], key=modules.index), node.op_type) for name in node.output})
    return places


def _own(operation: str, held: Mapping[str, Sequence[NDArray[np.float32]]]) -> float:
    """A ReLU is done by the rounding itself, which knows no negative values: it counts for no error."""
    before = [np.maximum(each, 0) for each in held["pre_qdq"]] if operation == "Relu" else held["pre_qdq"]
    return _apart(before, held["post_qdq"])


def _apart(wanted: Sequence[NDArray[np.float32]], met: Sequence[NDArray[np.float32]]) -> float:
    a, b = (np.concatenate([each.ravel() for each in tensors]).astype(np.float64) for tensors in (wanted, met))
    length = math.sqrt(float(a @ a))
    return math.sqrt(float((b - a) @ (b - a))) / length if length else 0.0
