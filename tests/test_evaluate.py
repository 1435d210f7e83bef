from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from anabranch.errors import DatasetError, ImageError
from anabranch.evaluate import evaluate, match_classes


class Set:
    """A labelled set in memory: picture i is filled with `fills[i]`; None cannot be read."""

    def __init__(self, fills: list[int | None], labels: list[int], class_names: tuple[str, ...] | None = None):
        self.fills = fills
        self.labels = np.array(labels, np.int64)
        self.class_names = class_names
        self.names = [f"{i}.png" for i in range(len(fills))]

    def __len__(self) -> int:
        return len(self.fills)

    def picture(self, index: int) -> np.ndarray:
        fill = self.fills[index]
        if fill is None:
            raise ImageError(f"{index}.png: truncated")
        return np.full((4, 4, 3), fill, np.uint8)


class Table:
    """A predictor that ranks classes for a picture filled with v: v, v + 1, ... modulo their number."""

    def __init__(self, labels: tuple[str, ...]):
        self.card: Any = SimpleNamespace(labels=labels, preprocess=lambda picture: picture)

    def predict(self, pixels: np.ndarray) -> np.ndarray:
        classes = len(self.card.labels)
        fills = pixels[:, 0, 0, 0].astype(int)
        return -((np.arange(classes) - fills[:, None]) % classes).astype(np.float32)


TEN = tuple("abcdefghij")


def test_top1_and_top5_are_counted_as_defined() -> None:
    fills = [0, 1, 2, 3, 4, 5]
    labels = [0, 1, 3, 7, 8, 2]  # ranks 0, 0, 1, 4, 4, 7
    score = evaluate(Table(TEN), Set(fills, labels), batch=4)
    assert (score.num_pictures, score.top1_right, score.top5_right) == (6, 2, 5)
    assert score.top1 == pytest.approx(100 * 2 / 6)
    assert score.top5 == pytest.approx(100 * 5 / 6)


def test_the_interval_is_wilsons() -> None:
    # R: binom::binom.confint(940, 1000, methods = "wilson")
    score = evaluate(Table(TEN), Set([0] * 1000, [0] * 940 + [1] * 60), batch=64)
    assert score.top1_interval == pytest.approx((92.35, 95.31), abs=0.01)


def test_an_unreadable_picture_is_listed_and_counted_nowhere() -> None:
    score = evaluate(Table(TEN), Set([0, None, 1], [0, 0, 0]), batch=2)
    assert score.unreadable == (("1.png", "1.png: truncated"),)
    assert (score.num_pictures, score.top1_right) == (2, 1)


def test_a_set_of_nothing_readable_is_an_error() -> None:
    with pytest.raises(DatasetError, match=r"none of the 1 pictures could be read; the first: 0\.png: truncated"):
        evaluate(Table(TEN), Set([None], [0]))


def test_fewer_classes_than_five_are_all_in_the_top_five() -> None:
    score = evaluate(Table(("a", "b")), Set([0, 1], [1, 1]))
    assert (score.top1_right, score.top5_right) == (1, 2)


def test_classes_are_matched_by_name_where_the_model_knows_them_all() -> None:
    data = Set([0], [1], class_names=("j", "c"))
    assert match_classes(data, TEN) == ([9, 2], "name")
    assert evaluate(Table(TEN), Set([2], [1], class_names=("j", "c"))).top1 == 100


def test_as_many_classes_of_other_names_are_matched_by_position() -> None:
    data = Set([0], [1], class_names=("n01", "n02"))
    assert match_classes(data, ("tench", "goldfish")) == ([0, 1], "position")


def test_names_that_the_model_knows_in_part_are_an_error_and_not_matched_by_position() -> None:
    with pytest.raises(DatasetError, match="does not know 'T-shirt_top'"):
        match_classes(Set([0], [1], class_names=("T-shirt_top", "coat")), ("coat", "T-shirt/top"))


def test_classes_that_the_model_cannot_answer_are_an_error() -> None:
    with pytest.raises(DatasetError, match="has 2 classes and the model 10 \\(it does not know 'cat', for one\\)"):
        match_classes(Set([0], [1], class_names=("cat", "dog")), TEN)
    with pytest.raises(DatasetError, match="has 11 classes and the model 10"):
        match_classes(Set([0], [10]), TEN)


def test_progress_is_told_once_for_each_picture() -> None:
    told: list[int] = []
    evaluate(Table(TEN), Set([0, None, 1, 2, 3], [0] * 5), batch=2, report=told.append)
    assert told == [1, 2, 3, 4, 5]
