"""The graph as OpenVINO's intermediate representation, made from the ONNX file: one graph for both engines."""

from __future__ import annotations

import importlib
from pathlib import Path

from anabranch.engines import openvino, openvino_core
from anabranch.errors import ExportError


def write_openvino(onnx_path: Path, path: Path, *, stored: str) -> list[str]:
    """Write `path` (.xml) and its .bin. `stored`: f32, f16 for files of half the size, int8. Gives both names.

    What the exporter wrote out as arithmetic on constants is computed here, once, instead of at every start; but not
    in INT8, whose weights are themselves such arithmetic.
    """
    ov = openvino()
    model = openvino_core().read_model(onnx_path)
    if stored != "int8":
        passes = importlib.import_module("openvino.passes")
        manager = passes.Manager()
        manager.register_pass(passes.ConstantFolding())
        manager.run_passes(model)
    try:
        ov.save_model(model, path, compress_to_fp16=stored == "f16")
    except RuntimeError as error:  # such as a full disk
        raise ExportError(f"{path}: OpenVINO cannot write it ({str(error).splitlines()[-1]})") from None
    return [path.name, path.with_suffix(".bin").name]
