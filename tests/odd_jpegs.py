"""JPEGs that encoders rarely write, put together from what Pillow and simplejpeg write. Source: ITU-T T.81, annex B."""

from __future__ import annotations

import io
import struct

import numpy as np
import simplejpeg
from PIL import Image


def in_scans(pixels: np.ndarray) -> bytes:
    """Baseline, without subsampling, but with a scan for each component, which is decoded as a whole."""
    planes = Image.fromarray(pixels).convert("YCbCr").split()
    grey = [_segments(_saved(plane)) for plane in planes]
    height, width = pixels.shape[:2]
    components = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    frame = struct.pack(">BHHB", 8, height, width, 3) + components
    data = b"\xff\xd8" + b"".join(_segment(0xDB, each) for each in grey[0][0xDB])
    data += _segment(0xC0, frame) + b"".join(_segment(0xC4, each) for each in grey[0][0xC4])
    for number, each in enumerate(grey, start=1):
        data += _segment(0xDA, bytes([1, number, 0, 0, 63, 0])) + each[0xDA][0]
    return data + b"\xff\xd9"


def upright_411(pixels: np.ndarray) -> bytes:
    """Of 8 x 32 pixels: 4:1:1, whose four blocks of luma are then said to stand on each other, as in 4:4:1."""
    assert pixels.shape == (8, 32, 3)
    data = bytearray(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), 90, "RGB", "411"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 32, 8)
    assert data[frame + 11] == 0x41
    data[frame + 11] = 0x14
    return bytes(data)


def _saved(plane: Image.Image) -> bytes:
    file = io.BytesIO()
    plane.save(file, "JPEG", quality=90)
    return file.getvalue()


def _segments(data: bytes) -> dict[int, list[bytes]]:
    """Each kind of segment with the contents of all of that kind; of a scan, what is coded in it."""
    found: dict[int, list[bytes]] = {}
    place = 2
    while data[place + 1] != 0xDA:
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        found.setdefault(data[place + 1], []).append(data[place + 4 : place + 2 + length])
        place += 2 + length
    coded = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    found[0xDA] = [data[coded : data.rindex(b"\xff\xd9")]]
    return found


def _segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content
