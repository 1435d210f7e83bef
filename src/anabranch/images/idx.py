"""IDX files, the format of MNIST and of those that followed it, gzipped or not.

A header of big-endian numbers (two zero bytes, 8 for uint8, the number of dimensions, each dimension in four bytes),
then the values. Source: https://yann.lecun.com/exdb/mnist, "file formats".
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from io import BufferedReader
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anabranch.errors import DatasetError

Stream = BufferedReader | gzip.GzipFile

IMAGES = re.compile(r"(?:.*-)?(?P<split>train|t10k|test)-images[-.]idx3-ubyte(?:\.gz)?")
_MAX_DEFLATE = 1032  # no byte of a gzipped file gives more; source: https://zlib.net/zlib_tech.html


def is_idx(path: Path) -> bool:
    """Whether a file begins as an IDX file of uint8 does."""
    try:
        with _open(path) as file:
            return file.read(3) == b"\x00\x00\x08"
    except (OSError, EOFError, zlib.error):
        return False


def read_idx(path: Path, *, num_dimensions: int) -> NDArray[np.uint8]:
    """The values, in their shape. Raises DatasetError for another kind of file, and one cut short or too long."""
    try:
        with _open(path) as file:
            shape = _read_shape(file, path, num_dimensions)
            values = _read_values(file, path, shape)
            if file.read(1):
                raise DatasetError(f"{path}: holds more than the {shape} values that its header says")
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from None
    return values


def labels_beside(images: Path) -> Path:
    """Where the labels of an images file lie by custom: train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz."""
    name = images.name.replace("images", "labels").replace("idx3", "idx1")
    if name == images.name:
        raise DatasetError(f"{images}: no name for its labels follows from this name; give the labels file too")
    return images.with_name(name)


def _open(path: Path) -> Stream:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if zipped else path.open("rb")


def _read_shape(file: Stream, path: Path, num_dimensions: int) -> tuple[int, ...]:
    header = file.read(4 + 4 * num_dimensions)
    wanted = bytes([0, 0, 8, num_dimensions])
    if header[:4] != wanted:
        raise DatasetError(
            f"{path}: begins with {header[:4].hex(' ')}; an IDX file of uint8 in {num_dimensions} dimensions begins "
            f"with {wanted.hex(' ')}"
        )
    if len(header) < 4 + 4 * num_dimensions:
        raise DatasetError(f"{path}: ends inside its header")
    return tuple(int.from_bytes(header[at : at + 4], "big") for at in range(4, len(header), 4))


def _read_values(file: Stream, path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    count = 1
    for side in shape:
        count *= side
    most = path.stat().st_size * (_MAX_DEFLATE if isinstance(file, gzip.GzipFile) else 1)
    if count > most:  # before memory for it is asked for
        raise DatasetError(
            f"{path}: its header says {shape} values, more than {os.path.getsize(path):,} bytes can hold"
        )
    values = np.empty(count, np.uint8)
    room, got = values.data, 0
    while got < count:
        read = file.readinto(room[got : got + 2**24])
        if not read:
            raise DatasetError(f"{path}: ends after {got:,} of the {count:,} values that its header says")
        got += read
    return values.reshape(shape)
