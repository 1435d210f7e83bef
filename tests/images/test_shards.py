from __future__ import annotations

import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anabranch.errors import DatasetError, ImageError
from anabranch.images.labelled import LabelledArray, open_labelled
from anabranch.images.shards import write_shards


def png(value: int) -> bytes:
    """A 4 x 3 picture of one grey, without loss."""
    file = io.BytesIO()
    Image.new("RGB", (3, 4), (value, value, value)).save(file, "PNG")
    return file.getvalue()


def grey(labelled, index: int) -> int:
    return int(labelled.picture(index)[0, 0, 0])


def tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    """A tar of these members, as the standard library writes it."""
    with tarfile.open(path, mode) as file:
        for name, held in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(held)
            file.addfile(member, io.BytesIO(held))
    return path


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    for at, name in enumerate(["cat/a.png", "cat/b.v2.png", "cat/ä ö.PNG", "dog/a.png", "dog/b.png"]):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(10 * at))
    return tmp_path / "set"


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """A folder with a shard of two samples, as others write them."""
    (tmp_path / "shards").mkdir()
    members = {"x/0.cls": b"1", "x/0.PNG": png(7), "x/1.cls": b"0\n", "x/1.png": png(8), "x/1.txt": b"a caption"}
    tar(tmp_path / "shards" / "b.tar", members)
    return tmp_path / "shards"


# ---- Written -------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back_with_files_labels_and_class_names(classes, tmp_path):
    data = open_labelled(classes)
    assert len(write_shards(data, tmp_path / "out", max_bytes=100)) > 1
    again = open_labelled(tmp_path / "out")
    assert again.class_names == ("cat", "dog")
    held = {again.encoded(index)[1]: int(again.labels[index]) for index in range(len(again))}
    assert held == {
        (classes / name).read_bytes(): int(label) for name, label in zip(data.names, data.labels, strict=True)
    }
    assert {grey(again, index) for index in range(len(again))} == {0, 10, 20, 30, 40}


def test_webdataset_reads_what_is_written(classes, tmp_path):
    theirs = pytest.importorskip("webdataset.tariterators")
    samples = []
    for shard in write_shards(open_labelled(classes), tmp_path / "out", max_bytes=100):
        with shard.open("rb") as file:
            members = [{**member, "__url__": str(shard)} for member in theirs.tar_file_iterator(file)]
        samples += theirs.group_by_keys(members)
    wanted = {(classes / name).read_bytes(): name.startswith("dog") for name in open_labelled(classes).names}
    assert {sample["png"]: int(sample["cls"]) for sample in samples} == wanted
    assert len({sample["__key__"] for sample in samples}) == 5


def test_the_order_is_drawn_by_the_seed_and_the_bytes_are_the_same_again(classes, tmp_path):
    data = open_labelled(classes)
    made = {}
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        write_shards(data, tmp_path / name, seed=seed)
        made[name] = (tmp_path / name / "000000.tar").read_bytes()
    assert made["one"] == made["again"] != made["two"]
    assert open_labelled(tmp_path / "one").labels.tolist() != data.labels.tolist()


def test_shards_can_be_written_anew_from_shards(classes, tmp_path):
    write_shards(open_labelled(classes), tmp_path / "one", seed=1)
    write_shards(open_labelled(tmp_path / "one"), tmp_path / "two", seed=2)
    assert sorted(grey(open_labelled(tmp_path / "two"), index) for index in range(5)) == [0, 10, 20, 30, 40]


def test_pictures_in_memory_are_written_without_loss(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 6), dtype=np.uint8)
    write_shards(LabelledArray(list("abcd"), pixels, np.arange(4)), tmp_path / "out")
    again = open_labelled(tmp_path / "out")
    assert again.class_names is None
    for index, label in enumerate(again.labels.tolist()):
        assert np.array_equal(again.picture(index)[:, :, 1], pixels[label])


