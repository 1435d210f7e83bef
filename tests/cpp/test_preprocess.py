"""The pixels that the C++ predictor feeds the graph are Python's, to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anabranch.images.decode import decode
from anabranch.images.preprocess import Preprocess
from anabranch.runtimes import builtin
from odd_jpegs import in_scans

pytestmark = pytest.mark.cpp

SIZES = [
    (1, 1),
    (2, 3),
    (9, 1),
    (37, 53),
    (53, 37),
    (64, 64),
    (224, 224),
    (255, 257),
    (375, 500),
    (601, 333),
    (90, 900),
]
LARGE = [(3000, 4000), (4000, 3001)]

PREPROCESSES = {
    "torchvision's bilinear": Preprocess(crop_px=224, resize_px=256),
    "torchvision's bicubic": Preprocess(crop_px=224, resize_px=232, resampler="pillow-bicubic"),
    "odd bicubic": Preprocess(crop_px=225, resize_px=257, resampler="pillow-bicubic"),
    "no crop of the shorter side": Preprocess(crop_px=64, resize_px=64),
    "padding": Preprocess(crop_px=97, resize_px=80),
    "bilinear by PaddleClas' rounding": Preprocess(crop_px=224, resize_px=255, rounding="paddleclas"),
    "bicubic by PaddleClas' rounding": Preprocess(
        crop_px=33, resize_px=50, resampler="pillow-bicubic", rounding="paddleclas"
    ),
    "squash bilinear": Preprocess(crop_px=60, resize_px=65, fit="squash"),
    "squash bicubic": Preprocess(crop_px=65, resize_px=60, fit="squash", resampler="pillow-bicubic"),
    "OpenCV": Preprocess(crop_px=224, resize_px=256, resampler="opencv-bilinear", rounding="paddleclas"),
    "OpenCV by torchvision's rounding": Preprocess(crop_px=97, resize_px=80, resampler="opencv-bilinear"),
    "OpenCV squash": Preprocess(crop_px=61, resize_px=61, fit="squash", resampler="opencv-bilinear"),
}


def noise(path: Path, height: int, width: int) -> Path:
    """Blocks of full contrast, so that sums overflow 0..255 where a filter has negative weights."""
    generator = np.random.default_rng(height * 10_000 + width)
    coarse = generator.integers(0, 2, (height // 3 + 1, width // 3 + 1, 3), np.uint8) * 255
    Image.fromarray(coarse.repeat(3, 0).repeat(3, 1)[:height, :width]).save(path, quality=95, subsampling=0)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noise")
    return {size: noise(folder / f"{size[0]}x{size[1]}.jpg", *size) for size in [*SIZES, *LARGE]}


@pytest.fixture
def both(pixels, with_card):
    """The squares of some pictures, by C++ and by Python."""

    def squares(paths: list[Path], preprocess: Preprocess, name: str = "artefact"):
        folder = with_card(builtin(), lambda card: card.update(preprocess=preprocess.to_json()), name)
        done = pixels(folder, *paths)
        assert done.returncode == 0, done.stderr
        side = preprocess.crop_px
        return (
            np.frombuffer(done.stdout, np.uint8).reshape(len(paths), side, side, 3),
            np.stack([preprocess(decode(path)) for path in paths]),
        )

    return squares


def differing(theirs: np.ndarray, ours: np.ndarray, names: list[object]) -> list[object]:
    return [name for name, one, other in zip(names, theirs, ours, strict=True) if not np.array_equal(one, other)]


@pytest.mark.parametrize("named", PREPROCESSES)
def test_pixels_are_pythons(named, both, pictures):
    cpp, python = both([pictures[size] for size in SIZES], PREPROCESSES[named])
    assert differing(cpp, python, SIZES) == []


@pytest.mark.parametrize("named", ["torchvision's bilinear", "torchvision's bicubic", "OpenCV"])
def test_pixels_of_twelve_megapixels_are_pythons(named, both, pictures):
    cpp, python = both([pictures[size] for size in LARGE], PREPROCESSES[named])
    assert differing(cpp, python, LARGE) == []


def test_pixels_are_pythons_whatever_the_sizes(both, tmp_path):
    generator = np.random.default_rng(0)
    wrong = []
    for attempt in range(40):
        paths = [noise(tmp_path / f"{i}.jpg", *generator.integers(1, 400, 2)) for i in range(4)]
        crop_px, beyond = map(int, generator.integers((1, 0), (100, 60)))
        preprocess = Preprocess(
            crop_px=crop_px,
            resize_px=crop_px + beyond,
            fit=str(generator.choice(["shorter-side", "squash"])),
            resampler=str(generator.choice(["pillow-bilinear", "pillow-bicubic", "opencv-bilinear"])),
            rounding=str(generator.choice(["torchvision", "paddleclas"])),
        )
        wrong += differing(*both(paths, preprocess, f"{attempt}"), [(preprocess, path.stem) for path in paths])
    assert wrong == []


@pytest.mark.parametrize("size", [(2, 600), (600, 2), (5000, 12)])
def test_a_strip_that_python_resizes_in_part_is_within_one_grey_level(size, both, tmp_path):
    cpp, python = both([noise(tmp_path / "strip.jpg", *size)], Preprocess(crop_px=224, resize_px=256))
    assert np.abs(cpp.astype(int) - python).max() <= 1


ENCODINGS = {
    "4:4:4": {"subsampling": "4:4:4"},
    "4:2:2": {"subsampling": "4:2:2"},
    "4:2:0": {"subsampling": "4:2:0"},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 3},
    "coarse": {"quality": 5},
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_pixels_are_pythons_in_every_encoding(encoding, both, pictures, tmp_path):
    path = tmp_path / "encoded.jpg"
    with Image.open(pictures[601, 333]) as image:
        image.save(path, **ENCODINGS[encoding])
    cpp, python = both([path], Preprocess(crop_px=601, resize_px=333))
    assert np.array_equal(cpp, python)


def test_pixels_are_pythons_where_each_component_has_a_scan(both, pictures, tmp_path):
    with Image.open(pictures[601, 333]) as image:
        (tmp_path / "scans.jpg").write_bytes(in_scans(np.asarray(image)))
    cpp, python = both([tmp_path / "scans.jpg"], Preprocess(crop_px=601, resize_px=333))
    assert np.array_equal(cpp, python)


def test_pixels_of_a_grey_picture_are_pythons(both, pictures, tmp_path):
    with Image.open(pictures[601, 333]) as image:
        image.convert("L").save(tmp_path / "grey.jpg")
    cpp, python = both([tmp_path / "grey.jpg"], Preprocess(crop_px=601, resize_px=333))
    assert np.array_equal(cpp, python)
