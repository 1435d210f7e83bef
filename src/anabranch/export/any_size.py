"""OpenVINO's graph with resize and crop in front, for servers and programs that only decode."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from anabranch.engines import openvino
from anabranch.errors import ExportError, UsageError
from anabranch.images.preprocess import Preprocess

_PILLOW = "pillow-"
_CUBE_COEFF = -0.5  # of Pillow's bicubic


def check_any_size(preprocess: Preprocess) -> None:
    """Raises UsageError for a preprocessing that OpenVINO's graphs cannot do as it is done here."""
    if not preprocess.resampler.startswith(_PILLOW):
        raise UsageError(f"OpenVINO does not resize as {preprocess.resampler} does; export without --any-size")
    if preprocess.resize_px < preprocess.crop_px:
        raise UsageError(
            f"resize_px = {preprocess.resize_px} is below crop_px = {preprocess.crop_px}, and a graph of any size does "
            "not pad; export without --any-size"
        )


def write_any_size(fixed: Path, path: Path, preprocess: Preprocess, *, halved: bool) -> list[str]:
    """Write `path` (.xml) and its .bin: the graph `fixed` for pictures (N, H, W, 3) uint8 RGB of one size, any H and W.

    Sizes are computed in whole numbers and come out as `Preprocess` has them, but for paddleclas where the longer side
    ends in a half and its scale, a float, is a hair off: there they differ by a pixel. Pixels come out within two grey
    levels, most of them exactly: Pillow rounds between rows and columns, and cuts off there what a bicubic filter
    overshoots at hard edges. `halved` stores f32 weights as f16. Gives both names.
    """
    ov, op = openvino(), importlib.import_module("openvino.opset13")
    model = ov.Core().read_model(fixed)
    pictures = op.parameter([-1, -1, -1, 3], ov.Type.u8, name="pictures")
    pictures.output(0).set_names({"pictures"})
    (pixels,) = model.get_parameters()
    for consumer in pixels.output(0).get_target_inputs():
        consumer.replace_source_output(_cropped(op, pictures, preprocess).output(0))
    model.add_parameters([pictures])
    model.remove_parameter(pixels)
    model.validate_nodes_and_infer_types()
    try:
        ov.save_model(model, path, compress_to_fp16=halved)
    except RuntimeError as error:  # such as a full disk
        raise ExportError(f"{path}: OpenVINO cannot write it ({str(error).splitlines()[-1]})") from None
    return [path.name, path.with_suffix(".bin").name]


def _cropped(op: Any, pictures: Any, preprocess: Preprocess) -> Any:
    """(N, H, W, 3) -> (N, S, S, 3), both uint8."""

    def ints(*numbers: int) -> Any:
        return op.constant(np.array(numbers, np.int32))

    two, crop = ints(2), ints(preprocess.crop_px)
    size = _resized(op, ints, pictures, preprocess)
    resized = op.interpolate(
        pictures,
        size,
        mode=f"{preprocess.resampler.removeprefix(_PILLOW)}_pillow",
        shape_calculation_mode="sizes",
        pads_begin=[0, 0],
        pads_end=[0, 0],
        cube_coeff=_CUBE_COEFF,
        axes=ints(1, 2),
    )
    beyond = op.subtract(size, crop)
    start = op.divide(beyond, two)
    if preprocess.rounding == "torchvision":  # halves go to the even number
        start = op.add(start, op.multiply(op.floor_mod(beyond, two), op.floor_mod(start, two)))
    return op.slice(resized, start, op.add(start, crop), ints(1, 1), ints(1, 2))


def _resized(op: Any, ints: Any, pictures: Any, preprocess: Preprocess) -> Any:
    """Height and width after resizing: `Preprocess.resized`, in whole numbers."""
    if preprocess.fit == "squash":
        return ints(preprocess.resize_px, preprocess.resize_px)
    stored = op.strided_slice(op.shape_of(pictures, "i32"), ints(1), ints(3), ints(1), [0], [0])
    short = op.reduce_min(stored, ints(0), keep_dims=True)
    scaled = op.multiply(stored, ints(preprocess.resize_px))
    whole = op.divide(scaled, short)
    if preprocess.rounding == "torchvision":
        return whole
    rest = op.subtract(scaled, op.multiply(whole, short))
    odd = op.floor_mod(whole, ints(2))  # halves go to the even number
    more = op.greater(op.add(op.multiply(rest, ints(2)), odd), short)
    return op.add(whole, op.convert(more, "i32"))
