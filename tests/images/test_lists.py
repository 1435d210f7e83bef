"""What `test_labelled` does not show: several labels a picture, and classes that are named beside a list."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anabranch.errors import DatasetError
from anabranch.images.lists import read_classes, read_rows, read_targets


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_several_names_a_picture_become_rows_of_ones(tmp_path):
    paths, targets, classes = read_targets(
        write(tmp_path / "a.csv", "path,label\na.png,dog; ball\nb.png,\nc.png,ant\n")
    )
    assert (paths, classes) == (["a.png", "b.png", "c.png"], ("ant", "ball", "dog"))
    assert targets.tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert targets.dtype == np.uint8


def test_several_numbers_a_picture_become_rows_of_ones(tmp_path):
    _, targets, classes = read_targets(write(tmp_path / "a.csv", "label,path\n3;0,a.png\n1,b.png\n"))
    assert (targets.tolist(), classes) == ([[1, 0, 0, 1], [0, 1, 0, 0]], None)


def test_classes_beside_the_list_give_their_number_and_order(tmp_path):
    write(tmp_path / "classes.json", '["dog", "cat", "ball", "öl"]')
    _, targets, classes = read_targets(write(tmp_path / "a.csv", "path,label\na.png,ball;dog\n"))
    assert (targets.tolist(), classes) == ([[1, 0, 1, 0]], ("dog", "cat", "ball", "öl"))
    _, targets, _ = read_targets(write(tmp_path / "b.csv", "path,label\na.png,1\n"))
    assert targets.tolist() == [[0, 1, 0, 0]]
    assert read_rows(write(tmp_path / "c.csv", "path,label\na.png,ball\n"))[1].tolist() == [2]
    assert read_rows(write(tmp_path / "d.txt", "a.png 3\n"))[2] == ("dog", "cat", "ball", "öl")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,label\na.png,dog;dog\n", "line 2: 'dog;dog' holds an empty label, or one of them twice"),
        ("path,label\na.png,dog;;cat\n", "line 2: 'dog;;cat' holds an empty label"),
        ("path,label\na.png,\nb.png,\n", "no picture in it has a label"),
        ("path,label\n", "no picture"),
        ("path,label\na.png,1\nb.png,2;cat\n", "line 3: label 'cat' is not a whole number .* while others are"),
        ("path,label\n,cat\n", "line 2: ',cat' lacks a path"),
        ("path,label\n" + "a.png,999999999\n" * 9, "9 pictures times 1,000,000,000 classes are more than"),
    ],
)
def test_bad_labels_are_refused_with_file_and_line(tmp_path, text, said):
    with pytest.raises(DatasetError, match=said) as caught:
        read_targets(write(tmp_path / "a.csv", text))
    assert str(caught.value).startswith(str(tmp_path / "a.csv"))


def test_several_labels_where_one_was_asked_for_say_how_to_ask(tmp_path):
    with pytest.raises(DatasetError, match=r"line 2: 'dog;cat' holds ';'.*multi_label=True"):
        read_rows(write(tmp_path / "a.csv", "path,label\na.png,dog;cat\n"))


def test_a_list_of_lines_has_one_label_a_picture(tmp_path):
    with pytest.raises(DatasetError, match="read from a CSV"):
        read_targets(write(tmp_path / "a.txt", "a.png 1\n"))


def test_labels_that_the_classes_beside_do_not_know_are_refused(tmp_path):
    write(tmp_path / "classes.json", '["dog", "cat"]')
    with pytest.raises(DatasetError, match=r"line 3: 'eel' is none of the classes in classes\.json"):
        read_rows(write(tmp_path / "a.csv", "path,label\na.png,cat\na.png,eel\n"))
    with pytest.raises(DatasetError, match=r"line 2: label 2, but classes\.json beside it names 2 classes"):
        read_rows(write(tmp_path / "a.txt", "a.png 1\na.png 2\n"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"0": "cat"}', "an array of names is wanted"),
        ("[]", "an array of names is wanted"),
        ('["cat", 3]', "an array of names is wanted"),
        ('["cat", "cat"]', "two of its 2 classes have one name"),
        ("cat\ndog\n", "not JSON"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_class_names_that_are_no_array_of_names_are_refused(tmp_path, text, said):
    write(tmp_path / "classes.json", text)
    with pytest.raises(DatasetError, match=said):
        read_classes(tmp_path)


def test_a_folder_without_class_names_gives_none(tmp_path):
    assert read_classes(tmp_path) is None
