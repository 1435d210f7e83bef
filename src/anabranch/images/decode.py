"""One picture's bytes to uint8 (H, W, 3) RGB: the pixels of Pillow's `convert("RGB")`, within limits, or ImageError.

JPEG, PNG, WEBP, BMP, GIF and TIFF are read, told apart by their first bytes, not by their names. Plain JPEG (YCbCr or
grey) goes through simplejpeg, which gives Pillow's pixels faster; where it complains of anything, Pillow decides.

what comes                         what it gives
grey, 1 bit, YCbCr, CMYK           RGB, as Pillow converts it; Adobe's inverted CMYK is turned over, as Pillow does
palette, with or without alpha     its colours; alpha is dropped, as every zoo drops it
alpha (LA, RGBA)                   its colours; alpha is dropped, not laid over a background
16-bit grey                        the high byte, as OpenCV does and Pillow for 16-bit colour; Pillow's own clips at 255
32-bit and floating-point grey     ImageError: its range is unknown
several frames                     the first
EXIF orientation                   the pixels as stored; upright with `rotate_exif`. Pillow always turns a TIFF upright
empty, truncated, damaged, other   ImageError
sides beyond 1 : 4096              ImageError
more pixels than the limit         ImageError, from the header and before memory is taken

The limit is `max_pixels` for plain JPEG and less where a decoder needs more memory: see `_SHARE`. By default a picture
takes less than 300 MB to decode; `rotate_exif` copies it once more. A file of more than 80 MB is refused.
"""

from __future__ import annotations

import io
import logging
import math
import os
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray

from anabranch.errors import ImageError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

MAX_PIXELS = 50_000_000
MAX_ASPECT = 4096
MAX_FILE_BYTES = 80_000_000

_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
)
_PLUGINS = {
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "WEBP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
}
# Bytes held for each pixel while decoding, measured on 24 million: JPEG of one scan 3; of several up to 9; Pillow's
# formats 7 and the file; Pillow's JPEG up to 15 where it is progressive CMYK; its WEBP 16.
_SHARE = {
    "baseline": 1.0,
    "progressive": 0.5,
    "multi-scan": 0.5,
    "PNG": 0.5,
    "BMP": 0.5,
    "GIF": 0.5,
    "TIFF": 0.5,
    "JPEG": 0.3,
    "WEBP": 0.3,
}
_READABLE = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I;16", "I;16B"}
_STRIP_ROWS = 64
_ORIENTATION = 0x0112
_TURNS: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {  # EXIF 2.32, table 4.6.4, tag 274
    2: lambda picture: picture[:, ::-1],
    3: lambda picture: picture[::-1, ::-1],
    4: lambda picture: picture[::-1],
    5: lambda picture: picture.transpose(1, 0, 2),
    6: lambda picture: picture.transpose(1, 0, 2)[:, ::-1],
    7: lambda picture: picture[::-1, ::-1].transpose(1, 0, 2),
    8: lambda picture: picture.transpose(1, 0, 2)[::-1],
}
_unheard = logging.NullHandler()  # Pillow logs some damage that it also raises; without a handler, Python prints that
_filters = threading.Lock()  # those of `warnings` belong to the process: one thread at a time may set them aside


def decode(
    source: bytes | os.PathLike[str],
    *,
    rotate_exif: bool = False,
    max_pixels: int = MAX_PIXELS,
    at_least_px: int | None = None,
    name: str | None = None,
) -> NDArray[np.uint8]:
    """The picture in a file or in bytes: uint8 (H, W, 3), RGB. `name` is what an ImageError calls it.

    at_least_px: None for all pixels. Else plain JPEG is decoded at a half, a quarter or an eighth of its sides where
    both stay at least as long as that: sooner, and not the pixels that resizing gives.
    """
    if name is None:
        name = "<bytes>" if isinstance(source, bytes) else os.fspath(source)
    data = source if isinstance(source, bytes) else _read(Path(source), name)
    form = _form(data, name)
    picture = _plain_jpeg(data, max_pixels, at_least_px, name) if form == "JPEG" else None
    if picture is not None and not rotate_exif:
        return picture
    with _one_sentence(form, name):
        with _no_warnings():
            image = _opened(form, data)
        if picture is None:
            _check_size(*image.size, form, max_pixels, name)
            picture = _pixels(image, data, name)
        if rotate_exif and form != "TIFF":
            with _no_warnings():
                turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
            picture = np.ascontiguousarray(turn(picture)) if turn else picture
    return picture