def test_a_folder_with_something_in_it_is_not_written_to(classes, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(DatasetError, match="out: is there already; choose a place"):
        write_shards(open_labelled(classes), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_nothing_is_left_of_shards_that_could_not_be_finished(classes, tmp_path):
    data = open_labelled(classes)
    (classes / "dog" / "b.png").unlink()
    with pytest.raises(ImageError, match=r"b\.png: cannot be read"):
        write_shards(data, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_file_without_a_pictures_suffix_is_named(tmp_path):
    (tmp_path / "raw").write_bytes(png(1))
    (tmp_path / "list.txt").write_text("raw 0\n")
    with pytest.raises(DatasetError, match="raw: in a shard the suffix says what a file is"):
        write_shards(open_labelled(tmp_path / "list.txt"), tmp_path / "out")


def test_several_labels_a_picture_and_shards_of_no_size_are_refused(classes, tmp_path):
    (classes / "set.csv").write_text("path,label\ncat/a.png,cat;dog\n")
    with pytest.raises(DatasetError, match="several labels a picture are not written to shards"):
        write_shards(open_labelled(classes / "set.csv", multi_label=True), tmp_path / "out")
    with pytest.raises(DatasetError, match="shards of 0 bytes cannot be written"):
        write_shards(open_labelled(classes), tmp_path / "out", max_bytes=0)


def test_a_class_whose_name_is_no_text_is_refused_before_anything_is_packed(classes, tmp_path):
    data = replace(open_labelled(classes), class_names=("ant", os.fsdecode(b"caf\xe9")))
    with pytest.raises(DatasetError, match=r"class 1 is called 'caf\\udce9'"):
        write_shards(data, tmp_path / "out", report=lambda: pytest.fail("packed"))
    assert not (tmp_path / "out").exists()


def test_every_picture_is_reported_once(classes, tmp_path):
    done = []
    write_shards(open_labelled(classes), tmp_path / "out", report=lambda: done.append(1))
    assert len(done) == 5


# ---- Read ----------------------------------------------------------------------------------------------------------


def test_a_shard_of_others_is_read_in_its_order(shard):
    data = open_labelled(shard)
    assert list(data.names) == ["b.tar/x/0.PNG", "b.tar/x/1.png"]
    assert data.labels.tolist() == [1, 0]
    assert data.labels.dtype == np.int64
    assert [grey(data, index) for index in (0, 1, -1)] == [7, 8, 8]
    assert (data.class_names, data.pixels, data.targets) == (None, None, None)
    with pytest.raises(IndexError):
        data.picture(2)


def test_groups_are_the_pictures_of_each_shard(shard):
    tar(
        shard / "a.tar",
        {"0.png": png(1), "0.cls": b"0", "1.png": png(2), "1.cls": b"0", "2.png": png(3), "2.cls": b"0"},
    )
    data = open_labelled(shard)
    assert list(data.groups) == [range(3), range(3, 5)]
    assert [grey(data, index) for index in range(5)] == [1, 2, 3, 7, 8]


def test_a_member_that_lies_elsewhere_is_a_name_and_is_never_unpacked(tmp_path):
    folder = tmp_path / "in" / "side"
    folder.mkdir(parents=True)
    tar(folder / "a.tar", {"../up.png": png(1), "../up.cls": b"0", "/tmp/abs.png": png(2), "/tmp/abs.cls": b"1"})
    data = open_labelled(folder)
    assert [grey(data, 0), grey(data, 1)] == [1, 2]
    assert not (tmp_path / "in" / "up.png").exists()


def test_a_damaged_picture_is_an_image_error_that_names_shard_and_member(tmp_path):
    tar(tmp_path / "a.tar", {"x/0.jpg": b"\xff\xd8\xff", "x/0.cls": b"0"})
    with pytest.raises(ImageError, match=r"a\.tar/x/0\.jpg"):
        open_labelled(tmp_path).picture(0)


def test_a_shard_that_changes_under_an_open_set_is_noticed(shard):
    data = open_labelled(shard)
    tar(shard / "b.tar", {"y.png": png(1), "y.cls": b"0"})
    with pytest.raises(ImageError, match=r"b\.tar: has changed since it was opened"):
        data.picture(0)


def test_labels_beyond_the_class_names_are_refused(shard):
    (shard / "classes.json").write_text('["only"]')
    with pytest.raises(DatasetError, match=r"b\.tar/x/0\.PNG: its label is 1, but classes\.json names 1 classes"):
        open_labelled(shard)


def test_compressed_shards_are_refused_with_the_reason(tmp_path):
    tar(tmp_path / "a.tar.gz", {"0.png": png(1), "0.cls": b"1"}, "w:gz")
    with pytest.raises(DatasetError, match=r"a\.tar\.gz: a compressed tar cannot be read at random"):
        open_labelled(tmp_path)
    (tmp_path / "a.tar.gz").rename(tmp_path / "a.tar")
    with pytest.raises(DatasetError, match="or unpack it if it is compressed"):
        open_labelled(tmp_path)


def test_shards_beside_class_folders_are_refused(shard):
    (shard / "cat").mkdir()
    with pytest.raises(DatasetError, match=r"holds shards \(b\.tar, \.\.\.\) and folders \(cat, \.\.\.\)"):
        open_labelled(shard)


def test_a_split_is_a_folder_of_shards_or_a_word_in_their_names(shard, tmp_path):
    assert len(open_labelled(tmp_path, split="shards")) == 2
    (shard / "b.tar").rename(shard / "flowers-train-000.tar")
    tar(shard / "flowers-validation-000.tar", {"0.png": png(1), "0.cls": b"0"})
    assert (len(open_labelled(shard, split="train")), len(open_labelled(shard, split="validation"))) == (2, 1)
    with pytest.raises(DatasetError, match="shards of the splits train, validation; say which"):
        open_labelled(shard)
    with pytest.raises(
        DatasetError, match=r"no folder 'test', and none of its 2 shards .* has the word 'test' in its name; give them"
    ):
        open_labelled(shard, split="test")
