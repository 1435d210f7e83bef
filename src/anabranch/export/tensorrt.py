"""Engines for NVIDIA's GPUs, built by TensorRT-RTX, which needs no GPU for that."""

from __future__ import annotations

from pathlib import Path

from anabranch.engines import tensorrt
from anabranch.errors import ExportError

_MOST = 32  # pictures at a time


def write_tensorrt(onnx_path: Path, path: Path) -> list[str]:
    """Write the engine `path` of an ONNX file with the input "pixels", for 1 to 32 pictures at a time.

    Types are the graph's: f32, or INT8 where it says so, with symmetric ranges and no biases in INT8. Gives its name.
    Raises MissingExtra, ExportError.
    """
    trt, logger, said = tensorrt()
    builder = trt.Builder(logger)
    network = builder.create_network()
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx_path)):
        raise ExportError(f"TensorRT cannot read the graph: {parser.get_error(0).desc()}")
    pixels = network.get_input(0)
    one, most = ((count, *tuple(pixels.shape)[1:]) for count in (1, _MOST))
    profile = builder.create_optimization_profile()
    profile.set_shape(pixels.name, one, one, most)
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    config.clear_flag(trt.BuilderFlag.TF32)  # f32 with 10 of its 23 bits
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise ExportError(f"TensorRT cannot build an engine: {said[-1] if said else 'it does not say why'}")
    path.write_bytes(built)
    return [path.name]
