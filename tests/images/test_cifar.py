"""CIFAR as it is published: files of the layout that its authors describe, written here by that description."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anabranch.errors import DatasetError
from anabranch.images.labelled import open_labelled, open_unlabelled

RNG = np.random.default_rng(0)


def record(picture: np.ndarray, *labels: int) -> bytes:
    """Labels, then all of red, all of green, all of blue, each row by row."""
    return bytes(labels) + b"".join(picture[:, :, channel].tobytes() for channel in range(3))


def pictures(count: int) -> np.ndarray:
    return RNG.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def cifar100(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    shown, tested = pictures(4), pictures(2)
    (tmp_path / "train.bin").write_bytes(
        b"".join(record(each, 7, label) for each, label in zip(shown, [2, 0, 1, 2], strict=True))
    )
    (tmp_path / "test.bin").write_bytes(
        b"".join(record(each, 9, label) for each, label in zip(tested, [1, 0], strict=True))
    )
    (tmp_path / "fine_label_names.txt").write_text("apple\naquarium_fish\nbaby\n")
    (tmp_path / "coarse_label_names.txt").write_text("fruit\nfish\n")
    return tmp_path, shown, tested


def test_cifar_100_gives_its_fine_classes(cifar100):
    folder, shown, tested = cifar100
    for split, wanted, labels in (("train", shown, [2, 0, 1, 2]), ("test", tested, [1, 0])):
        data = open_labelled(folder, split=split)
        assert data.class_names == ("apple", "aquarium_fish", "baby")
        assert data.labels.tolist() == labels
        np.testing.assert_array_equal([data.picture(index) for index in range(len(data))], wanted)
    assert open_unlabelled(folder, split="train").labels.tolist() == [-1] * 4


def test_cifar_10_is_learnt_from_five_files(tmp_path):
    shown = pictures(5)
    for index, each in enumerate(shown):
        (tmp_path / f"data_batch_{index + 1}.bin").write_bytes(record(each, index % 3))
    (tmp_path / "test_batch.bin").write_bytes(record(pictures(1)[0], 2))
    (tmp_path / "batches.meta.txt").write_text("airplane\nautomobile\nbird\n\n")
    data = open_labelled(tmp_path, split="train")
    assert (data.labels.tolist(), data.class_names) == ([0, 1, 2, 0, 1], ("airplane", "automobile", "bird"))
    np.testing.assert_array_equal([data.picture(index) for index in range(5)], shown)
    assert len(open_labelled(tmp_path, split="test")) == 1


def test_a_split_is_asked_for(cifar100):
    for split in (None, "val"):
        with pytest.raises(DatasetError, match="holds CIFAR's splits train and test; say which"):
            open_labelled(cifar100[0], split=split)


def test_a_file_that_is_cut_short_and_a_label_without_a_name_are_told(cifar100):
    folder, *_ = cifar100
    whole = (folder / "train.bin").read_bytes()
    (folder / "train.bin").write_bytes(whole[:-1])
    with pytest.raises(DatasetError, match=r"train\.bin: 12,295 bytes are no whole number of pictures of 3,074"):
        open_labelled(folder, split="train")
    (folder / "train.bin").write_bytes(whole)
    (folder / "fine_label_names.txt").write_text("apple\n")
    with pytest.raises(DatasetError, match=r"holds label 2, but fine_label_names\.txt names 1 classes"):
        open_labelled(folder, split="train")


@pytest.mark.parametrize("names", [["train", "test", "meta"], ["data_batch_1", "test_batch", "batches.meta"]])
def test_the_pickled_version_is_told_which_to_take(tmp_path, names):
    for name in names:
        (tmp_path / name).write_bytes(b"\x80\x02")
    with pytest.raises(DatasetError, match=r"CIFAR for Python.*unpack the binary version"):
        open_labelled(tmp_path, split="train")
