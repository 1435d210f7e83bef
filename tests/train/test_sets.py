from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from anabranch.errors import DatasetError
from anabranch.train.sets import doubts, open_sets
from anabranch.train.tables import Data, Source


def photos(folder: Path, *classes: str, count: int = 4) -> Path:
    for name in classes:
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / name / f"{index}.png")
    return folder


def in_one(folder: Path) -> Data:
    return Data(train=Source(path=str(folder)), hold_out=0.2)


def in_splits(folder: Path) -> Data:
    return Data(train=Source(path=str(folder), split="train"), test=Source(path=str(folder), split="val"))


def refusal(data: Data) -> str:
    with pytest.raises(DatasetError) as caught:
        open_sets(data)
    return str(caught.value)


def test_one_class_is_refused_since_there_is_nothing_to_tell_apart(tmp_path: Path) -> None:
    photos(tmp_path / "set", "ant")
    assert refusal(in_one(tmp_path / "set")) == (
        f"{tmp_path}/set: holds one class, 'ant', and there is nothing to tell apart; add pictures of another"
    )


def test_a_folder_one_too_high_is_told_with_the_one_to_give(tmp_path: Path) -> None:
    photos(tmp_path / "set/outer", "a", "b", "c")
    assert refusal(in_one(tmp_path / "set")).endswith(
        f"It holds the folders a, b, c; if these are the classes, give {tmp_path}/set/outer"
    )
    assert open_sets(in_one(tmp_path / "set/outer")).class_names == ("a", "b", "c")


def test_splits_in_a_folder_one_too_high_are_not_called_classes(tmp_path: Path) -> None:
    photos(tmp_path / "set/outer/train", "a", "b")
    photos(tmp_path / "set/outer/Val", "a", "b")
    assert f"the folders Val, train; if these are the splits, give {tmp_path}/set/outer" in refusal(
        in_one(tmp_path / "set")
    )


@pytest.mark.parametrize("name", ["new\nline", os.fsdecode(b"caf\xe9")])
def test_a_class_whose_name_no_artefact_could_hold_is_refused_before_it_is_learnt(tmp_path: Path, name: str) -> None:
    photos(tmp_path / "set", "ant", name)
    assert f"/set: class 1 is called {name!a}; a name is one line of text" in refusal(in_one(tmp_path / "set"))


def test_names_in_a_recipe_are_held_to_the_same(tmp_path: Path) -> None:
    photos(tmp_path, "ant", "bee")
    (tmp_path / "set.txt").write_text("ant/0.png 0\nant/1.png 0\nbee/0.png 1\nbee/1.png 1\n")
    source = Source(path=str(tmp_path / "set.txt"))
    assert refusal(Data(train=source, hold_out=0.5, class_names=("ant", ""))).startswith(
        "data.class_names: class 1 is called ''; "
    )


def test_one_class_of_which_a_picture_has_any_number_is_a_question(tmp_path: Path) -> None:
    photos(tmp_path, "ant")
    (tmp_path / "set.csv").write_text("path,label\nant/0.png,ant\nant/1.png,\n")
    listed = Source(path=str(tmp_path / "set.csv"))
    assert open_sets(Data(train=listed, test=listed, multi_label=True)).class_names == ("ant",)


def test_a_class_that_the_test_pictures_lack_is_named_with_both_folders(tmp_path: Path) -> None:
    photos(tmp_path / "train", "a", "b", "c")
    photos(tmp_path / "val", "a", "b")
    assert refusal(in_splits(tmp_path)) == (
        f"{tmp_path}/val: its classes a, b are not those of {tmp_path}/train, a, b, c: missing are c. "
        "Make both the same"
    )


def test_lists_of_other_classes_are_told_of_the_file_that_names_them(tmp_path: Path) -> None:
    photos(tmp_path, "a", "b")
    for name, text in (("train", "a/0.png,a\nb/0.png,b\n"), ("val", "a/1.png,a\na/2.png,a\n")):
        (tmp_path / f"{name}.csv").write_text(f"path,label\n{text}")
    said = refusal(Data(train=Source(path=str(tmp_path / "train.csv")), test=Source(path=str(tmp_path / "val.csv"))))
    assert said.startswith(f"{tmp_path}/val.csv: its classes a are not those of {tmp_path}/train.csv, a, b: ")
    assert said.endswith("a classes.json beside lists or shards names their classes")


def test_a_class_that_is_named_and_shown_in_no_picture_is_told(tmp_path: Path) -> None:
    photos(tmp_path, "ant", "bee")
    lines = [f"{name}/{index}.png {label}" for name, label in (("ant", 0), ("bee", 2)) for index in range(4)]
    (tmp_path / "set.txt").write_text("\n".join(lines))
    source = Source(path=str(tmp_path / "set.txt"))
    sets = open_sets(Data(train=source, hold_out=0.5, class_names=("ant", "wasp", "bee")))
    assert doubts(sets) == ("1 of 3 classes have no picture to learn from: wasp",)
    (tmp_path / "set.csv").write_text("path,label\nant/0.png,0\nbee/0.png,0;2\n")
    source = Source(path=str(tmp_path / "set.csv"))
    several = Data(train=source, test=source, class_names=("ant", "wasp", "bee"), multi_label=True)
    assert doubts(open_sets(several)) == doubts(sets)


def test_files_that_are_not_read_are_counted_once_where_some_pictures_are_held_out(tmp_path: Path) -> None:
    photos(tmp_path, "ant", "bee")
    for name in ("ant/0.heic", "bee/1.HEIC"):
        (tmp_path / name).touch()
    sets = open_sets(in_one(tmp_path))
    assert (dict(sets.shown.ignored), dict(sets.tested.ignored)) == ({".heic": 2}, {})
