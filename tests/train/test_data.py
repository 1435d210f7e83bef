from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from anabranch.errors import ImageError
from anabranch.images.labelled import LabelledArray, open_labelled
from anabranch.images.preprocess import Preprocess
from anabranch.train.augment import num_draws
from anabranch.train.data import Crops, Share, batches, order, random_resized_crop, side_at
from anabranch.train.tables import Augment

GREY = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
INPUT = Preprocess(
    crop_px=12, resize_px=12, fit="shorter-side", resampler="pillow-bilinear", rounding="torchvision", **GREY
)


@dataclass(frozen=True)
class Sharded(LabelledArray):
    """A set whose pictures lie in shards."""

    groups: Sequence[range] | None = None


def a_set(labels: Sequence[int] | NDArray[np.int64], groups: Sequence[range] | None = None) -> Sharded:
    count = len(labels)
    names = [str(index) for index in range(count)]
    return Sharded(names, np.zeros((count, 2, 2), np.uint8), np.asarray(labels, np.int64), groups=groups)


HUNDRED = a_set([0] * 100)


# ---- the order -----------------------------------------------------------------------------------------------------


def test_the_order_holds_each_picture_once_and_changes_with_epoch_and_seed() -> None:
    first = order(0, 0, HUNDRED)
    assert sorted(first[:, 0]) == list(range(100))
    assert not first[:, 1].any()
    assert np.array_equal(first, order(0, 0, HUNDRED))
    assert not np.array_equal(first, order(0, 1, HUNDRED))
    assert not np.array_equal(first, order(1, 0, HUNDRED))


def test_the_plain_order_is_numpys_permutation_for_seed_and_epoch() -> None:
    assert np.array_equal(order(3, 5, HUNDRED)[:, 0], np.random.default_rng((3, 5)).permutation(100))


def test_repeated_pictures_stand_in_a_row_as_copies_of_their_own() -> None:
    drawn = order(0, 0, HUNDRED, repeats=3)
    assert drawn.shape == (100, 2)
    runs = drawn[:99].reshape(33, 3, 2)
    assert (runs[:, :, 0] == runs[:, :1, 0]).all()
    assert (runs[:, :, 1] == [0, 1, 2]).all()
    assert len(set(drawn[:, 0])) == 34
    for rank in range(3):  # of three processes, each gets one copy
        assert len(set(drawn[:99][rank::3, 0])) == 33


def test_a_balanced_order_draws_each_class_as_often_and_each_of_its_pictures_too() -> None:
    labels = np.random.default_rng(0).permutation([0] * 70 + [2] * 25 + [3] * 5)  # class 1 has no pictures
    drawn = order(0, 4, a_set(labels), balanced=True)
    assert drawn.shape == (100, 2)
    assert sorted(Counter(labels[drawn[:, 0]].tolist()).values()) == [33, 33, 34]
    for label in (0, 2, 3):
        members = np.flatnonzero(labels == label)
        met = [index for index in drawn[:, 0] if labels[index] == label]
        for start in range(0, len(met), len(members)):
            once_through = met[start : start + len(members)]
            assert len(set(once_through)) == len(once_through)
    assert len({tuple(row) for row in drawn.tolist()}) == 100, "no copy of a picture comes twice"
    first_half = Counter(labels[drawn[:50, 0]].tolist())
    assert len(first_half) == 3, "classes come mixed"
    assert min(first_half.values()) >= 8


def test_a_class_of_one_picture_comes_as_often_as_any_other_in_a_balanced_order() -> None:
    drawn = order(0, 0, a_set([0] * 9 + [1]), balanced=True)
    assert sorted(drawn[drawn[:, 0] == 9, 1]) == [0, 1, 2, 3, 4], "copies of its own"


def test_balanced_and_repeated_at_once_no_copy_comes_twice() -> None:
    labels = [0] * 70 + [1] * 30
    drawn = order(0, 0, a_set(labels), balanced=True, repeats=4)
    assert len({tuple(row) for row in drawn.tolist()}) == 100
    assert sorted(Counter(labels[index] for index in drawn[:, 0]).values()) == [48, 52], "25 pictures, 4 copies each"


