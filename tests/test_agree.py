from __future__ import annotations

import math

import numpy as np
import pytest

from anabranch.agree import agreement
from anabranch.errors import UsageError


class Fixed:
    """A predictor whose logits are the first K values of each picture, plus a constant."""

    card = None

    def __init__(self, plus):
        self.plus = plus
        self.batches = []

    def predict(self, pixels):
        self.batches.append(len(pixels))
        return pixels.reshape(len(pixels), -1)[:, :3].astype(np.float32) + self.plus


def test_the_figures_are_those_worked_out_by_hand():
    ours = np.array([[1.0, 2.0, -9.0], [5.0, 4.0, 0.0]], np.float32)
    theirs = np.array([[1.0, 2.5, -9.0], [4.0, 5.0, 0.0]], np.float32)
    met = agreement(ours, theirs)
    assert (met.max_abs, met.top1_flips, met.num_pictures, met.largest_logit) == (1.0, 1, 2, 9.0)
    assert met.mean_abs == pytest.approx(2.5 / 6)
    assert met.relative == pytest.approx(1 / 9)


def test_predictors_are_asked_batch_by_batch_for_all_pictures():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 2, 2, 3), dtype=np.uint8)
    ours, theirs = Fixed(0.5), Fixed(0)
    met = agreement(ours, theirs, pixels, batch=3)
    assert (met.max_abs, met.mean_abs, met.num_pictures) == (0.5, 0.5, 7)
    assert ours.batches == theirs.batches == [3, 3, 1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_logit_that_is_not_finite_is_infinitely_far(value):
    met = agreement(np.array([[value, 1]], np.float32), np.array([[0, 1]], np.float32))
    assert met.max_abs == math.inf


def test_logits_that_are_all_nought_agree():
    nought = np.zeros((2, 3), np.float32)
    assert agreement(nought, nought).relative == 0


def test_logits_of_different_shapes_are_refused():
    with pytest.raises(UsageError, match=r"\(2, 3\) and \(2, 4\)"):
        agreement(np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32))


def test_a_predictor_without_pictures_is_refused():
    with pytest.raises(UsageError, match="needs pixels"):
        agreement(Fixed(0), Fixed(0))
