"""OpenVINO's graph with resize and crop in front, for servers and programs that only decode.

To resize is to multiply by a matrix on either side, whose rows hold how much each stored pixel counts. OpenVINO's own
Interpolate prepares itself for each size of pictures anew: 50 s and 2 GB for one of 12 megapixels, 30 MB kept for one
of 0.2. The matrices are computed in the graph, and take half a second for the one; what is kept of them ends at 400 MB,
however many sizes come.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from anabranch.engines import openvino, openvino_core
from anabranch.errors import ExportError, UsageError
from anabranch.images.preprocess import Preprocess

_RESAMPLERS = ("pillow-bilinear", "pillow-bicubic", "opencv-bilinear")
_CUBE_COEFF = -0.5  # of Pillow's bicubic


def check_any_size(preprocess: Preprocess) -> None:
    """Raises UsageError for a preprocessing that OpenVINO's graphs cannot do as it is done here."""
    if preprocess.resampler not in _RESAMPLERS:
        raise UsageError(f"no graph resizes as {preprocess.resampler} does; export without --any-size")
    if preprocess.resize_px < preprocess.crop_px:
        raise UsageError(
            f"resize_px = {preprocess.resize_px} is below crop_px = {preprocess.crop_px}, and a graph of any size does "
            "not pad; export without --any-size"
        )


def write_any_size(fixed: Path, path: Path, preprocess: Preprocess, *, halved: bool) -> list[str]:
    """Write `path` (.xml) and its .bin: the graph `fixed` for pictures (N, H, W, 3) uint8 RGB of one size, any H and W.

    Sizes are computed in whole numbers and come out as `Preprocess` has them, but for paddleclas where the longer side
    ends in a half and its scale, a float, is a hair off: there they differ by a pixel. Pixels come out within a grey
    level, nearly all of them exactly; not where pictures are so tall that Pillow begins with their rows: there a
    quarter differ, and at hard edges by more where the filter is bicubic. `halved` stores f32 weights as f16. Gives
    both names.
    """
    ov, op = openvino(), importlib.import_module("openvino.opset13")
    model = openvino_core().read_model(fixed)
    pictures = op.parameter([-1, -1, -1, 3], ov.Type.u8, name="pictures")
    pictures.output(0).set_names({"pictures"})
    (pixels,) = model.get_parameters()
    cropped = _Resizing(op, preprocess).cropped(pictures).output(0)
    for consumer in pixels.output(0).get_target_inputs():
        consumer.replace_source_output(cropped)
    model.add_parameters([pictures])
    model.remove_parameter(pixels)
    model.validate_nodes_and_infer_types()
    try:
        ov.save_model(model, path, compress_to_fp16=halved)
    except RuntimeError as error:  # such as a full disk
        raise ExportError(f"{path}: OpenVINO cannot write it ({str(error).splitlines()[-1]})") from None
    return [path.name, path.with_suffix(".bin").name]


