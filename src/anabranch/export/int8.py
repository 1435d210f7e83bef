"""The graph in INT8: weights for each output channel, activations for each tensor, by the ranges met on pictures.

ONNX Runtime's static quantisation. OpenVINO's files are made from the same graph, so that both engines compute alike.
"""

from __future__ import annotations

import importlib
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from anabranch.engines import onnxruntime
from anabranch.export.bias import correct_biases
from anabranch.export.groups import FOR_OPENVINO, widen_groups
from anabranch.export.ranges import find_ranges


def write_int8(f32: Path, path: Path, pixels: NDArray[np.uint8], *, symmetric: bool = False) -> list[str]:
    """Write the ONNX file `path`: that of `f32`, with QuantizeLinear and DequantizeLinear around what becomes INT8.

    pixels: (M, S, S, 3), pictures of the kind that will be asked about; a few hundred show the ranges. Activations
    become u8: after a ReLU, s8 would leave half of its levels unused. Weights become s8 of 7 bits, -64 to 64: without
    VNNI a processor adds two products of u8 and s8 in 16 bits, where those of 8 bits overflow in silence. Logits are
    not rounded: one picture with large ones would leave the others a few levels. `symmetric`: activations of s8 around
    zero, weights of 8 bits and biases in f32, for TensorRT. Gives the names of the files written. Raises MissingExtra.
    """
    onnxruntime()
    quantization = importlib.import_module("onnxruntime.quantization")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".int8.") as scratch:
        prepared = prepare(f32, Path(scratch) / "prepared.onnx")
        found = {
            name: (np.array(low, np.float32), np.array(high, np.float32))
            for name, (low, high) in find_ranges(prepared, pixels, symmetric=symmetric).items()
        }
        ranges = quantization.calibrate.TensorsData(quantization.CalibrationMethod.MinMax, found)
        quantization.calibrate.save_tensors_data(ranges, Path(scratch) / "ranges.json")
        with _no_word_of_biases():
            quantization.quantize_static(
                prepared,
                path,
                calibration_cache_path=Path(scratch) / "ranges.json",
                per_channel=True,
                reduce_range=not symmetric,
                activation_type=quantization.QuantType.QInt8 if symmetric else quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                extra_options={
                    "OpTypesToExcludeOutputQuantization": ["Gemm"],
                    **({"ActivationSymmetric": True, "QuantizeBias": False} if symmetric else {}),
                },
            )
        _forget_unused_domains(path)
        correct_biases(prepared, path, pixels, symmetric=symmetric)
    if not symmetric:
        widen_groups(path, FOR_OPENVINO)
    return [path.name]


@contextmanager
def _no_word_of_biases() -> Iterator[None]:
    """ONNX Runtime warns of biases whose levels 32 bits do not hold, for which `correct_biases` makes room."""

    def is_another(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Quantized bias")

    root = logging.getLogger()
    root.addFilter(is_another)
    try:
        yield
    finally:
        root.removeFilter(is_another)


def _forget_unused_domains(path: Path) -> None:
    """ONNX Runtime names its own operations' domains whether they are used or not, which older ones refuse to read."""
    model = onnx.load(path)
    used = {node.domain for node in model.graph.node}
    kept = [each for each in model.opset_import if each.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    onnx.save(model, path)


def prepare(f32: Path, path: Path) -> Path:
    """Write the f32 graph with the names that its INT8 twin has, and give its path."""
    beyond_protobuf = any(f32.parent.glob(f"{f32.name}.data"))  # the limit of one message
    quantization = importlib.import_module("onnxruntime.quantization")
    quantization.quant_pre_process(f32, path, save_as_external_data=beyond_protobuf)
    return path
