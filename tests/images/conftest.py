"""A corpus of odd pictures, each with the answer that `decode` owes it."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Pixels = np.ndarray


@dataclass(frozen=True)
class Odd:
    """A file's bytes, and the pixels that it holds or a piece of the sentence that refuses it."""

    data: bytes
    pixels: Pixels | None = None
    refusal: str | None = None


def photo(height: int = 37, width: int = 53) -> Pixels:
    """Something between a gradient and noise, so that neither JPEG nor a palette is trivial."""
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x * y) % 256], axis=-1)
    noise = np.random.default_rng(height * 10_000 + width).integers(-20, 21, (height, width, 3))
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def as_pillow_reads(data: bytes) -> Pixels:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def jpeg(pixels: Pixels, **options: object) -> bytes:
    return saved(Image.fromarray(pixels), "JPEG", **options)


def _bombs() -> dict[str, bytes]:
    """Headers that promise 60000 x 60000 pixels (WEBP cannot say more than 16384), with nothing or little behind."""
    side = 60_000
    plain = bytearray(jpeg(np.zeros((16, 16, 3), np.uint8)))
    frame = plain.index(b"\xff\xc0")
    plain[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    progressive = bytearray(jpeg(np.zeros((16, 16, 3), np.uint8), progressive=True))
    frame = progressive.index(b"\xff\xc2")
    progressive[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    cmyk = bytearray(saved(Image.new("CMYK", (16, 16)), "JPEG"))
    frame = cmyk.index(b"\xff\xc0")
    cmyk[frame + 5 : frame + 9] = struct.pack(">HH", side, side)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = zlib.compress(bytes(1 + 3 * side) * 100, 9)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    png += chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    gif = bytearray(saved(Image.new("P", (16, 16)), "GIF"))
    gif[6:10] = struct.pack("<HH", side, side)
    gif_frame = bytearray(saved(Image.new("P", (16, 16)), "GIF"))
    start = gif_frame.index(b"\x2c")  # the first frame's own size, beyond the screen's
    gif_frame[start + 5 : start + 9] = struct.pack("<HH", side, side)
    bmp = bytearray(saved(Image.new("RGB", (16, 16)), "BMP"))
    bmp[18:26] = struct.pack("<ii", side, side)
    tiff = bytearray(saved(Image.new("RGB", (16, 16)), "TIFF"))
    for tag in (256, 257):  # ImageWidth and ImageLength
        entry = tiff.index(struct.pack("<HH", tag, 4)) if struct.pack("<HH", tag, 4) in tiff else None
        if entry is None:
            entry = tiff.index(struct.pack("<HHI", tag, 3, 1))
            tiff[entry + 2 : entry + 4] = struct.pack("<H", 4)
        tiff[entry + 8 : entry + 12] = struct.pack("<I", side)
    most = 16_383
    body = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (most - 1).to_bytes(3, "little") * 2
    body += b"VP8L" + struct.pack("<I", 6) + b"\x2f" + struct.pack("<I", (most - 1) | (most - 1) << 14) + b"\0"
    webp = b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
    return {
        "bomb.jpg": bytes(plain),
        "bomb-progressive.jpg": bytes(progressive),
        "bomb-cmyk.jpg": bytes(cmyk),
        "bomb.png": png,
        "bomb.gif": bytes(gif),
        "bomb-frame.gif": bytes(gif_frame),
        "bomb.bmp": bytes(bmp),
        "bomb.tif": bytes(tiff),
        "bomb.webp": webp,
    }


def _jpegs(pixels: Pixels) -> dict[str, Odd]:
    grey = Image.fromarray(pixels[..., 0])
    cmyk = Image.fromarray(pixels).convert("CMYK")
    rotated = Image.Exif()
    rotated[0x0112] = 6
    made = {
        "444.jpg": jpeg(pixels, subsampling=0),
        "422.jpg": jpeg(pixels, subsampling=1),
        "420.jpg": jpeg(pixels, subsampling=2),
        "progressive.jpg": jpeg(pixels, progressive=True),
        "restarts.jpg": jpeg(pixels, restart_marker_blocks=2),
        "grey.jpg": saved(grey, "JPEG"),
        "grey-progressive.jpg": saved(grey, "JPEG", progressive=True),
        "rgb-stored.jpg": jpeg(pixels, keep_rgb=True),
        "cmyk-adobe-inverted.jpg": saved(cmyk, "JPEG"),  # Pillow writes Adobe's marker, and inverted values with it
        "cmyk-progressive.jpg": saved(cmyk, "JPEG", progressive=True),
        "exif-rotated.jpg": jpeg(pixels, exif=rotated),
        "two-pictures.jpg": saved(Image.fromarray(pixels), "MPO", save_all=True, append_images=[grey.convert("RGB")]),
        "wide.jpg": jpeg(photo(1, 4000)),
        "tall.jpg": jpeg(photo(4000, 1)),
        "one.jpg": jpeg(photo(1, 1)),
    }
    without = made["cmyk-adobe-inverted.jpg"]
    marker = without.index(b"\xff\xee")
    length = int.from_bytes(without[marker + 2 : marker + 4], "big")
    made["cmyk-plain.jpg"] = without[:marker] + without[marker + 2 + length :]
    scan = made["420.jpg"].index(b"\xff\xc4")
    made["stray-bytes.jpg"] = made["420.jpg"][:scan] + b"\0\0\0" + made["420.jpg"][scan:]
    return {name: Odd(data, as_pillow_reads(data)) for name, data in made.items()}


def _lossless(pixels: Pixels) -> dict[str, Odd]:
    image = Image.fromarray(pixels)
    alpha = Image.fromarray((pixels[..., 1] // 2).astype(np.uint8))
    rgba = image.copy()
    rgba.putalpha(alpha)
    palette = image.quantize(32)
    colours = np.asarray(palette.convert("RGB"))
    grey = pixels[..., 0]
    bits = grey > 127
    triple = np.repeat(grey[..., None], 3, axis=2)
    deep = (grey.astype(np.uint16) << 8) | 0x5A
    la = Image.merge("LA", (Image.fromarray(grey), alpha))
    frames = [Image.fromarray(np.full_like(pixels, value)) for value in (40, 200)]
    first = np.full_like(pixels, 40)
    black_and_white = np.where(bits[..., None], np.uint8(255), np.uint8(0)).repeat(3, axis=2)
    turned = Image.Exif()
    turned[0x0112] = 8
    return {
        "rgb.png": Odd(saved(image, "PNG"), pixels),
        "rgb.bmp": Odd(saved(image, "BMP"), pixels),
        "rgb.tif": Odd(saved(image, "TIFF"), pixels),
        "lzw.tif": Odd(saved(image, "TIFF", compression="tiff_lzw"), pixels),
        "lossless.webp": Odd(saved(image, "WEBP", lossless=True), pixels),
        "rgba.png": Odd(saved(rgba, "PNG"), pixels),
        "rgba.tif": Odd(saved(rgba, "TIFF"), pixels),
        "rgba.webp": Odd(saved(rgba, "WEBP", lossless=True, exact=True), pixels),
        "grey.png": Odd(saved(Image.fromarray(grey), "PNG"), triple),
        "grey-alpha.png": Odd(saved(la, "PNG"), triple),
        "bits.png": Odd(saved(Image.fromarray(bits), "PNG"), black_and_white),
        "bits.tif": Odd(saved(Image.fromarray(bits), "TIFF", compression="group4"), black_and_white),
        "palette.png": Odd(saved(palette, "PNG"), colours),
        "palette-transparent.png": Odd(saved(palette, "PNG", transparency=3), colours),
        "palette-translucent.png": Odd(saved(palette, "PNG", transparency=bytes(range(0, 256, 8))), colours),
        "palette.gif": Odd(saved(palette, "GIF"), colours),
        "palette.bmp": Odd(saved(palette, "BMP"), colours),
        "grey-16.png": Odd(saved(Image.fromarray(deep), "PNG"), triple),
        "grey-16.tif": Odd(saved(Image.fromarray(deep), "TIFF"), triple),
        "grey-16-big-endian.tif": Odd(saved(Image.fromarray(deep.astype(">u2")), "TIFF"), triple),
        "animated.gif": Odd(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), first),
        "animated.webp": Odd(saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True), first),
        "animated.png": Odd(saved(frames[0], "PNG", save_all=True, append_images=frames[1:]), first),
        "pages.tif": Odd(saved(frames[0], "TIFF", save_all=True, append_images=frames[1:]), first),
        "exif-rotated.png": Odd(saved(image, "PNG", exif=turned), pixels),
        "turned.tif": Odd(saved(image, "TIFF", exif=turned), np.rot90(pixels)),
        "wide.png": Odd(saved(Image.fromarray(photo(1, 4000)), "PNG"), photo(1, 4000)),
        "tall.png": Odd(saved(Image.fromarray(photo(4000, 1)), "PNG"), photo(4000, 1)),
        "called.jpg": Odd(saved(image, "PNG"), pixels),
        "float.tif": Odd(saved(Image.fromarray(grey.astype(np.float32)), "TIFF"), refusal="no defined range"),
        "grey-32.tif": Odd(saved(Image.fromarray(grey.astype(np.int32)), "TIFF"), refusal="no defined range"),
        "strip.png": Odd(saved(Image.new("L", (4097, 1)), "PNG"), refusal="strip"),
    }


def _refused(pixels: Pixels) -> dict[str, Odd]:
    whole = jpeg(pixels)
    png = saved(Image.fromarray(pixels), "PNG")
    cut: dict[str, bytes] = {f"cut-{n}.jpg": whole[:n] for n in (3, 4, 20, 160, 600, len(whole) // 2, len(whole) - 200)}
    cut |= {f"cut-{n}.png": png[:n] for n in (8, 20, 33, 60, len(png) // 2, len(png) - 100)}
    for form in ("GIF", "BMP", "TIFF", "WEBP"):
        data = saved(Image.fromarray(pixels), form)
        cut |= {f"cut-{n}.{form.lower()}": data[:n] for n in (6, 12, 14, 30, len(data) // 2)}
    broken = bytearray(png)
    broken[len(png) // 2] ^= 0xFF
    samples = bytearray(saved(Image.fromarray(pixels), "TIFF"))
    entry = samples.index(struct.pack("<HHI", 277, 3, 1))  # SamplesPerPixel
    samples[entry + 8 : entry + 10] = struct.pack("<H", 18_436)
    made = {name: Odd(data, refusal="") for name, data in cut.items()}
    made |= {name: Odd(data, refusal="too many") for name, data in _bombs().items()}
    made |= {
        "flipped-byte.png": Odd(bytes(broken), refusal="damaged PNG"),
        "many-samples.tif": Odd(bytes(samples), refusal="damaged TIFF"),
        "empty.jpg": Odd(b"", refusal="empty"),
        "garbage.jpg": Odd(bytes(np.random.default_rng(5).integers(0, 256, 5000, np.uint8)), refusal="not a picture"),
        "text.jpg": Odd(b"These are not the pixels you are looking for.\n", refusal="starts with b'These are no"),
        "page.png": Odd(b"<!DOCTYPE html><html><body>404</body></html>", refusal="not a picture"),
        "drawing.svg": Odd(b"<svg xmlns='http://www.w3.org/2000/svg'/>", refusal="not a picture"),
        "no-size.gif": Odd(b"GIF89a" + bytes(7) + b"\x3b", refusal=""),
    }
    return made


@pytest.fixture(scope="session")
def corpus() -> dict[str, Odd]:
    pixels = photo()
    return {**_jpegs(pixels), **_lossless(pixels), **_refused(pixels)}


@pytest.fixture(scope="session")
def peak_mb() -> Callable[..., int]:
    """Run a script in a process of its own; the most memory that it held, in MB. What it writes to stderr fails."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak memory of a process is read from Linux's /proc")
    # not getrusage: it begins with what the parent held at the fork
    tail = (
        "\nfrom pathlib import Path as _P\nprint(_P('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
    )

    def measure(script: str, *arguments: object) -> int:
        command = [sys.executable, "-c", script + tail, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stderr == ""
        return int(done.stdout) // 1024

    return measure


@pytest.fixture(scope="session")
def make_photo() -> Callable[..., Pixels]:
    return photo
