"""A net written as the files of each format, and what the card must say about its weights."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from anabranch.artefact import described
from anabranch.card import ANY_SIZE, FEATURES, Graph
from anabranch.disk import want_room
from anabranch.errors import ExportError, UsageError, nearest
from anabranch.export.any_size import write_any_size
from anabranch.export.eager import write_torch
from anabranch.export.executorch import write_executorch
from anabranch.export.graph import PixelsToFeatures, PixelsToLogits
from anabranch.export.groups import FOR_ONNXRUNTIME, widen_groups
from anabranch.export.int8 import write_int8
from anabranch.export.layers import write_layers
from anabranch.export.litert import write_litert
from anabranch.export.mnn import write_mnn
from anabranch.export.ncnn import write_ncnn
from anabranch.export.onnx import write_onnx
from anabranch.export.openvino import write_openvino
from anabranch.export.sums import keep_sums
from anabranch.export.tensorrt import write_tensorrt
from anabranch.images.preprocess import Preprocess
from anabranch.nets.net import Net
from anabranch.nets.store import tensors_sha256

FORMATS = ("openvino", "onnx", "tensorrt", "torch", "ncnn", "mnn", "executorch", "litert")
IN_INT8 = ("openvino", "onnx", "tensorrt")
IN_FLOAT_SUMS = ("openvino", "onnx")

_SHOWN_TO_LAYERS = 4  # pictures, all of whose activations are held at once
STORED = ("f32", "f16")


def write_graphs(
    net: Net,
    folder: Path,
    *,
    preprocess: Preprocess,
    formats: Iterable[str],
    stored: str = "f32",
    precisions: Collection[str] = ("f32",),
    calibration: NDArray[np.uint8] | None = None,
    rounded: Path | None = None,
    layers: Path | None = None,
    backbone: bool = False,
    any_size: bool = False,
) -> dict[str, dict[str, Graph]]:
    """Write the graphs of `net` in each format, f32 or int8 or both, and give what the card says of the files.

    Formats that know no int8 are written in f32. `stored` = f16 halves OpenVINO's f32 files; all others hold f32. What
    is int8 has its ranges from `calibration`, pictures (M, S, S, 3), on a few of which each of its layers' error is
    measured for the file `layers`; its ONNX file is written to `rounded` too. `backbone` adds the graph of its
    features, `any_size` OpenVINO's graphs that resize and crop. The net must be float32 on the CPU; it stays as it
    is, and a failure leaves nothing in `folder`.
    Raises UsageError, ExportError, MissingExtra.
    """
    formats = known_formats(formats, stored)
    _check(net)
    weights_bytes = sum(tensor.nbytes for tensor in net.state_dict().values())  # in an ONNX file and one made of it
    want_room(
        folder.parent,
        (2 + 2 * backbone + any_size) * weights_bytes,
        error=ExportError,
        otherwise="choose another place",
    )
    files: dict[str, dict[str, Graph]] = {name: {} for name in formats}
    graph = PixelsToLogits(net, preprocess)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".graphs.") as scratch:
        made = Path(scratch)
        onnx_files = {"f32": write_onnx(graph, made / "f32.onnx", size_px=preprocess.crop_px)}
        if "int8" in precisions:
            assert calibration is not None
            onnx_files["int8"] = write_int8(made / "f32.onnx", made / "int8.onnx", calibration)
            if rounded is not None:
                shutil.copyfile(made / "int8.onnx", rounded)
            if layers is not None:
                write_layers(made / "f32.onnx", made / "int8.onnx", calibration[:_SHOWN_TO_LAYERS], layers)
        for precision in precisions:
            if "openvino" in formats:
                kept = stored if precision == "f32" else precision
                names = write_openvino(made / f"{precision}.onnx", made / f"{precision}.xml", stored=kept)
                files["openvino"][precision] = Graph(kept, described(made, names))
            if "onnx" in formats:
                if precision == "int8":
                    widen_groups(made / "int8.onnx", FOR_ONNXRUNTIME)
                files["onnx"][precision] = Graph(precision, described(made, onnx_files[precision]))
            if "tensorrt" in formats:
                source = made / "f32.onnx"
                names = []
                if precision == "int8":
                    assert calibration is not None
                    source = made / "int8-tensorrt.onnx"  # kept: other engines run it where there is no GPU
                    names = write_int8(made / "f32.onnx", source, calibration, symmetric=True)
                names = [*write_tensorrt(source, made / f"{precision}.engine"), *names]
                files["tensorrt"][precision] = Graph(precision, described(made, names))
            if any_size:
                path = made / f"{ANY_SIZE[precision]}.xml"
                names = write_any_size(made / f"{precision}.xml", path, preprocess, halved=kept == "f16")
                files["openvino"][ANY_SIZE[precision]] = Graph(kept, described(made, names))
        if backbone:
            names = write_onnx(PixelsToFeatures(net, preprocess), made / "features.onnx", size_px=preprocess.crop_px)
            if "onnx" in formats:
                files["onnx"][FEATURES] = Graph("f32", described(made, names))
            if "openvino" in formats:
                names = write_openvino(made / "features.onnx", made / "features.xml", stored=stored)
                files["openvino"][FEATURES] = Graph(stored, described(made, names))
        for name in (each for each in formats if each not in IN_INT8):
            names = _written(name, graph, net, made / "f32.onnx", size_px=preprocess.crop_px)
            files[name]["f32"] = Graph("f32", described(made, names))
        for graphs in files.values():
            for name in (name for graph in graphs.values() for name in graph.files):
                (made / name).rename(folder / name)
    return files


def write_float_sums(
    rounded: Path,
    folder: Path,
    *,
    kind: str,
    graphs: Mapping[str, Graph],
    preprocess: Preprocess,
    calibration: NDArray[np.uint8],
) -> dict[str, Graph]:
    """Write a format's INT8 files in `folder` anew, with the sums between blocks in f32, and give all that it holds.

    rounded, calibration: of `write_graphs`; kind: one of IN_FLOAT_SUMS; graphs: what that format holds already.
    """
    source = rounded.with_name("float-sums.onnx")
    if not source.exists():  # or another format came first
        keep_sums(rounded, source, calibration)
    if kind == "onnx":
        shutil.copyfile(source, folder / "int8.onnx")
        widen_groups(folder / "int8.onnx", FOR_ONNXRUNTIME)
        return {**graphs, "int8": Graph("int8", described(folder, ["int8.onnx"]), float_sums=True)}
    names = write_openvino(source, folder / "int8.xml", stored="int8")
    written = {"int8": Graph("int8", described(folder, names), float_sums=True)}
    if (any_size := ANY_SIZE["int8"]) in graphs:
        names = write_any_size(folder / "int8.xml", folder / f"{any_size}.xml", preprocess, halved=False)
        written[any_size] = Graph("int8", described(folder, names), float_sums=True)
    return {**graphs, **written}


def _written(name: str, graph: PixelsToLogits, net: Net, onnx_path: Path, *, size_px: int) -> list[str]:
    """Write the files of a format beside the ONNX file, and give their names."""
    if name == "torch":
        return write_torch(net, onnx_path.parent)
    if name == "ncnn":
        return write_ncnn(onnx_path, size_px=size_px)
    if name == "mnn":
        return write_mnn(onnx_path)
    if name == "executorch":
        return write_executorch(graph, onnx_path.parent, size_px=size_px)
    assert name == "litert"
    return write_litert(graph, onnx_path.parent, size_px=size_px)


def weights_sha256(net: torch.nn.Module) -> str:
    """The hash of every learned tensor: it says whether two nets are the same whatever file they came from.

    Batch norm's count of batches is left out: no answer depends on it, and some publishers drop it.
    """
    state = net.state_dict()
    return tensors_sha256({name: state[name] for name in state if not name.endswith("num_batches_tracked")})


def known_formats(formats: Iterable[str], stored: str) -> tuple[str, ...]:
    """Each once. Raises UsageError for one that is not known, none at all, and a way to store that none of them has."""
    asked = tuple(dict.fromkeys(formats))
    for name in asked:
        if name not in FORMATS:
            raise UsageError(
                f"no format is called {name!r}; the nearest is {nearest(name, FORMATS)[0]}. "
                f"There are {', '.join(FORMATS)}"
            )
    if not asked:
        raise UsageError(f"no format was asked for; there are {', '.join(FORMATS)}")
    if stored not in STORED:
        raise UsageError(f"stored = {stored!r} is not a way to store weights; there are {', '.join(STORED)}")
    if stored != "f32" and "openvino" not in asked:
        raise UsageError(f"stored = {stored!r} is for OpenVINO's files; ask for the format openvino too, or for f32")
    return asked


def _check(net: Net) -> None:
    for name, tensor in net.state_dict().items():
        if tensor.device.type != "cpu" or (tensor.is_floating_point() and tensor.dtype != torch.float32):
            raise ExportError(
                f"{name} is {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}; "
                "an export wants float32 on the CPU: net.float().cpu()"
            )
        if not torch.isfinite(tensor).all():
            raise ExportError(f"{name} holds a value that is not finite; such a net has no answers to export")
    channels = net.stem.get_submodule("conv1").get_submodule("conv").get_parameter("weight").shape[1]
    if channels != 3:
        raise ExportError(f"the net takes {channels} channels; an export wants one of 3, for RGB pictures")
