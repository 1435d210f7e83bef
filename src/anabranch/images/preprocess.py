"""From a picture of any size to the square of uint8 pixels that a net eats, by the rules of the zoo it came from.

The zoos agree on "resize, then crop the centre" and differ in everything below it:

rounding      longer side after resizing          crop starts at                 a picture smaller than the crop
torchvision   int(resize * long / short)          round((side - crop) / 2)       is padded with zeros
paddleclas    round(long * (resize / short))      (side - crop) // 2             is refused

`round` is Python's: halves go to the even neighbour. timm and mmpretrain compute as torchvision does, timm with
`resize_px = floor(crop_px / crop_pct)`. Pillow's resamplers widen their filter when they shrink a picture, OpenCV's do
not, which is why a checkpoint loses accuracy under the wrong one.

Sources: torchvision 0.28 `transforms/functional.py`, timm 1.0.31 `data/transforms_factory.py`, mmpretrain 1.2
`datasets/transforms/processing.py`, PaddleClas 2.6 `deploy/python/preprocess.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from anabranch.errors import ImageError, UsageError, nearest

if TYPE_CHECKING:  # a card or a catalogue is read without numpy, which costs more to import than both
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Resampling

Fit = Literal["shorter-side", "squash"]
Resampler = Literal["pillow-bilinear", "pillow-bicubic", "opencv-bilinear", "opencv-bicubic"]
Rounding = Literal["torchvision", "paddleclas"]
Colour = tuple[float, float, float]

IMAGENET_MEAN: Colour = (0.485, 0.456, 0.406)
IMAGENET_STD: Colour = (0.229, 0.224, 0.225)

_WHOLE_PX = (
    16_000_000  # the largest picture that is resized as a whole by Pillow, 64 MB: sides of up to 1 to 250 at 256
)
_MOST_PX = 65_535  # of a side, as in JPEG
_STRIP_ROWS = 256  # are narrowed at a time: of 64 to 1,000, the fewest milliseconds
_OPENCV_PX = 50_000_000  # and by OpenCV, 150 MB; it cannot resize a part


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """What stands between a decoded picture and a net. Raises UsageError where the values do not fit together.

    Calling it applies everything but `mean` and `std`: these are applied inside the exported graph.
    """

    crop_px: int  # side of the square that the net eats
    resize_px: int  # the shorter side before the crop; both sides where `fit` is "squash"
    fit: Fit = "shorter-side"
    resampler: Resampler = "pillow-bilinear"
    rounding: Rounding = "torchvision"
    mean: Colour = IMAGENET_MEAN  # of red, green and blue in 0..1
    std: Colour = IMAGENET_STD

    def __post_init__(self) -> None:
        for field in ("crop_px", "resize_px"):
            fits = _is_whole(getattr(self, field)) and 1 <= getattr(self, field) <= _MOST_PX
            self._want(fits, field, f"a whole number of pixels, 1 to {_MOST_PX:,}")
        for field, known in (("fit", Fit), ("resampler", Resampler), ("rounding", Rounding)):
            self._want(getattr(self, field) in get_args(known), field, f"one of {', '.join(get_args(known))}")
        self._want(_is_colour(self.mean), "mean", "three numbers in 0..1: red, green, blue")
        self._want(_is_colour(self.std) and min(self.std) > 0, "std", "three numbers above 0, at most 1")
        self._want(
            self.rounding != "paddleclas" or self.resize_px >= self.crop_px,
            "resize_px",
            f"at least crop_px = {self.crop_px}, because paddleclas does not pad",
        )

    def _want(self, holds: bool, field: str, wanted: str) -> None:
        if not holds:
            raise UsageError(f"preprocessing: {field} = {getattr(self, field)!r} does not fit: it must be {wanted}")

    def __call__(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) -> (crop_px, crop_px, 3), RGB. May be the picture itself, where nothing had to change.

        Raises UsageError for any other array, ImageError for a strip too narrow to be resized.
        """
        shape: tuple[int, ...] = getattr(picture, "shape", ())
        if len(shape) != 3 or shape[2] != 3 or str(picture.dtype) != "uint8" or 0 in shape:
            met = f"{picture.dtype} {shape}" if hasattr(picture, "dtype") else f"a {type(picture).__name__}"
            raise UsageError(f"a picture must be uint8 (H, W, 3), as images.decode.decode reads a file; this is {met}")
        height, width = self.resized(*picture.shape[:2])
        rows, columns = _Span.of(height, self), _Span.of(width, self)
        if (height, width) == picture.shape[:2]:
            square = picture[rows.first : rows.last, columns.first : columns.last]
        elif self.resampler.startswith("pillow-"):
            square = _resize_with_pillow(picture, rows, columns, self.resampler)
        else:
            square = _resize_with_opencv(picture, rows, columns, self.resampler)
        return _padded(square, self.crop_px)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing, before the crop."""
        if self.fit == "squash":
            return self.resize_px, self.resize_px
        short, long = min(height, width), max(height, width)
        if self.rounding == "paddleclas":
            scale = self.resize_px / short
            new_short, new_long = round(short * scale), round(long * scale)
        else:
            new_short, new_long = self.resize_px, int(self.resize_px * long / short)
        return (new_short, new_long) if height <= width else (new_long, new_short)

    def crop_start(self, side: int) -> int:
        """First row or column of the crop in a resized side of `side` pixels."""
        if side <= self.crop_px:
            return 0
        beyond = side - self.crop_px
        return beyond // 2 if self.rounding == "paddleclas" else round(beyond / 2)

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What an exported graph does first: (N, S, S, 3) -> (N, 3, S, S), (pixel / 255 - mean) / std."""
        import numpy as np

        scaled = pixels.astype(np.float32) / np.float32(255)
        normal = (scaled - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(normal.transpose(0, 3, 1, 2))  # (N, S, S, 3) -> (N, 3, S, S)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`. Raises UsageError for a key too many or too few, or a value that does not fit."""
        known = [field.name for field in fields(cls)]
        for key in said:
            if key not in known:
                raise UsageError(f"preprocessing: {key!r} is not known; did you mean {nearest(key, known)[0]!r}?")
        missing = [key for key in known if key not in said]
        if missing:
            raise UsageError(f"preprocessing: {', '.join(missing)} missing; give every one of {', '.join(known)}")
        colours = {key: tuple(said[key]) if isinstance(said[key], list) else said[key] for key in ("mean", "std")}
        return cls(**{**said, **colours})


@dataclass(frozen=True, slots=True)
class _Span:
    """Pixels [first, last) of a side that is resized to `side` pixels."""

    side: int
    first: int
    last: int

    @classmethod
    def of(cls, side: int, preprocess: Preprocess) -> Self:
        first = preprocess.crop_start(side)
        return cls(side, first, min(side, first + preprocess.crop_px))

    def scale(self, stored: int) -> float:
        """Pixels of the stored side for one of the resized."""
        return stored / self.side

    def seen(self, stored: int) -> tuple[int, int]:
        """The stored pixels that the span is computed from: Pillow's bicubic looks two pixels (of the larger) away."""
        scale = self.scale(stored)
        reach = 2 * max(1.0, scale) + 1
        return max(0, int(self.first * scale - reach)), min(stored, int(self.last * scale + reach) + 1)


def _resize_with_pillow(picture: NDArray[np.uint8], rows: _Span, columns: _Span, resampler: str) -> NDArray[np.uint8]:
    """`Image.resize`, then `Image.crop`: the same bits, except where the whole would become huge."""
    from PIL import Image

    method = Image.Resampling[resampler.removeprefix("pillow-").upper()]
    height, width = picture.shape[:2]
    if rows.side * columns.side > _WHOLE_PX:
        return _resize_window(picture, rows, columns, method)
    if height - rows.side > 2 * max(0, width - columns.side):  # Pillow begins with the rows: its PR 9549
        return _resize_whole(picture, rows, columns, method)
    return _resize_by_strips(picture, rows, columns, method)


def _resize_by_strips(picture: NDArray[np.uint8], rows: _Span, columns: _Span, method: Resampling) -> NDArray[np.uint8]:
    """To the columns that the crop shows first, as Pillow does, but from a strip of rows at a time.

    Pillow holds four bytes a pixel; a whole copy of 12 megapixels takes as long to make as to resize.
    """
    import numpy as np
    from PIL import Image

    height = picture.shape[0]
    top, bottom = rows.seen(height)
    narrowed = Image.new("RGB", (columns.last - columns.first, height))
    for first in range(top, bottom, _STRIP_ROWS):
        strip = Image.fromarray(picture[first : min(bottom, first + _STRIP_ROWS)])
        strip = strip.resize((columns.side, strip.height), method)
        narrowed.paste(strip.crop((columns.first, 0, columns.last, strip.height)), (0, first))
    resized = narrowed.resize((narrowed.width, rows.side), method)
    return np.asarray(resized.crop((0, rows.first, resized.width, rows.last)))


def _resize_whole(picture: NDArray[np.uint8], rows: _Span, columns: _Span, method: Resampling) -> NDArray[np.uint8]:
    import numpy as np
    from PIL import Image

    resized = Image.fromarray(picture).resize((columns.side, rows.side), method)
    return np.asarray(resized.crop((columns.first, rows.first, columns.last, rows.last)))


def _resize_window(picture: NDArray[np.uint8], rows: _Span, columns: _Span, method: Resampling) -> NDArray[np.uint8]:
    """Of what the crop shows alone. Float32's error in where the filter sits makes one grey level at most."""
    import numpy as np
    from PIL import Image

    height, width = picture.shape[:2]
    (top, bottom), (left, right) = rows.seen(height), columns.seen(width)
    y, x = rows.scale(height), columns.scale(width)
    box = (columns.first * x - left, rows.first * y - top, columns.last * x - left, rows.last * y - top)
    window = Image.fromarray(np.ascontiguousarray(picture[top:bottom, left:right]))
    return np.asarray(window.resize((columns.last - columns.first, rows.last - rows.first), method, box))


def _resize_with_opencv(picture: NDArray[np.uint8], rows: _Span, columns: _Span, resampler: str) -> NDArray[np.uint8]:
    import cv2
    import numpy as np

    if rows.side * columns.side > _OPENCV_PX:
        raise ImageError(
            f"a picture of {picture.shape[1]} x {picture.shape[0]} pixels is too narrow: {resampler} would make "
            f"{columns.side} x {rows.side} of it, and at most {_OPENCV_PX} pixels are allowed. Crop it first"
        )
    method = {"opencv-bilinear": cv2.INTER_LINEAR, "opencv-bicubic": cv2.INTER_CUBIC}[resampler]
    resized = cv2.resize(np.ascontiguousarray(picture), (columns.side, rows.side), interpolation=method)
    return np.asarray(resized, np.uint8)[rows.first : rows.last, columns.first : columns.last]


def _padded(square: NDArray[np.uint8], crop_px: int) -> NDArray[np.uint8]:
    """Zeros around a picture smaller than the crop, one more below and to the right where their number is odd."""
    import numpy as np

    short = [crop_px - side for side in square.shape[:2]]
    if short == [0, 0]:
        return np.ascontiguousarray(square)
    return np.pad(square, [(lack // 2, lack - lack // 2) for lack in short] + [(0, 0)])


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_colour(value: object) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 3
        and all((_is_whole(number) or isinstance(number, float)) and 0 <= number <= 1 for number in value)
    )