def test_shards_are_read_a_handful_at_a_time() -> None:
    groups = [range(start, start + 10) for start in range(0, 100, 10)]
    drawn = order(0, 0, a_set([0] * 100, groups))[:, 0]
    assert sorted(drawn) == list(range(100))
    handfuls = [set((drawn[start : start + 40] // 10).tolist()) for start in (0, 40, 80)]
    assert [len(handful) for handful in handfuls] == [4, 4, 2]
    assert len(set.union(*handfuls)) == 10
    assert len(set((drawn[:12] // 10).tolist())) > 2, "the shards of a handful are mixed"
    assert not np.array_equal(drawn, order(0, 1, a_set([0] * 100, groups))[:, 0])


# ---- batches -------------------------------------------------------------------------------------------------------

RECIPE = Augment(crop="random-resized", policy="randaugment")


@pytest.fixture
def crops(tiny: Path) -> Crops:
    return Crops(open_labelled(tiny.parent, split="train"), INPUT, RECIPE, seed=1)


def shares_of(crops: Crops, drawn: NDArray[np.int64], batch: int = 16, **how: int) -> list[Share]:
    settings = {"first": 0, "rank": 0, "processes": 1, "workers": 0} | how
    return list(batches(crops, drawn, batch, **settings))


def same(actual: Share, expected: Share, part: slice = slice(None)) -> None:
    """To the bit; where not, it says how many values differ and the first."""
    for field in ("pixels", "labels", "draws", "indices"):
        torch.testing.assert_close(getattr(actual, field), getattr(expected, field)[part], rtol=0, atol=0)


@pytest.mark.parametrize("repeats", [1, 2])
def test_batches_do_not_depend_on_the_number_of_processes_or_workers(crops: Crops, repeats: int) -> None:
    drawn = order(0, 0, crops.data, repeats=repeats)
    alone = shares_of(crops, drawn)
    helped = shares_of(crops, drawn, workers=2)
    pairs = [shares_of(crops, drawn, rank=rank, processes=2) for rank in (0, 1)]
    assert len(alone) == 5
    for whole, again, left, right in zip(alone, helped, *pairs, strict=True):
        same(again, whole)
        same(left, whole, slice(0, None, 2))
        same(right, whole, slice(1, None, 2))


def test_a_picture_comes_the_same_whatever_the_size_of_its_batch(crops: Crops) -> None:
    drawn = order(0, 0, crops.data)
    large, small = shares_of(crops, drawn, 35), shares_of(crops, drawn, 7)
    for number, share in enumerate(small):
        same(share, large[number // 5], slice(number % 5 * 7, number % 5 * 7 + 7))


def test_a_run_that_goes_on_meets_the_batches_it_would_have_met(crops: Crops) -> None:
    drawn = order(0, 0, crops.data)
    alone, resumed = shares_of(crops, drawn), shares_of(crops, drawn, first=3)
    assert len(resumed) == 2
    same(resumed[0], alone[3])


def test_every_picture_is_met_once_for_any_number_of_processes(crops: Crops) -> None:
    drawn = order(0, 0, crops.data)
    for processes in (1, 2, 3):
        met = [
            index
            for rank in range(processes)
            for share in shares_of(crops, drawn, rank=rank, processes=processes)
            for index in share.indices.tolist()
        ]
        assert sorted(met) == list(range(70))


def test_a_share_names_its_pictures_and_their_labels(crops: Crops) -> None:
    share = shares_of(crops, order(0, 0, crops.data))[1]
    assert share.labels.tolist() == [crops.data.labels[index] for index in share.indices.tolist()]
    assert share.pixels.shape == (16, 12, 12, 3)
    assert share.draws.shape == (16, num_draws(RECIPE))
    assert share.unreadable == ()


@dataclass(frozen=True)
class Broken(LabelledArray):
    """A set of which pictures 2, 3 and 4 cannot be read."""

    def picture(self, index: int) -> NDArray[np.uint8]:
        if index in (2, 3, 4):
            raise ImageError(f"{index}.png: not a picture")
        return LabelledArray.picture(self, index)


@pytest.fixture
def broken() -> Crops:
    return Crops(Broken([str(i) for i in range(8)], np.zeros((8, 12, 12), np.uint8), np.arange(8)), INPUT, RECIPE)


IN_TURN = np.stack([np.arange(8), np.zeros(8, np.int64)], axis=1)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_pictures_are_left_out_and_told_where_that_is_tolerated(broken: Crops, workers: int) -> None:
    shares = list(batches(broken, IN_TURN, 3, first=0, rank=0, processes=1, workers=workers, tolerate=True))
    assert [share.labels.tolist() for share in shares] == [[0, 1], [5], [6, 7]]
    assert [share.indices.tolist() for share in shares] == [[0, 1], [5], [6, 7]]
    assert [len(share.pixels) for share in shares] == [2, 1, 2]
    assert [share.unreadable for share in shares] == [
        ("2.png: not a picture",),
        ("3.png: not a picture", "4.png: not a picture"),
        (),
    ]


def test_a_share_of_unreadable_pictures_alone_is_empty(broken: Crops) -> None:
    (empty,) = batches(broken, IN_TURN[3:5], 2, first=0, rank=0, processes=1, workers=0, tolerate=True)
    assert empty.pixels.shape == (0, 12, 12, 3)
    assert empty.pixels.dtype == torch.uint8
    assert empty.labels.shape == (0,)
    assert empty.labels.dtype == torch.int64
    assert empty.draws.shape == (0, num_draws(RECIPE))
    assert len(empty.unreadable) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_picture_stops_the_run_where_none_is_tolerated(broken: Crops, workers: int) -> None:
    with pytest.raises(ImageError, match=r"2\.png: not a picture"):
        list(batches(broken, IN_TURN, 3, first=0, rank=0, processes=1, workers=workers))


# ---- one picture ---------------------------------------------------------------------------------------------------


def test_a_picture_is_cropped_and_drawn_for_anew_in_each_epoch_and_copy(crops: Crops) -> None:
    before = crops.crop(5)
    again, copy = crops.crop(5), crops.crop(5, 1)
    crops.epoch = 1
    later = crops.crop(5)
    assert np.array_equal(before.pixels, again.pixels)
    assert np.array_equal(before.draws, again.draws)
    for other in (copy, later):
        assert not np.array_equal(before.pixels, other.pixels)
        assert not np.array_equal(before.draws, other.draws)


def test_draws_are_uniform_and_have_nothing_to_do_with_each_other(crops: Crops) -> None:
    draws = np.stack([crops.crop(index % 70, index // 70).draws for index in range(1400)])
    assert draws.min() >= 0
    assert draws.max() < 1
    assert np.abs(draws.mean(0) - 0.5).max() < 5 * (1 / 12 / 1400) ** 0.5
    apart = np.corrcoef(draws.T) - np.eye(draws.shape[1])
    assert np.abs(apart).max() < 0.14  # five standard deviations


def test_pictures_for_testing_have_no_draws(tiny: Path) -> None:
    crops = Crops(open_labelled(tiny.parent, split="test"), INPUT, None)
    assert shares_of(crops, order(0, 0, crops.data))[0].draws.shape == (16, 0)


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


@pytest.mark.parametrize(
    ("resampler", "pillows"),
    [("pillow-bilinear", Image.Resampling.BILINEAR), ("pillow-bicubic", Image.Resampling.BICUBIC)],
)
def test_the_recipe_chooses_the_resampler(resampler: str, pillows: Image.Resampling) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    recipe = Augment(scale=(1.0, 1.0), aspect=(1.0, 1.0), resampler=resampler)
    crop = random_resized_crop(picture, np.random.default_rng(0), recipe, 12)
    assert np.array_equal(crop, np.asarray(Image.fromarray(picture).resize((12, 12), pillows)))


def test_a_picture_that_no_box_fits_gives_its_largest_centred_box() -> None:
    picture = np.zeros((10, 400, 3), np.uint8)
    picture[:, 195:205] = 255
    recipe = Augment(scale=(1.0, 1.0), aspect=(0.5, 1.0))
    crop = random_resized_crop(picture, np.random.default_rng(0), recipe, 10)
    expected = Image.fromarray(picture).crop((195, 0, 205, 10))
    assert np.array_equal(crop, np.asarray(expected))


def test_what_lies_around_the_box_is_not_looked_at() -> None:
    picture = np.full((10, 400, 3), 255, np.uint8)
    picture[:, 195:205] = 0
    recipe = Augment(scale=(1.0, 1.0), aspect=(0.5, 1.0))
    for side_px in (4, 25):
        assert not random_resized_crop(picture, np.random.default_rng(0), recipe, side_px).any()


@pytest.mark.parametrize("recipe", [Augment(crop="padded", pad_px=1), Augment(crop="tested"), None])
def test_what_is_not_cropped_at_random_comes_as_it_is_tested(tiny: Path, recipe: Augment | None) -> None:
    data = open_labelled(tiny.parent, split="train")
    crop = Crops(data, INPUT, recipe).crop(7)
    assert np.array_equal(crop.pixels, INPUT(data.picture(7)))


# ---- the side of training pictures ---------------------------------------------------------------------------------


def test_the_side_of_an_epoch_is_the_latest_of_the_recipe() -> None:
    recipe = Augment(side_px=((2, 8), (5, 10)))
    assert [side_at(recipe, epoch, 12) for epoch in range(7)] == [12, 12, 8, 8, 8, 10, 10]
    assert side_at(Augment(), 3, 12) == 12


@pytest.mark.parametrize("recipe", [Augment(), Augment(crop="tested"), Augment(crop="padded", pad_px=2)])
def test_pictures_come_at_the_side_that_is_set(tiny: Path, recipe: Augment) -> None:
    crops = Crops(open_labelled(tiny.parent, split="train"), INPUT, recipe)
    crops.side_px = 6
    for workers in (0, 1):
        assert shares_of(crops, order(0, 0, crops.data), workers=workers)[0].pixels.shape == (16, 6, 6, 3)


def test_at_another_side_the_same_part_of_a_picture_is_seen() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    wide = replace(INPUT, crop_px=12, resize_px=16)

    @dataclass(frozen=True)
    class One(LabelledArray):
        def picture(self, index: int) -> NDArray[np.uint8]:
            return picture

    crops = Crops(One(["0"], np.zeros((1, 2, 2), np.uint8), np.zeros(1, np.int64)), wide, Augment(crop="tested"))
    crops.side_px = 6
    small = Image.fromarray(picture).resize((8, 8), Image.Resampling.BILINEAR).crop((1, 1, 7, 7))
    assert np.array_equal(crops.crop(0).pixels, np.asarray(small))
