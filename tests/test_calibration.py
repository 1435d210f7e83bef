from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anabranch.calibration import draw
from anabranch.errors import DatasetError, ImageError
from anabranch.images.labelled import open_labelled, open_pictures
from anabranch.images.preprocess import Preprocess

INPUT = Preprocess(crop_px=4, resize_px=4)
LABELS = ("dog", "cat", "cow")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """30 cats and 30 dogs, each picture of one grey that no other has."""
    for index in range(60):
        path = tmp_path / "set" / ("cat", "dog")[index % 2] / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (index, index, index)).save(path)
    return tmp_path / "set"


def greys(pixels: np.ndarray) -> list[int]:
    return pixels[:, 0, 0, 0].tolist()


def test_half_of_few_pictures_calibrate_and_the_others_are_measured_on(folder: Path) -> None:
    pictures, notes = draw(open_labelled(folder), INPUT, LABELS, name="set")
    assert pictures.calibration is not None
    assert (pictures.calibration.shape, pictures.measured.shape) == ((30, 4, 4, 3), (30, 4, 4, 3))
    assert sorted(greys(pictures.calibration) + greys(pictures.measured)) == list(range(60))
    assert pictures.name == "30 pictures of set, others than the 30 it was calibrated by"
    assert notes == ()


def test_the_truth_is_told_by_the_models_labels_and_not_by_the_sets(folder: Path) -> None:
    pictures, _ = draw(open_labelled(folder), INPUT, LABELS, name="set")
    assert pictures.truth is not None
    assert pictures.truth.tolist() == [(1, 0)[grey % 2] for grey in greys(pictures.measured)]  # even ones are cats


def test_the_same_pictures_are_drawn_each_time_and_from_all_over_the_set(folder: Path) -> None:
    first, second = (draw(open_labelled(folder), INPUT, LABELS, name="set").pictures for _ in range(2))
    np.testing.assert_array_equal(first.measured, second.measured)
    assert 8 <= sum(grey % 2 for grey in greys(first.measured)) <= 22


class Many:
    """Of its pictures one in `damaged` cannot be read."""

    def __init__(self, count: int, damaged: int) -> None:
        self.labels = np.full(count, -1)
        self.damaged = damaged

    def __len__(self) -> int:
        return len(self.labels)

    def picture(self, index: int) -> np.ndarray:
        if index % self.damaged == 0:
            raise ImageError(f"{index}.png: the file is empty")
        return np.full((4, 4, 3), index % 256, np.uint8)


def test_of_many_pictures_300_calibrate_and_1000_are_measured_on() -> None:
    pictures, notes = draw(Many(5000, damaged=5001), INPUT, LABELS, name="many")  # type: ignore[arg-type]
    assert pictures.calibration is not None
    assert len(pictures.calibration) + len(pictures.measured) + len(notes) == 1300
    assert (len(pictures.calibration), pictures.truth) == (300, None)


@pytest.mark.parametrize("wanted", [32, 2000])
def test_as_many_as_are_asked_for_are_measured_on(wanted: int) -> None:
    pictures, notes = draw(Many(5000, damaged=5001), INPUT, LABELS, name="many", measured=wanted)  # type: ignore[arg-type]
    assert pictures.calibration is not None
    assert (len(pictures.calibration), len(pictures.measured) + len(notes)) == (300, wanted)


def test_where_nothing_is_calibrated_all_are_measured_on(folder: Path) -> None:
    pictures, _ = draw(open_labelled(folder), INPUT, LABELS, name="set", measured=50, calibrates=False)
    assert (len(pictures.measured), pictures.calibration, pictures.name) == (50, None, "50 pictures of set")
    assert pictures.truth is not None
    assert pictures.truth.tolist() == [(1, 0)[grey % 2] for grey in greys(pictures.measured)]


def test_of_the_pictures_that_are_drawn_one_in_a_hundred_may_be_unreadable() -> None:
    drawn = draw(Many(20_000, damaged=400), INPUT, LABELS, name="many")  # type: ignore[arg-type]
    assert 0 < len(drawn.notes) <= 13
    with pytest.raises(DatasetError, match=r"cannot be read: \d+\.png: the file is empty; .* at most one in a hundred"):
        draw(Many(20_000, damaged=40), INPUT, LABELS, name="many")  # type: ignore[arg-type]


def test_loose_pictures_without_labels_do_too(folder: Path) -> None:
    for path in sorted(folder.glob("*/*.png")):
        path.rename(folder / path.name)
    pictures, notes = draw(open_pictures(folder), INPUT, LABELS, name="set")
    assert (len(pictures.measured), pictures.truth, notes) == (30, None, ())


def test_classes_that_the_model_does_not_know_cost_the_accuracy_and_are_told(folder: Path) -> None:
    pictures, notes = draw(open_labelled(folder), INPUT, ("dog", "cow", "hen"), name="set")
    assert pictures.truth is None
    assert len(notes) == 1
    assert "no accuracy is measured: the set has 2 classes" in notes[0]


def test_classes_that_are_matched_by_position_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "flowers"
    for name in ("daisy", "rose", "tulip"):
        (folder / name).mkdir(parents=True)
        for index in range(20):
            Image.new("RGB", (40, 40)).save(folder / name / f"{index}.png")
    drawn = draw(open_labelled(folder), INPUT, ("dog", "cow", "hen"), name="flowers")
    assert drawn.pictures.truth is not None
    assert len(drawn.notes) == 1
    assert "'daisy' was taken for 'dog', and so on by position" in drawn.notes[0]


def test_too_few_pictures_are_refused(folder: Path) -> None:
    for path in sorted(folder.glob("*/*.png"))[31:]:
        path.unlink()
    with pytest.raises(DatasetError, match="set: 31 pictures are there to calibrate by; 32 at least are wanted"):
        draw(open_labelled(folder), INPUT, LABELS, name="set")


def test_pictures_that_cannot_be_read_are_refused_with_the_first_of_them(folder: Path) -> None:
    for path in sorted(folder.glob("cat/*.png"))[:3]:
        path.write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"57 pictures .* and 3 cannot be read: .*\.png: not a picture"):
        draw(open_labelled(folder), INPUT, LABELS, name="set")
