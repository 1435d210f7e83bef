"""The graph for ncnn, converted by pnnx from the ONNX file."""

from __future__ import annotations

import subprocess
from pathlib import Path

import onnx

from anabranch.errors import ExportError, need
from anabranch.export.onnx import INPUT


def write_ncnn(onnx_path: Path, *, size_px: int) -> list[str]:
    """Write ncnn.param and ncnn.bin beside `onnx_path`, which takes uint8. Gives their names.

    ncnn knows no uint8: its graph takes the same pixels, 0 to 255, as float32 (S, S, 3), one picture at a time.
    Raises MissingExtra, ExportError.
    """
    path = onnx_path.with_name("ncnn.onnx")
    onnx.save(_taking_floats(onnx.load(onnx_path, load_external_data=False)), path)
    done = subprocess.run(
        [need("pnnx", extra="edge").EXEC_PATH, path.name, f"inputshape=[1,{size_px},{size_px},3]", "fp16=0"],
        cwd=path.parent,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    names = ["ncnn.param", "ncnn.bin"]
    for name in names:
        made = path.with_name(f"ncnn.{name}")
        if done.returncode != 0 or not made.is_file():
            said = (done.stderr or done.stdout).strip().splitlines()
            raise ExportError(f"pnnx cannot convert the graph for ncnn: {said[-1] if said else done.returncode}")
        made.rename(path.with_name(name))
    return names


def _taking_floats(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph without its first cast, from uint8."""
    (cast,) = (node for node in model.graph.node if node.op_type == "Cast")
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == cast.output[0]:
                node.input[place] = cast.input[0]
    model.graph.node.remove(cast)
    (pixels,) = (value for value in model.graph.input if value.name == INPUT)
    pixels.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    del model.graph.value_info[:]  # which tell the types as they were
    return model
