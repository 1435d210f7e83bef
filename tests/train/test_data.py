from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anabranch.images.labelled import open_labelled
from anabranch.images.preprocess import Preprocess
from anabranch.train.data import Crops, batches, order, random_resized_crop
from anabranch.train.recipe import Augment

GREY = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
INPUT = Preprocess(
    crop_px=12, resize_px=12, fit="shorter-side", resampler="pillow-bilinear", rounding="torchvision", **GREY
)


def test_the_order_holds_each_picture_once_and_changes_with_epoch_and_seed() -> None:
    first = order(0, 0, 100)
    assert sorted(first) == list(range(100))
    assert list(first) == list(order(0, 0, 100))
    assert list(first) != list(order(0, 1, 100))
    assert list(first) != list(order(1, 0, 100))


@pytest.fixture
def crops(tiny: Path) -> Crops:
    return Crops(open_labelled(tiny.parent, split="train"), INPUT, Augment(crop="random-resized"), seed=1)


def same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """To the bit; where not, it says how many values differ and the first."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_batches_do_not_depend_on_the_number_of_processes_or_workers(crops: Crops) -> None:
    indices = order(0, 0, 70)
    alone = list(batches(crops, indices, 16, first=0, rank=0, processes=1, workers=0))
    helped = list(batches(crops, indices, 16, first=0, rank=0, processes=1, workers=2))
    pairs = [list(batches(crops, indices, 16, first=0, rank=rank, processes=2, workers=0)) for rank in (0, 1)]
    assert len(alone) == 5
    for whole, again, left, right in zip(alone, helped, *pairs, strict=True):
        same(again[0], whole[0])
        same(left[0], whole[0][0::2])
        same(right[0], whole[0][1::2])
        same(right[1], whole[1][1::2])


def test_a_run_that_goes_on_meets_the_batches_it_would_have_met(crops: Crops) -> None:
    indices = order(0, 0, 70)
    alone = list(batches(crops, indices, 16, first=0, rank=0, processes=1, workers=0))
    resumed = list(batches(crops, indices, 16, first=3, rank=0, processes=1, workers=0))
    assert len(resumed) == 2
    assert torch.equal(alone[3][0], resumed[0][0])


def test_every_picture_is_met_once_for_any_number_of_processes(crops: Crops) -> None:
    for processes in (1, 2, 3):
        met = [
            labels.numel()
            for rank in range(processes)
            for _, labels in batches(crops, np.arange(70), 16, first=0, rank=rank, processes=processes, workers=0)
        ]
        assert sum(met) == 70


def test_a_picture_is_cropped_anew_in_each_epoch(crops: Crops) -> None:
    before = crops[5][0]
    assert np.array_equal(before, crops[5][0])
    crops.epoch = 1
    assert not np.array_equal(before, crops[5][0])


def test_a_crop_is_pillows_resize_of_a_box_inside_the_scale_and_aspect_asked_for() -> None:
    height, width, side = 90, 140, 32
    recipe = Augment(scale=(0.2, 0.5), aspect=(0.8, 1.25))
    rows, columns = np.mgrid[0:height, 0:width].astype(np.uint8)
    picture = np.stack([rows, columns, np.zeros_like(rows)], 2)
    for seed in range(40):
        crop = random_resized_crop(picture, np.random.default_rng(seed), recipe, side)
        assert crop.shape == (side, side, 3)
        # the gradients tell the box: over S output pixels they span (1 - 1/S) of its sides
        tall = (float(crop[-1, 0, 0]) - float(crop[0, 0, 0])) / (1 - 1 / side)
        wide = (float(crop[0, -1, 1]) - float(crop[0, 0, 1])) / (1 - 1 / side)
        assert 0.2 - 0.05 <= tall * wide / (height * width) <= 0.5 + 0.05
        assert 0.8 - 0.1 <= wide / tall <= 1.25 + 0.15


def test_a_picture_that_no_box_fits_gives_its_largest_centred_box() -> None:
    picture = np.zeros((10, 400, 3), np.uint8)
    picture[:, 195:205] = 255
    recipe = Augment(scale=(1.0, 1.0), aspect=(0.5, 1.0))
    crop = random_resized_crop(picture, np.random.default_rng(0), recipe, 10)
    expected = Image.fromarray(picture).crop((195, 0, 205, 10))
    assert np.array_equal(crop, np.asarray(expected))


def test_padded_pictures_come_as_they_are_tested(tiny: Path) -> None:
    data = open_labelled(tiny.parent, split="train")
    crops = Crops(data, INPUT, Augment(crop="padded", pad_px=1))
    pixels, label = crops[7]
    assert np.array_equal(pixels, INPUT(data.picture(7)))
    assert label == data.labels[7]
