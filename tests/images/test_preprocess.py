from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import anabranch.images.preprocess
from anabranch.errors import ImageError, UsageError
from anabranch.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

PILLOW = {"pillow-bilinear": Image.Resampling.BILINEAR, "pillow-bicubic": Image.Resampling.BICUBIC}
OPENCV = {"opencv-bilinear": cv2.INTER_LINEAR, "opencv-bicubic": cv2.INTER_CUBIC}


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng((height, width)).integers(0, 256, (height, width, 3), dtype=np.uint8)


def stripes(height: int, width: int) -> np.ndarray:
    """Every pixel says where it is: red its column, green its row."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0] = np.arange(width)
    picture[..., 1] = np.arange(height)[:, None]
    return picture


# ---- Sizes and crops, against numbers worked out by hand -----------------------------------------------------------


@pytest.mark.parametrize(
    ("rounding", "height", "width", "resized"),
    [
        ("torchvision", 375, 500, (256, 341)),  # 256 * 500 / 375 = 341.33
        ("torchvision", 500, 375, (341, 256)),
        ("torchvision", 300, 401, (256, 342)),  # 342.19
        ("torchvision", 300, 400, (256, 341)),  # 341.33
        ("torchvision", 333, 500, (256, 384)),  # 384.38
        ("torchvision", 200, 267, (256, 341)),  # 341.76 is cut, not rounded
        ("torchvision", 256, 256, (256, 256)),
        ("torchvision", 1, 4000, (256, 1_024_000)),
        ("paddleclas", 375, 500, (256, 341)),
        ("paddleclas", 200, 267, (256, 342)),  # 341.76 is rounded
        ("paddleclas", 267, 200, (342, 256)),
        ("paddleclas", 512, 513, (256, 256)),  # 256.5: the half goes to the even 256
        ("paddleclas", 512, 515, (256, 258)),  # 257.5: the half goes to the even 258
    ],
)
def test_sides_are_resized_by_the_zoos_own_rounding(rounding, height, width, resized):
    assert Preprocess(crop_px=224, resize_px=256, rounding=rounding).resized(height, width) == resized


@pytest.mark.parametrize(
    ("rounding", "side", "start"),
    [
        ("torchvision", 256, 16),
        ("torchvision", 341, 58),  # 117 / 2 = 58.5: the half goes to the even 58
        ("torchvision", 343, 60),  # 119 / 2 = 59.5: the half goes to the even 60
        ("torchvision", 235, 6),  # 5.5
        ("torchvision", 224, 0),
        ("paddleclas", 341, 58),
        ("paddleclas", 343, 59),
        ("paddleclas", 235, 5),
    ],
)
def test_the_crop_starts_where_the_zoo_starts_it(rounding, side, start):
    preprocess = Preprocess(crop_px=224, resize_px=256, rounding=rounding)
    assert preprocess.crop_start(side) == start


@pytest.mark.parametrize(("rounding", "first"), [("torchvision", 2), ("paddleclas", 1)])
def test_the_two_roundings_crop_other_pixels(rounding, first):
    preprocess = Preprocess(crop_px=4, resize_px=7, rounding=rounding)  # 7 - 4 = 3; 1.5 rounds to 2, 3 // 2 is 1
    square = preprocess(stripes(7, 7))
    assert square[0, :, 0].tolist() == [first, first + 1, first + 2, first + 3]
    assert square[:, 0, 1].tolist() == [first, first + 1, first + 2, first + 3]


# ---- Pixels, against Pillow and OpenCV themselves ------------------------------------------------------------------


def pillow_square(picture: np.ndarray, resampler: str, size: tuple[int, int], crop: tuple[int, int, int, int]):
    return np.asarray(Image.fromarray(picture).resize(size, PILLOW[resampler]).crop(crop))


@pytest.mark.parametrize("resampler", sorted(PILLOW))
def test_a_landscape_photo_gets_pillows_own_pixels(resampler):
    picture = noise(375, 500)
    square = Preprocess(crop_px=224, resize_px=256, resampler=resampler)(picture)
    # 341 x 256; left = round(58.5) = 58, top = 16
    np.testing.assert_array_equal(square, pillow_square(picture, resampler, (341, 256), (58, 16, 282, 240)))


@pytest.mark.parametrize("resampler", sorted(PILLOW))
def test_a_small_portrait_is_enlarged_to_pillows_own_pixels(resampler):
    picture = noise(50, 31)
    square = Preprocess(crop_px=224, resize_px=235, resampler=resampler)(picture)
    # 235 * 50 / 31 = 379.03; left = round(5.5) = 6, top = round(77.5) = 78
    np.testing.assert_array_equal(square, pillow_square(picture, resampler, (235, 379), (6, 78, 230, 302)))


@pytest.mark.parametrize("resampler", sorted(PILLOW))
def test_squashing_gives_pillows_own_pixels(resampler):
    picture = noise(90, 200)
    square = Preprocess(crop_px=56, resize_px=64, fit="squash", resampler=resampler)(picture)
    np.testing.assert_array_equal(square, pillow_square(picture, resampler, (64, 64), (4, 4, 60, 60)))


@pytest.mark.parametrize("resampler", sorted(PILLOW))
@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90), crop_px=st.integers(1, 40), beyond=st.integers(0, 9))
def test_pixels_are_pillows_at_any_size(resampler, height, width, crop_px, beyond):
    picture = noise(height, width)
    preprocess = Preprocess(crop_px=crop_px, resize_px=crop_px + beyond, resampler=resampler)
    new_height, new_width = preprocess.resized(height, width)
    left, top = preprocess.crop_start(new_width), preprocess.crop_start(new_height)
    crop = (left, top, left + crop_px, top + crop_px)
    expected = pillow_square(picture, resampler, (new_width, new_height), crop)
    np.testing.assert_array_equal(preprocess(picture), expected)


@pytest.mark.parametrize("resampler", sorted(PILLOW))
@pytest.mark.parametrize(
    ("height", "width"),
    [(1000, 1500), (1500, 1000), (256, 900), (257, 900), (513, 300), (1100, 70), (1100, 90), (300, 29), (31, 1200)],
)
def test_pixels_of_a_large_picture_are_pillows(resampler, height, width):
    picture = noise(height, width)
    preprocess = Preprocess(crop_px=56, resize_px=64, resampler=resampler)
    new_height, new_width = preprocess.resized(height, width)
    left, top = preprocess.crop_start(new_width), preprocess.crop_start(new_height)
    expected = pillow_square(picture, resampler, (new_width, new_height), (left, top, left + 56, top + 56))
    np.testing.assert_array_equal(preprocess(picture), expected)


@pytest.mark.parametrize("resampler", sorted(PILLOW))
@pytest.mark.parametrize(("height", "width"), [(3, 300), (300, 3), (7, 3001), (200, 210), (20, 20)])
def test_resizing_only_what_the_crop_shows_is_at_most_a_grey_level_away(monkeypatch, resampler, height, width):
    picture = noise(height, width)
    preprocess = Preprocess(crop_px=24, resize_px=28, resampler=resampler)
    new_height, new_width = preprocess.resized(height, width)
    left, top = preprocess.crop_start(new_width), preprocess.crop_start(new_height)
    expected = pillow_square(picture, resampler, (new_width, new_height), (left, top, left + 24, top + 24))
    monkeypatch.setattr(anabranch.images.preprocess, "_WHOLE_PX", 0)
    assert abs(preprocess(picture).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("resampler", sorted(OPENCV))
def test_a_photo_gets_opencvs_own_pixels(resampler):
    picture = noise(267, 201)
    square = Preprocess(crop_px=224, resize_px=256, resampler=resampler, rounding="paddleclas")(picture)
    # scale = 256 / 201; 267 * scale = 340.06; top = 116 // 2 = 58, left = 16
    expected = cv2.resize(picture, (256, 340), interpolation=OPENCV[resampler])[58:282, 16:240]
    np.testing.assert_array_equal(square, expected)


@pytest.mark.parametrize("resampler", [*PILLOW, *OPENCV])
@pytest.mark.parametrize("rounding", ["torchvision", "paddleclas"])
def test_a_picture_of_the_nets_own_size_is_left_as_it_is(resampler, rounding):
    picture = noise(28, 28)
    preprocess = Preprocess(crop_px=28, resize_px=28, resampler=resampler, rounding=rounding)
    np.testing.assert_array_equal(preprocess(picture), picture)


@pytest.mark.parametrize("resampler", [*PILLOW, *OPENCV])
def test_a_picture_of_the_resized_size_is_only_cropped(resampler):
    picture = noise(256, 301)
    square = Preprocess(crop_px=224, resize_px=256, resampler=resampler)(picture)
    np.testing.assert_array_equal(square, picture[16:240, 38:262])  # 77 / 2 = 38.5: the half goes to the even 38
    assert square.flags["C_CONTIGUOUS"]


def test_a_picture_smaller_than_the_crop_is_padded_with_zeros_as_torchvision_pads():
    picture = np.full((5, 8, 3), 255, np.uint8)
    square = Preprocess(crop_px=8, resize_px=5)(picture)
    rows = square.max(axis=(1, 2))
    assert rows.tolist() == [0, 255, 255, 255, 255, 255, 0, 0]  # 3 rows lack: one above, two below
    assert square[1:6].min() == 255


@pytest.mark.parametrize("shape", [(1, 4000), (4000, 1)])
def test_a_strip_one_pixel_wide_is_interpolated_in_little_memory(shape, peak_mb):
    script = (
        "import numpy as np\n"
        "from anabranch.images.preprocess import Preprocess\n"
        f"picture = np.random.default_rng(0).integers(0, 256, {(*shape, 3)}, dtype=np.uint8)\n"
        "square = Preprocess(crop_px=224, resize_px=256)(picture)\n"
        "assert square.shape == (224, 224, 3)\n"
        # 4000 * 256 columns: the crop starts at column 511888, inside source column 1999, and ends inside 2000
        "middle = square[:, :, 0] if picture.shape[0] == 1 else square[:, :, 0].T\n"
        "line = picture.reshape(-1, 3)[:, 0].astype(float)\n"
        "places = (511888 + np.arange(224) + 0.5) / 256 - 0.5\n"
        "expected = np.interp(places, np.arange(4000), line)\n"
        "assert (abs(middle - expected) <= 0.501).all()\n"
    )
    assert peak_mb(script) < 100


def test_a_strip_too_narrow_for_opencv_is_refused_with_its_sizes():
    preprocess = Preprocess(crop_px=224, resize_px=256, resampler="opencv-bilinear", rounding="paddleclas")
    with pytest.raises(ImageError, match=r"4000 x 1 pixels is too narrow.*1024000 x 256"):
        preprocess(noise(1, 4000))


# ---- What is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("crop_px", 0),
        ("crop_px", 224.0),
        ("crop_px", True),
        ("resize_px", -1),
        ("resize_px", 65_536),
        ("fit", "longer-side"),
        ("resampler", "bilinear"),
        ("rounding", "timm"),
        ("mean", (123.675, 116.28, 103.53)),
        ("mean", [0.485, 0.456, 0.406]),
        ("mean", (0.5, float("nan"), 0.5)),
        ("std", (0.229, 0.0, 0.225)),
        ("std", (0.229, 0.224)),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_what_is_wanted(field, value):
    with pytest.raises(UsageError, match=rf"{field} = .* must be"):
        dataclasses.replace(Preprocess(crop_px=224, resize_px=256), **{field: value})


def test_paddleclas_does_not_pad():
    with pytest.raises(UsageError, match=r"resize_px = 200 .* crop_px = 224"):
        Preprocess(crop_px=224, resize_px=200, rounding="paddleclas")


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((224, 224, 3), np.float32),
        np.zeros((224, 224), np.uint8),
        np.zeros((3, 224, 224), np.uint8),
        np.zeros((224, 0, 3), np.uint8),
    ],
)
def test_an_array_that_is_no_picture_is_refused_with_its_shape(picture):
    with pytest.raises(UsageError, match="must be uint8"):
        Preprocess(crop_px=224, resize_px=256)(picture)


# ---- JSON and normalisation ----------------------------------------------------------------------------------------

PREPROCESSES = st.builds(
    Preprocess,
    crop_px=st.integers(1, 300),
    resize_px=st.integers(300, 400),
    fit=st.sampled_from(["shorter-side", "squash"]),
    resampler=st.sampled_from([*PILLOW, *OPENCV]),
    rounding=st.sampled_from(["torchvision", "paddleclas"]),
    mean=st.tuples(*[st.floats(0, 1)] * 3),
    std=st.tuples(*[st.floats(0.001, 1)] * 3),
)


@given(PREPROCESSES)
def test_json_says_a_preprocessing_whole(preprocess):
    assert Preprocess.from_json(json.loads(json.dumps(preprocess.to_json()))) == preprocess


def test_an_unknown_key_is_refused_with_the_nearest():
    said = {**Preprocess(crop_px=224, resize_px=256).to_json(), "crop": 224}
    with pytest.raises(UsageError, match="'crop' is not known; did you mean 'crop_px'"):
        Preprocess.from_json(said)


def test_a_missing_key_is_named():
    said = Preprocess(crop_px=224, resize_px=256).to_json()
    del said["rounding"]
    with pytest.raises(UsageError, match="rounding missing"):
        Preprocess.from_json(said)


def test_the_mean_pixel_normalises_to_zero_and_one_deviation_to_one():
    mean, std = (0.2, 0.4, 0.6), (0.2, 0.2, 0.4)
    pixels = np.array([[[[51, 102, 153]]], [[[102, 153, 255]]]], np.uint8)  # the mean; the mean and a deviation
    normal = Preprocess(crop_px=1, resize_px=1, mean=mean, std=std).normalise(pixels)
    assert normal.dtype == np.float32
    np.testing.assert_allclose(normal[:, :, 0, 0], [[0, 0, 0], [1, 1, 1]], atol=1e-6)


def test_imagenet_statistics_are_those_of_the_zoos():
    # mmpretrain and Caffe print the same numbers on the 0..255 scale
    np.testing.assert_allclose(np.array(IMAGENET_MEAN) * 255, (123.675, 116.28, 103.53))
    np.testing.assert_allclose(np.array(IMAGENET_STD) * 255, (58.395, 57.12, 57.375))


def test_a_preprocessing_is_read_without_numpy():
    script = "import sys, anabranch.images.preprocess; print([m for m in ('numpy', 'PIL', 'cv2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