def _read(path: Path, name: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{name}: this is a folder, not a picture") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise ImageError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return data


def _form(data: bytes, name: str) -> str:
    if not data:
        raise ImageError(f"{name}: the file is empty")
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"{name}: more than {MAX_FILE_BYTES:,} bytes, too large for a picture; scale it down first")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    for signature, form in _SIGNATURES:
        if data.startswith(signature):
            return form
    raise ImageError(
        f"{name}: not a picture: it starts with {data[:12]!r}; JPEG, PNG, WEBP, BMP, GIF or TIFF is wanted"
    )


def _plain_jpeg(data: bytes, max_pixels: int, at_least_px: int | None, name: str) -> NDArray[np.uint8] | None:
    """A YCbCr or grey JPEG of which simplejpeg has nothing to complain; None for any other, which is Pillow's."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, KeyError):  # KeyError: a subsampling that it has no name for
        return None
    if colours not in ("YCbCr", "Gray"):
        return None
    _check_size(int(width), int(height), _kind(data), max_pixels, name)
    factor = max([each for each in (1, 2, 4, 8) if min(width, height) >= each * (at_least_px or math.inf)], default=1)
    sides = {"min_height": -(-height // factor), "min_width": -(-width // factor)} if factor > 1 else {}
    try:
        picture: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "RGB", **sides)
    except ValueError:
        return None
    return picture


def _kind(data: bytes) -> str:
    """Baseline, or one of those that are decoded as a whole. Source: ITU-T T.81, B.2.2 and B.2.3."""
    place, colours = 2, 0
    while place + 4 < len(data):
        if data[place] != 0xFF:
            place += 1
            continue
        marker = data[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if marker not in (0xC0, 0xC1):
                return "progressive"
            colours = data[place + 9] if place + 9 < len(data) else 0
        if marker == 0xDA:  # the first scan
            return "baseline" if data[place + 4] >= colours else "multi-scan"
        if marker in (0xFF, 0x01) or 0xD0 <= marker <= 0xD8:  # fill, or a marker without a length
            place += 1 if marker == 0xFF else 2
            continue
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return "progressive"


def _check_size(width: int, height: int, kind: str, max_pixels: int, name: str) -> None:
    most = int(max_pixels * _SHARE[kind])
    if width < 1 or height < 1:
        raise ImageError(f"{name}: its header says {width} x {height} pixels: there is no picture in it")
    if width * height > most:
        raise ImageError(
            f"{name}: {width} x {height} pixels are too many: at most {most:,} are decoded in a {kind} "
            f"{'file' if kind.isupper() else 'JPEG'}; scale it down first"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(f"{name}: {width} x {height} pixels are a strip, not a picture: at most 1 : {MAX_ASPECT}")


@contextmanager
def _one_sentence(form: str, name: str) -> Iterator[None]:
    """Whatever Pillow raises becomes an ImageError."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        # On damaged files Pillow's readers raise OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError,
        # EOFError, OverflowError, struct.error, zlib.error, MemoryError and DecompressionBombError.
        raise ImageError(f"{name}: damaged {form}: {_why(error)}") from None


def _why(error: Exception) -> str:
    if isinstance(error, (SyntaxError, IndexError, TypeError, struct.error)):  # what `Image.open` does not recognise
        return "its header cannot be read; the file may be cut short"
    if type(error).__name__ == "DecompressionBombError":
        return "its header promises too many pixels"
    said = str(error).strip().splitlines() or [type(error).__name__]
    return said[0]


@contextmanager
def _no_warnings() -> Iterator[None]:
    with _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _opened(form: str, data: bytes) -> ImageFile:
    """The header, read. Not by `Image.open`, which judges the size by a process-wide limit before we can."""
    logging.getLogger("PIL").addHandler(_unheard)
    module, name = _PLUGINS[form]
    image: ImageFile = getattr(import_module(module), name)(io.BytesIO(data))
    return image


def _pixels(image: ImageFile, data: bytes, name: str) -> NDArray[np.uint8]:
    """Strip by strip, because Pillow holds four bytes a pixel, and a second whole copy would double them."""
    if image.mode not in _READABLE:
        raise ImageError(f"{name}: {image.mode} pixels have no defined range; save it with 8 or 16 bits a channel")
    may_warn = image.format == "TIFF" or b"acTL" in data  # as late as this; the others load side by side
    with _no_warnings() if may_warn else nullcontext():
        image.load()
    image.info.pop("transparency", None)  # it is dropped, and `convert` would warn of it
    width, height = image.size
    picture = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _STRIP_ROWS):
        strip = image.crop((0, top, width, min(top + _STRIP_ROWS, height)))
        if strip.mode.startswith("I;16"):
            picture[top : top + _STRIP_ROWS] = (np.asarray(strip) >> 8).astype(np.uint8)[:, :, None]
        else:
            picture[top : top + _STRIP_ROWS] = np.asarray(strip.convert("RGB"))
    return picture