class _Resizing:
    """What resizes and crops by the rules of a `Preprocess`, of the operations `op`. Whole numbers are scalars."""

    def __init__(self, op: Any, preprocess: Preprocess):
        self.op = op
        self.preprocess = preprocess

    def cropped(self, pictures: Any) -> Any:
        """(N, H, W, 3) -> (N, S, S, 3), both uint8."""
        op, (height, width) = self.op, self._stored(pictures)
        shorter = op.minimum(height, width)
        rows, columns = self._weights(height, shorter), self._weights(width, shorter)
        planes = op.convert(op.transpose(pictures, _ints(op, 0, 3, 1, 2)), "f32")
        narrowed = op.matmul(planes, columns, transpose_a=False, transpose_b=True)
        if self.preprocess.resampler.startswith("pillow-"):  # between its two passes it holds grey levels
            narrowed = self._levels(narrowed)
        square = self._levels(op.matmul(rows, narrowed, transpose_a=False, transpose_b=False))
        return op.transpose(op.convert(square, "u8"), _ints(op, 0, 2, 3, 1))

    def _stored(self, pictures: Any) -> tuple[Any, Any]:
        """Height and width."""
        sizes = self.op.split(self.op.shape_of(pictures, "i32"), _int(self.op, 0), 4)
        height, width = (self.op.squeeze(sizes.output(axis), _ints(self.op, 0)) for axis in (1, 2))
        return height, width

    def _weights(self, stored: Any, shorter: Any) -> Any:
        """(S, stored): how much each stored pixel of a side counts for each pixel of the crop."""
        op = self.op
        resized = self._resized(stored, shorter)
        zero, one, two = (_int(op, number) for number in (0, 1, 2))
        pixels = op.range(zero, stored, one, "i32")
        crop = op.add(op.range(zero, _int(op, self.preprocess.crop_px), one, "i32"), self._start(resized))
        # from centre to centre, over the width of the filter, in whole numbers up to the division
        across = op.multiply(op.add(op.multiply(pixels, two), one), resized)
        down = op.multiply(op.add(op.multiply(crop, two), one), stored)
        apart = op.subtract(op.unsqueeze(across, zero), op.unsqueeze(down, one))
        widened = self.preprocess.resampler.startswith("pillow-")  # where it shrinks
        width = op.multiply(op.maximum(stored, resized) if widened else resized, two)
        weights = self._filter(op.absolute(op.divide(op.convert(apart, "f32"), op.convert(width, "f32"))))
        return op.divide(weights, op.reduce_sum(weights, _ints(op, 1), keep_dims=True))

    def _filter(self, x: Any) -> Any:
        """The resampler's, of distances."""
        op = self.op
        if self.preprocess.resampler.endswith("-bilinear"):
            return op.relu(op.subtract(_float(op, 1), x))

        def polynomial(*coefficients: float) -> Any:
            value = _float(op, coefficients[0])
            for each in coefficients[1:]:
                value = op.add(op.multiply(value, x), _float(op, each))
            return value

        a = _CUBE_COEFF
        near, far = polynomial(a + 2, -a - 3, 0, 1), polynomial(a, -5 * a, 8 * a, -4 * a)
        beyond = op.select(op.less(x, _float(op, 2)), far, _float(op, 0))
        return op.select(op.less(x, _float(op, 1)), near, beyond)

    def _levels(self, values: Any) -> Any:
        return self.op.clamp(self.op.floor(self.op.add(values, _float(self.op, 0.5))), 0.0, 255.0)

    def _start(self, resized: Any) -> Any:
        """First pixel of the crop: `Preprocess.crop_start`."""
        op, two = self.op, _int(self.op, 2)
        beyond = op.subtract(resized, _int(op, self.preprocess.crop_px))
        start = op.divide(beyond, two)
        if self.preprocess.rounding == "paddleclas":
            return start
        return op.add(start, op.multiply(op.floor_mod(beyond, two), op.floor_mod(start, two)))  # halves go to the even

    def _resized(self, stored: Any, shorter: Any) -> Any:
        """A side after resizing: `Preprocess.resized`."""
        op, px = self.op, _int(self.op, self.preprocess.resize_px)
        if self.preprocess.fit == "squash":
            return px
        scaled = op.multiply(stored, px)
        whole = op.divide(scaled, shorter)
        if self.preprocess.rounding == "torchvision":
            return whole
        rest = op.subtract(scaled, op.multiply(whole, shorter))
        odd = op.floor_mod(whole, _int(op, 2))  # halves go to the even number
        more = op.greater(op.add(op.multiply(rest, _int(op, 2)), odd), shorter)
        return op.add(whole, op.convert(more, "i32"))


def _int(op: Any, number: int) -> Any:
    return op.constant(np.int32(number))


def _ints(op: Any, *numbers: int) -> Any:
    return op.constant(np.array(numbers, np.int32))


def _float(op: Any, number: float) -> Any:
    return op.constant(np.float32(number))
