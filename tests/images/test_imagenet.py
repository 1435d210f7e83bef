"""ImageNet's validation pictures, labelled as its devkit, Kaggle and PaddleClas do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from anabranch.errors import DatasetError
from anabranch.images.imagenet import TRUTH
from anabranch.images.labelled import open_labelled

# Number, WordNet id, words and kinds below it, of a few rows of the devkit's table: two are kinds of classes.
SYNSETS = [
    (1, "n02119789", "kit fox, Vulpes macrotis", 0),
    (2, "n02100735", "English setter", 0),
    (3, "n01440764", "tench, Tinca tinca", 0),
    (4, "n00001740", "entity", 2),
    (5, "n02084071", "dog", 1),
]


def put(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(folder / name, "JPEG")
    return folder


def put_val(folder: Path, count: int) -> Path:
    return put(folder, *(f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, count + 1)))


def put_devkit(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    rows = np.array(
        [(number, wordnet_id, words, f"what {words} is", children) for number, wordnet_id, words, children in SYNSETS],
        dtype=[(name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children")],
    )
    scipy.io.savemat(folder / "meta.mat", {"synsets": rows[:, None]})
    (folder / TRUTH).write_text(text)
    return folder / TRUTH


def test_the_devkits_numbers_lead_to_synsets_in_sorted_order(tmp_path):
    val = put_val(tmp_path / "val", 4)
    data = open_labelled(val, labels=put_devkit(tmp_path / "devkit", "1\n3\n2\n1\n"))
    assert data.class_names == ("n01440764", "n02100735", "n02119789")
    assert [data.class_names[label] for label in data.labels] == ["n02119789", "n01440764", "n02100735", "n02119789"]
    assert list(data.names) == sorted(path.name for path in val.iterdir())
    assert data.picture(3).shape == (3, 4, 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1\n3\n2\n", "labels 3 pictures, and .*val holds 4; give the folder of them all"),
        ("1\n3\n4\n1\n", r"line 3: 4 is no class of .*meta\.mat"),
        ("1\n3\n2\nx\n", r"line 4: x is no class of"),
    ],
)
def test_numbers_that_do_not_fit_are_told(tmp_path, text, said):
    val = put_val(tmp_path / "val", 4)
    with pytest.raises(DatasetError, match=said):
        open_labelled(val, labels=put_devkit(tmp_path / "devkit", text))


def test_pictures_of_other_names_are_not_taken_for_imagenets(tmp_path):
    val = put(put_val(tmp_path / "val", 2), "ILSVRC2012_val_00000004.JPEG")
    with pytest.raises(DatasetError, match=r"00000004.JPEG: picture 3 of .* is called ILSVRC2012_val_00000003\.JPEG"):
        open_labelled(val, labels=put_devkit(tmp_path / "devkit", "1\n3\n2\n"))


def test_numbers_without_their_table_or_with_a_damaged_one_are_told(tmp_path):
    val, truth = put_val(tmp_path / "val", 1), put_devkit(tmp_path / "devkit", "1\n")
    (tmp_path / "devkit/meta.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(DatasetError, match=r"meta\.mat: not the devkit's table of classes"):
        open_labelled(val, labels=truth)
    (tmp_path / "devkit/meta.mat").unlink()
    with pytest.raises(DatasetError, match=r"numbers without pictures.* Put that, meta\.mat, beside it, or give"):
        open_labelled(val, labels=truth)


def test_kaggles_solution_is_read_as_it_is(tmp_path):
    val = put_val(tmp_path / "CLS-LOC/val", 3)
    solution = tmp_path / "LOC_val_solution.csv"
    solution.write_text(
        "ImageId,PredictionString\n"
        "ILSVRC2012_val_00000003,n02119789 85 1 499 272 n02119789 1 2 3 4 \n"
        "ILSVRC2012_val_00000001,n01440764 131 0 499 254 \n"
    )
    data = open_labelled(val, labels=solution)
    assert list(data.names) == ["ILSVRC2012_val_00000003.JPEG", "ILSVRC2012_val_00000001.JPEG"]
    assert data.class_names == ("n01440764", "n02119789")
    assert data.labels.tolist() == [1, 0]


@pytest.mark.parametrize("line", ["ILSVRC2012_val_00000001,", ",n01440764 1 2 3 4", "ILSVRC2012_val_00000001"])
def test_a_row_of_kaggles_that_lacks_something_is_named(tmp_path, line):
    val, solution = put_val(tmp_path / "val", 1), tmp_path / "LOC_val_solution.csv"
    solution.write_text(f"ImageId,PredictionString\n{line}\n")
    with pytest.raises(DatasetError, match="line 2: .* lacks a picture or a synset"):
        open_labelled(val, labels=solution)


def test_a_lists_paths_may_begin_at_its_own_folder(tmp_path):
    """PaddleClas' val_list.txt lies beside val/ and names val/ILSVRC2012_val_00000001.JPEG."""
    val = put_val(tmp_path / "val", 2)
    (tmp_path / "val_list.txt").write_text(
        "val/ILSVRC2012_val_00000001.JPEG 65\nval/ILSVRC2012_val_00000002.JPEG 970\n"
    )
    for folder in (val, tmp_path):
        data = open_labelled(folder, labels=tmp_path / "val_list.txt")
        assert data.labels.tolist() == [65, 970]
        assert data.picture(1).shape == (3, 4, 3)
