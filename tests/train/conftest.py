"""A recipe that trains a tiny net on a tiny generated set in a second or two, and what a probe looks through."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anabranch.arch import Arch
from anabranch.nets.net import Net, build

RECIPE = """
name = "tiny"
expect = "nothing"
licence = "CC0-1.0"

[arch]
block = "res2"
depths = [1, 1]
width = 8
groups = 2
group_width = 32
splits = 2
stem = [8]
stem_stride = 1
shortcut = "pool"
squeeze = 4

[net]
dropout = 0.1
drop_path = 0.1

[data]
class_names = ["left", "right"]
train = {{ path = "{folder}", split = "train" }}
test = {{ path = "{folder}", split = "test" }}

[input]
crop_px = 12
resize_px = 12
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]

[augment]
crop = "padded"
pad_px = 1
flip = 0.0
erase = 0.25
mixup = 0.2

[optimise]
epochs = 3
batch = 16
lr = 0.05
warmup_epochs = 0.5
label_smoothing = 0.1
ema_decay = 0.9

[run]
seed = 3
checkpoint_steps = 2

[smoke]
"optimise.epochs" = 1
"optimise.steps_per_epoch" = 2
"""


def write_idx(folder: Path, prefix: str, pictures: np.ndarray, labels: np.ndarray) -> None:
    """The MNIST format: big-endian counts behind a magic number."""
    head = struct.pack(">IIII", 0x803, *pictures.shape)
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(head + pictures.tobytes())
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, len(labels)) + labels.tobytes())


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the processes that tests start: two threads add the same numbers in another order than one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The path of a recipe whose pictures are bright on the left or on the right."""
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 70), ("t10k", 30)):
        labels = rng.integers(0, 2, count).astype(np.uint8)
        pictures = rng.integers(0, 100, (count, 12, 12)).astype(np.uint8)
        pictures[labels == 0, :, :6] += 120
        pictures[labels == 1, :, 6:] += 120
        write_idx(tmp_path, prefix, pictures, labels)
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE.format(folder=tmp_path))
    return path


@pytest.fixture(scope="module")
def net(shake) -> Net:
    torch.manual_seed(0)
    spec = Arch(depths=(1, 1), width=8, groups=2, group_width=32, stem=(8,), squeeze=4)
    return shake(build(spec, num_classes=7))


@pytest.fixture(scope="session")
def write_coloured() -> Callable[..., Path]:
    """A function that writes 20 pictures into two class folders: redder noise in the one, bluer in the other."""

    def write(folder: Path, *, seed: int = 0) -> Path:
        rng = np.random.default_rng(seed)
        for index in range(20):
            name, channel = (("red", 0), ("blue", 2))[index % 2]
            pixels = rng.integers(0, 180, (30, 26, 3), dtype=np.uint8)
            pixels[..., channel] += 75
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name / f"{index:02}.png")
        return folder

    return write


@pytest.fixture
def coloured(tmp_path: Path, write_coloured: Callable[..., Path]) -> Path:
    return write_coloured(tmp_path / "coloured")


@pytest.fixture(scope="session")
def backbones(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("backbones")


@pytest.fixture
def kept(tmp_path: Path, backbones: Path) -> Path:
    """A cache without features, but with the backbones that have been exported before, which takes seconds."""
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "backbones").symlink_to(backbones)
    return folder
