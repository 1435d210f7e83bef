from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from anabranch.catalogue.classes import imagenet_1k
from anabranch.errors import DatasetError, ImageError
from anabranch.evaluate import average_precisions, doubtful_match, evaluate, evaluate_multi_label, f1, match_classes
from definitions import average_precision


class Set:
    """A labelled set in memory: picture i is filled with `fills[i]`; None cannot be read."""

    def __init__(self, fills: list[int | None], labels: list[int], class_names: tuple[str, ...] | None = None):
        self.fills = fills
        self.labels = np.array(labels, np.int64)
        self.class_names = class_names
        self.targets: np.ndarray | None = None
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

    streams = 1

    def __init__(self, labels: tuple[str, ...]):
        self.card: Any = SimpleNamespace(labels=labels, multi_label=False, preprocess=lambda picture: picture)

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


@pytest.mark.parametrize("count", [29, 100, 1000])
def test_the_interval_stays_within_0_and_100(count: int) -> None:
    none, every = (evaluate(Table(TEN), Set([0] * count, [label] * count), batch=64) for label in (1, 0))
    assert f"{none.top1_interval[0]:.2f}" == "0.00"
    assert every.top1_interval[1] <= 100


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


def test_only_all_of_imagenet_is_matched_by_position_without_a_doubt() -> None:
    """A folder of ten of its classes may be of Imagenette, and the model of something else."""
    known = tuple(synset for synset, _ in imagenet_1k())
    assert doubtful_match(known, tuple(map(str, range(1000))), "position") is None
    assert "'n01440764' was taken for 'a'" in str(doubtful_match(known[:10], TEN, "position"))
    assert doubtful_match(known[:10], TEN, "name") is None


def test_imagenets_identifiers_are_the_names_of_its_words() -> None:
    """So that a folder of some of its classes is evaluated: n01440764 is the tench, n01443537 the goldfish."""
    some = Set([0], [1], class_names=("n01443537", "n01440764"))
    assert match_classes(some, ("tench", "cat", "goldfish")) == ([2, 0], "name")
    assert match_classes(Set([0], [0], class_names=("goldfish",)), ("n01440764", "n01443537")) == ([1], "name")


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


# ---- several classes a picture -------------------------------------------------------------------------------------


def test_average_precision_is_that_of_the_definition_with_equal_scores_too() -> None:
    rng = np.random.default_rng(0)
    scores, shown = rng.integers(0, 9, (60, 4)).astype(np.float32), rng.integers(0, 2, (60, 4)).astype(np.uint8)
    wanted = [100 * average_precision(scores[:, k].tolist(), shown[:, k].tolist()) for k in range(4)]
    assert average_precisions(scores, shown) == pytest.approx(wanted)


def test_average_precision_of_the_textbooks_ranking() -> None:
    # Manning et al. 2008, section 8.4: relevant at ranks 1 and 3 of four, so the mean of 1/1 and 2/3
    scores, shown = np.array([[4.0], [3.0], [2.0], [1.0]]), np.array([[1], [0], [1], [0]], np.uint8)
    assert average_precisions(scores, shown) == pytest.approx([100 * (1 + 2 / 3) / 2])


def test_a_class_that_no_picture_shows_has_no_precision_and_is_left_out_of_the_mean() -> None:
    data = several([0, 1], [[1, 0, 0], [0, 1, 0]])
    score = evaluate_multi_label(Table(("a", "b", "c")), data)
    assert np.isnan(score.average_precisions[2])
    assert score.mean_average_precision == 100


def test_a_set_without_any_class_in_it_cannot_be_measured() -> None:
    with pytest.raises(DatasetError, match="none of 2 test pictures shows any class"):
        average_precisions(np.zeros((2, 3)), np.zeros((2, 3), np.uint8))


def test_f1_counts_all_classes_together_from_a_probability_of_one_half_on() -> None:
    logits = np.array([[1.0, -1.0, 0.0], [2.0, 3.0, -4.0]])
    shown = np.array([[1, 1, 0], [1, 0, 1]], np.uint8)  # right: 2; wrong: 2; missed: 2
    assert f1(logits, shown) == pytest.approx(100 * 2 / (2 + (2 + 2) / 2))


def several(fills: list[int | None], targets: list[list[int]], class_names: tuple[str, ...] | None = None) -> Set:
    data = Set(fills, [-1] * len(fills), class_names)
    data.targets = np.array(targets, np.uint8)
    return data


def test_a_picture_of_several_classes_that_cannot_be_read_is_listed_and_counted_nowhere() -> None:
    score = evaluate_multi_label(Table(("a", "b")), several([0, None, 1], [[1, 0], [1, 1], [0, 1]]), batch=2)
    assert score.unreadable == (("1.png", "1.png: truncated"),)
    assert (score.num_pictures, score.average_precisions) == (2, (100.0, 100.0))


def test_columns_of_several_classes_are_matched_by_name() -> None:
    data = several([2, 9], [[0, 1], [1, 0]], class_names=("j", "c"))
    score = evaluate_multi_label(Table(TEN), data)
    assert (score.matched_by, score.average_precisions) == ("name", (100.0, 100.0))


def test_more_numbered_classes_than_the_models_are_an_error_with_several_each_too() -> None:
    with pytest.raises(DatasetError, match="has 3 classes and the model 2"):
        match_classes(several([0], [[0, 0, 1]]), ("a", "b"))


def test_fewer_numbered_classes_than_the_models_are_those_that_no_picture_shows() -> None:
    score = evaluate_multi_label(Table(TEN), several([0, 1, 2], [[1, 0, 0], [0, 1, 0], [0, 0, 1]]))
    assert score.matched_by == "position"
    assert score.average_precisions[:3] == (100.0, 100.0, 100.0)
    assert np.isnan(score.average_precisions[3:]).all()
    assert len(score.average_precisions) == 10
    assert score.f1 == 100
