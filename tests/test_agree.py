from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from anabranch.agree import agreement, compare
from anabranch.errors import DatasetError, UsageError
from anabranch.images.labelled import open_pictures
from anabranch.runtimes import open_model


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


@pytest.fixture
def photos(tmp_path):
    """12 loose pictures, of which one is none."""
    rng = np.random.default_rng(0)
    for index in range(12):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / f"{index:02}.png")
    (tmp_path / "05.png").write_bytes(b"no picture")
    return open_pictures(tmp_path)


def answering(predictor, change, **card):
    """The predictor with its logits changed."""
    card = replace(predictor.card, **card)
    told = {"card": card, "engine": "changed", "streams": 1}
    return SimpleNamespace(**told, predict=lambda pixels: change(predictor.predict(pixels)))


def test_two_engines_of_one_net_agree_on_all_pictures_that_can_be_read(packed, photos):
    done = []
    ours, reference = (open_model(packed.folder, engine=engine) for engine in ("onnxruntime", "openvino"))
    met = compare(ours, reference, photos, report=done.append)
    assert (met.agreement.num_pictures, met.agreement.top1_flips, met.flips) == (11, 0, ())
    assert met.agreement.relative < 1e-4
    assert [name for name, _ in met.unreadable] == ["05.png"]
    assert done == list(range(2, 25, 2))


def test_a_picture_that_one_of_the_two_cannot_take_is_in_no_figure(packed, tmp_path):
    """A strip of 1 x 1200: OpenCV would resize it as a whole, which is refused; Pillow does with a part of it."""
    rng = np.random.default_rng(0)
    for name, size in (("a", (50, 40)), ("strip", (1200, 1)), ("z", (40, 50))):
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    ours = open_model(packed.folder)
    by_opencv = replace(ours.card.preprocess, resampler="opencv-bilinear", resize_px=256)
    by_pillow = replace(ours.card.preprocess, resize_px=256)
    for order in (by_opencv, by_pillow), (by_pillow, by_opencv):
        pair = (answering(ours, np.copy, preprocess=each) for each in order)
        met = compare(*pair, open_pictures(tmp_path))
        assert met.agreement.num_pictures == 2
        ((name, reason),) = met.unreadable
        assert (name, "is too narrow" in reason) == ("strip.png", True)


def test_each_picture_whose_best_class_is_another_one_is_named_with_both(packed, photos):
    ours = open_model(packed.folder)
    pixels = ours.card.preprocess(photos.picture(0))[None]
    logits = ours.predict(pixels)[0]
    met = compare(answering(ours, np.negative), ours, photos)
    assert met.agreement.top1_flips == len(met.flips) == 11
    first = met.flips[0]
    assert first.name == "00.png"
    assert (first.ours.class_index, first.reference.class_index) == (logits.argmin(), logits.argmax())


def test_classes_in_another_order_are_matched_by_name(packed, photos):
    reference = open_model(packed.folder)
    backwards = answering(reference, lambda logits: logits[:, ::-1], labels=reference.card.labels[::-1])
    met = compare(backwards, reference, photos)
    assert (met.agreement.max_abs, met.flips) == (0, ())


def test_classes_of_one_name_are_told_apart_by_their_place(packed, photos):
    reference = open_model(packed.folder)
    doubled = ("crane", "crane", *reference.card.labels[2:])
    ours = answering(reference, lambda logits: logits[:, [1, 0, 2, 3, 4]], labels=doubled)
    met = compare(ours, answering(reference, np.copy, labels=doubled), photos)
    assert met.agreement.top1_flips == len(met.flips)


def test_models_of_other_classes_are_refused(packed, photos):
    reference = open_model(packed.folder)
    other = answering(reference, np.copy, labels=("x", *reference.card.labels[1:]))
    with pytest.raises(UsageError, match="tiny.random has 5 classes and tiny.random 5, and they are not the same ones"):
        compare(other, reference, photos)


def test_a_folder_of_which_no_picture_can_be_read_is_refused(packed, tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    predictor = open_model(packed.folder)
    with pytest.raises(DatasetError, match=r"none of the 1 pictures could be read; the first: .*x\.png"):
        compare(predictor, predictor, open_pictures(tmp_path))
