from __future__ import annotations

import gzip
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anabranch.errors import DatasetError, ImageError
from anabranch.images.labelled import LabelledArray, open_labelled, open_pictures, open_unlabelled, upright
from anabranch.images.shards import write_shards

FASHION = Path("/usr/share/datasets/fashion-mnist")


def put(path: Path, value: int = 0) -> Path:
    """A 4 x 3 picture of one grey, without loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 4), (value, value, value)).save(path, "PNG")
    return path


def grey(labelled, index: int) -> int:
    return int(labelled.picture(index)[0, 0, 0])


def idx(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def test_pictures_are_opened_without_their_labels_from_wherever_they_lie(tmp_path):
    for place, value in (("a/1.png", 1), ("a/b/2.png", 2), ("3.png", 3), ("c/notes.txt", 0)):
        put(tmp_path / place, value)
    data = open_unlabelled(tmp_path)
    assert sorted(grey(data, index) for index in range(len(data))) == [1, 2, 3]
    assert (data.labels.tolist(), data.class_names) == ([-1, -1, -1], None)
    (tmp_path / "list.txt").write_text("3.png 5\na/1.png 0\n")
    (tmp_path / "classes.json").write_text('["v", "w", "x", "y", "z", "other"]')
    listed = open_unlabelled(tmp_path / "list.txt")
    assert listed.class_names is None
    assert ([grey(listed, 0), grey(listed, 1)], listed.labels.tolist()) == ([3, 1], [-1, -1])


# ---- Class folders -------------------------------------------------------------------------------------------------


@pytest.fixture
def classes(tmp_path):
    for at, name in enumerate(
        ["dog/z.png", "dog/a.png", "cat/x.jpeg", "10/deep/er/b.png", "10/deep-er/a.png", "2/a.PNG"]
    ):
        put(tmp_path / name, at)
    (tmp_path / "dog" / "notes.txt").touch()
    return tmp_path


def test_class_folders_are_numbered_in_the_sorted_order_of_their_names(classes):
    data = open_labelled(classes)
    # the order of torchvision's ImageFolder: classes as strings sort, then folders, then files
    assert data.class_names == ("10", "2", "cat", "dog")
    assert list(data.names) == [
        "10/deep-er/a.png",
        "10/deep/er/b.png",
        "2/a.PNG",
        "cat/x.jpeg",
        "dog/a.png",
        "dog/z.png",
    ]
    assert data.labels.tolist() == [0, 0, 1, 2, 3, 3]
    assert data.labels.dtype == np.int64
    assert [grey(data, index) for index in range(len(data))] == [4, 3, 5, 2, 1, 0]
    assert data.pixels is None


def image_folder(root: Path) -> list[tuple[str, int]]:
    """torchvision 0.28's ImageFolder, told again: sorted classes, sorted walk, sorted files."""
    samples = []
    for label, name in enumerate(sorted(entry.name for entry in os.scandir(root) if entry.is_dir())):
        for folder, _, files in sorted(os.walk(root / name, followlinks=True)):
            samples += [(os.path.join(folder, file), label) for file in sorted(files) if file.lower().endswith("png")]
    return samples


def test_a_class_that_is_a_link_to_nowhere_is_not_left_out(classes, tmp_path):
    (classes / "fish").symlink_to(tmp_path / "unmounted")
    with pytest.raises(DatasetError, match="fish: a link that leads nowhere"):
        open_labelled(classes)


def test_class_folders_are_in_image_folders_order(tmp_path):
    rng = np.random.default_rng(0)
    letters = np.array(list("aB-_.1é "))
    for _ in range(60):
        parts = ["".join(rng.choice(letters, rng.integers(1, 4))).strip(" .") or "x" for _ in range(rng.integers(1, 4))]
        folder = tmp_path.joinpath("c" + parts[0], *parts[1:])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{rng.integers(0, 30)}.png").touch()
    data = open_labelled(tmp_path)
    ours = [(str(tmp_path / name), label) for name, label in zip(data.names, data.labels.tolist(), strict=True)]
    assert ours == image_folder(tmp_path)


def test_a_split_is_a_folder_within(tmp_path):
    put(tmp_path / "val" / "n01440764" / "ILSVRC2012_val_00000293.JPEG", 7)
    put(tmp_path / "train" / "n01440764" / "n01440764_10026.JPEG", 8)
    data = open_labelled(tmp_path, split="val")
    assert data.class_names == ("n01440764",)
    assert grey(data, 0) == 7


def test_splits_are_not_taken_for_classes(tmp_path):
    put(tmp_path / "val" / "cat" / "a.png")
    put(tmp_path / "train" / "cat" / "b.png")
    with pytest.raises(DatasetError, match="train, val: these are splits, not classes"):
        open_labelled(tmp_path)


@pytest.mark.parametrize("names", ["Training Test", "TRAIN", "Train Val", "train validation eval", "training testing"])
def test_splits_of_any_usual_name_are_not_taken_for_classes(tmp_path, names):
    for name in (*names.split(), ".ipynb_checkpoints"):
        put(tmp_path / name / "cat" / "a.png")
    with pytest.raises(
        DatasetError, match=r"these are splits, not classes; give the folder of one .* call them train and"
    ):
        open_labelled(tmp_path)
    assert open_labelled(tmp_path, split=names.split()[0]).class_names == ("cat",)


def test_a_class_may_be_called_like_a_split(tmp_path):
    for name in ("train", "plane", "car"):
        put(tmp_path / name / "a.png")
    assert open_labelled(tmp_path).class_names == ("car", "plane", "train")


def test_names_that_begin_with_a_dot_are_passed_over(classes):
    put(classes / ".ipynb_checkpoints" / "a-checkpoint.png")
    put(classes / "dog" / ".thumbnails" / "a.png")
    for name in ("dog/._a.png", "._b.png", "._000.tar"):  # what a Mac leaves beside files on other systems' disks
        (classes / name).write_bytes(b"\0\5\x16\7")
    data = open_labelled(classes)
    assert data.class_names == ("10", "2", "cat", "dog")
    assert len(data) == 6


def test_pictures_of_kinds_that_are_not_read_are_counted(classes):
    for name in ("dog/b.heic", "dog/c.HEIC", "cat/film.mov", "cat/Thumbs.db", "cat/raw", "cat/a.json", "cat/.DS_Store"):
        (classes / name).touch()
    data = open_labelled(classes)
    assert len(data) == 6
    assert dict(data.ignored) == {".heic": 2, ".mov": 1, "": 1}


def test_a_class_of_pictures_that_are_not_read_says_so(classes):
    (classes / "phone").mkdir()
    (classes / "phone" / "a.heic").touch()
    with pytest.raises(DatasetError, match=r"phone: this class has no pictures \(left out are 1 \.heic; only \.bmp, "):
        open_labelled(classes)


def test_an_unknown_split_is_refused_with_what_there_is(classes):
    with pytest.raises(DatasetError, match=r"no split 'val'; it holds 10, 2, cat, dog"):
        open_labelled(classes, split="val")


def test_a_class_without_pictures_is_named(classes):
    (classes / "empty").mkdir()
    with pytest.raises(DatasetError, match="empty: this class has no pictures"):
        open_labelled(classes)


def test_imagenets_flat_folder_asks_for_labels(tmp_path):
    put(tmp_path / "ILSVRC2012_val_00000001.JPEG")
    put(tmp_path / "ILSVRC2012_val_00000002.JPEG")
    with pytest.raises(DatasetError, match=r"2 pictures lie in no class folder .*00000001.*give labels"):
        open_labelled(tmp_path)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="neither class folders nor IDX files nor shards; it holds nothing"):
        open_labelled(tmp_path)


def test_a_folder_of_lists_is_told_that_a_list_is_given_itself(tmp_path):
    for name in ("train.txt", "val.txt"):
        (tmp_path / name).touch()
    with pytest.raises(
        DatasetError, match=r"it holds train\.txt, val\.txt\. A list or a CSV is given as the file itself"
    ):
        open_labelled(tmp_path)


def test_a_damaged_picture_is_an_image_error_that_names_it(classes):
    (classes / "cat" / "x.jpeg").write_bytes(b"\xff\xd8\xff")
    data = open_labelled(classes)
    with pytest.raises(ImageError, match=r"cat/x\.jpeg"):
        data.picture(3)


# ---- Lists and CSV -------------------------------------------------------------------------------------------------


def test_a_list_gives_paths_relative_to_its_own_folder(tmp_path):
    put(tmp_path / "val" / "a.png", 1)
    put(tmp_path / "val" / "b c  d.png", 2)
    put(tmp_path / "elsewhere" / "e.png", 3)
    (tmp_path / "val_list.txt").write_text(
        f"\ufeffval/a.png 65\r\nval/b c  d.png\t970\n\n{tmp_path}/elsewhere/e.png  0\n", encoding="utf-8"
    )
    data = open_labelled(tmp_path / "val_list.txt")
    assert list(data.names) == ["val/a.png", "val/b c  d.png", f"{tmp_path}/elsewhere/e.png"]
    assert data.labels.tolist() == [65, 970, 0]
    assert [grey(data, index) for index in range(3)] == [1, 2, 3]
    assert data.class_names is None


def test_a_flat_folder_takes_its_labels_from_a_list(tmp_path):
    put(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG", 9)
    (tmp_path / "labels.txt").write_text("ILSVRC2012_val_00000001.JPEG 65\n")
    data = open_labelled(tmp_path / "val", labels=tmp_path / "labels.txt")
    assert (grey(data, 0), data.labels.tolist()) == (9, [65])
    again = open_labelled(tmp_path, split="val", labels=tmp_path / "labels.txt")
    assert (grey(again, 0), again.labels.tolist()) == (9, [65])


def test_a_csv_of_numbers_gives_numbers(tmp_path):
    put(tmp_path / "a, b.png", 5)
    (tmp_path / "set.csv").write_text('note,label,path\nx,3,"a, b.png"\n')
    data = open_labelled(tmp_path / "set.csv")
    assert (list(data.names), data.labels.tolist(), data.class_names) == (["a, b.png"], [3], None)
    assert grey(data, 0) == 5


def test_a_csv_of_names_gives_the_sorted_names_as_classes(tmp_path):
    put(tmp_path / "a.png")
    (tmp_path / "set.csv").write_text("path,label\na.png,dog\na.png,ankle boot\na.png,dog\n")
    data = open_labelled(tmp_path / "set.csv")
    assert data.class_names == ("ankle boot", "dog")
    assert data.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("l.txt", "a.png 1\na.png cat\n", "line 2: label 'cat' is not a whole number"),
        ("l.txt", "a.png 1\na.png -1\n", "line 2: label '-1'"),
        ("l.txt", "a.png 1.0\n", r"line 1: label '1\.0'"),
        ("l.txt", "a.png 0,1,0\n", "line 1: label '0,1,0'"),
        ("l.txt", "a.png ²\n", "line 1: label '²'"),
        ("l.txt", "a.png 1\n\na.png\n", r"line 3: 'a\.png' is not a path and a label"),
        ("l.txt", "490\n361\n171\n", "these are numbers without pictures.*devkit"),
        ("l.txt", "\n \n", "no pictures are listed"),
        ("l.txt", "b.png 1\n", r"its first picture, .*b\.png, does not exist"),
        ("l.csv", "file,class\na.png,1\n", "its columns are file, class; path and label are wanted"),
        ("l.csv", "", "its columns are none"),
        ("l.csv", "path,label\na.png,1\na.png\n", r"line 3: 'a\.png' lacks a path or a label"),
        ("l.csv", "path,label\na.png,1\n,2\n", "line 3: ',2' lacks"),
        ("l.csv", "path,label\na.png,1\na.png,dog\n", "line 3: label 'dog' is not a whole number .* while others are"),
        ("l.csv", 'path,label\n"a.png,1\n', "line 2: unexpected end of data"),
    ],
)
def test_a_bad_list_is_refused_with_file_and_line(tmp_path, name, text, said):
    put(tmp_path / "a.png")
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DatasetError, match=said) as caught:
        open_labelled(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))


def test_a_file_of_the_list_that_is_absent_is_an_image_error_when_it_is_asked_for(tmp_path):
    put(tmp_path / "a.png")
    (tmp_path / "l.txt").write_text("a.png 0\nb.png 1\n")
    data = open_labelled(tmp_path / "l.txt")
    with pytest.raises(ImageError, match=r"b\.png: no such file"):
        data.picture(1)


def test_a_binary_file_is_no_list(tmp_path):
    put(tmp_path / "a.png")
    with pytest.raises(DatasetError, match="not a text file in UTF-8: byte 0 is 0x89"):
        open_labelled(tmp_path / "a.png")


def test_an_absent_path_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"absent\.txt: no such file or folder"):
        open_labelled(tmp_path / "absent.txt")
    put(tmp_path / "a.png")
    with pytest.raises(DatasetError, match=r"absent\.txt: no such file"):
        open_labelled(tmp_path, labels=tmp_path / "absent.txt")


def test_a_list_takes_neither_a_split_nor_labels(tmp_path):
    put(tmp_path / "a.png")
    (tmp_path / "l.txt").write_text("a.png 0\n")
    with pytest.raises(DatasetError, match="split 'val' chooses within a folder"):
        open_labelled(tmp_path / "l.txt", split="val")
    with pytest.raises(DatasetError, match="a list has its labels within"):
        open_labelled(tmp_path / "l.txt", labels=tmp_path / "l.txt")


def test_a_csv_of_several_labels_gives_targets_and_no_labels(tmp_path):
    put(tmp_path / "a.png")
    (tmp_path / "set.csv").write_text("path,label\na.png,dog;ball\na.png,\n")
    data = open_labelled(tmp_path / "set.csv", multi_label=True)
    assert data.class_names == ("ball", "dog")
    assert data.targets.tolist() == [[1, 1], [0, 0]]
    assert data.labels.tolist() == [-1, -1]
    again = open_labelled(tmp_path, labels=tmp_path / "set.csv", multi_label=True)
    assert again.targets.tolist() == data.targets.tolist()
    with pytest.raises(DatasetError, match="multi_label=True"):
        open_labelled(tmp_path / "set.csv")


def test_where_pictures_alone_are_wanted_a_csv_may_give_them_several_labels(tmp_path):
    put(tmp_path / "a.png")
    for several in ("path,label\na.png,dog;ball\n", "path,label\na.png,\na.png,dog\n"):
        (tmp_path / "set.csv").write_text(several)
        assert open_pictures(tmp_path / "set.csv").labels.tolist() == [-1] * (several.count("\n") - 1)
    (tmp_path / "set.csv").write_text("path,label\na.png,dog\na.png,ball\n")
    assert open_pictures(tmp_path / "set.csv").labels.tolist() == [1, 0]


def test_several_labels_a_picture_want_a_csv(classes):
    (classes / "l.txt").write_text("2/a.PNG 1\n")
    for where in ({"path": classes}, {"path": classes / "l.txt"}, {"path": classes, "labels": classes / "l.txt"}):
        with pytest.raises(DatasetError, match=r"\(multi_label\) are read from a CSV alone"):
            open_labelled(**where, multi_label=True)


def test_a_listed_pictures_file_is_given_as_it_is(classes):
    data = open_labelled(classes)
    assert data.encoded(2) == (".PNG", (classes / "2/a.PNG").read_bytes())
    assert (data.groups, data.targets) == (None, None)
    (classes / "2/a.PNG").unlink()
    with pytest.raises(ImageError, match=r"2/a\.PNG: cannot be read: No such file"):
        data.encoded(2)


# ---- IDX -----------------------------------------------------------------------------------------------------------

PIXELS = np.random.default_rng(3).integers(0, 256, (5, 7, 6), dtype=np.uint8)
CLASSES = np.array([3, 1, 4, 1, 5], np.uint8)


@pytest.fixture
def mnist(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(PIXELS))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(CLASSES))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(PIXELS[:2])))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(CLASSES[:2])))
    return tmp_path


def test_an_idx_folder_gives_its_splits(mnist):
    data = open_labelled(mnist, split="train")
    np.testing.assert_array_equal(data.pixels, PIXELS)
    np.testing.assert_array_equal(data.picture(4), np.stack([PIXELS[4]] * 3, axis=-1))
    assert data.labels.tolist() == [3, 1, 4, 1, 5]
    assert data.names[4] == f"{mnist}/train-images-idx3-ubyte[4]"
    assert data.class_names is None
    assert len(open_labelled(mnist, split="test")) == 2


def test_an_idx_file_finds_its_labels_beside_it(mnist):
    assert open_labelled(mnist / "t10k-images-idx3-ubyte.gz").labels.tolist() == [3, 1]


def test_an_idx_file_of_any_name_takes_its_labels_file(mnist):
    shutil.move(mnist / "train-images-idx3-ubyte", mnist / "digits")
    data = open_labelled(mnist / "digits", labels=mnist / "train-labels-idx1-ubyte")
    np.testing.assert_array_equal(data.pixels, PIXELS)
    with pytest.raises(DatasetError, match="no name for its labels follows"):
        open_labelled(mnist / "digits")


@pytest.mark.parametrize("split", [None, "val"])
def test_a_split_that_idx_files_do_not_tell_is_asked_for(mnist, split):
    with pytest.raises(DatasetError, match=r"(several|no) IDX images .*give the file itself, or say as the split"):
        open_labelled(mnist, split=split)


def test_absent_idx_labels_are_named(mnist):
    (mnist / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DatasetError, match="train-labels-idx1-ubyte: no such file"):
        open_labelled(mnist, split="train")


def test_counts_that_differ_are_told(mnist):
    (mnist / "train-labels-idx1-ubyte").write_bytes(idx(CLASSES[:4]))
    with pytest.raises(DatasetError, match=r"holds 5 pictures, but .*train-labels-idx1-ubyte holds 4 labels"):
        open_labelled(mnist, split="train")


WHOLE = idx(PIXELS)
BAD = {
    "begins with 00 00 08 01": idx(CLASSES),
    "begins with 00 00 0d 03": b"\0\0\x0d\3" + WHOLE[4:],
    "begins with 6e 6f 20 69": b"no idx file",
    "ends inside its header": WHOLE[:10],
    "ends after 209 of the 210": WHOLE[:-1],
    "holds more than": WHOLE + b"\0",
    r"header says \(4294967295, 4294967295, 4294967295\) values": WHOLE[:4] + b"\xff" * 12 + WHOLE[16:],
    "holds no pictures": idx(PIXELS[:0]),
}
BAD_ZIPPED = {
    r"ends after 209 of the 210": gzip.compress(WHOLE[:-1]),
    "cannot be read: Compressed file ended": gzip.compress(WHOLE)[:-9],
    "cannot be read: CRC check failed": gzip.compress(WHOLE)[:-8] + b"\0\0\0\0" + gzip.compress(WHOLE)[-4:],
    "holds more than": gzip.compress(WHOLE + bytes(10**6)),
    "more than .* bytes can hold": gzip.compress(WHOLE[:4] + b"\xff" * 12 + WHOLE[16:]),
}


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [("train-images-idx3-ubyte", data, said) for said, data in BAD.items()]
    + [("train-images-idx3-ubyte.gz", data, said) for said, data in BAD_ZIPPED.items()],
)
def test_a_damaged_idx_file_is_refused_by_name(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    (tmp_path / "labels").write_bytes(idx(CLASSES[: 0 if said == "holds no pictures" else 5]))
    with pytest.raises(DatasetError, match=said) as caught:
        open_labelled(tmp_path / name, labels=tmp_path / "labels")
    assert str(caught.value).startswith(str(tmp_path / name))


@pytest.mark.skipif(not FASHION.exists(), reason="Fashion-MNIST is not here: Debian package dataset-fashion-mnist")
@pytest.mark.parametrize(("split", "count"), [("train", 60_000), ("test", 10_000)])
def test_fashion_mnist_is_what_its_authors_say(split, count):
    data = open_labelled(FASHION, split=split)
    assert data.pixels.shape == (count, 28, 28)
    # Xiao et al. 2017, section 2: as many of each class
    assert np.bincount(data.labels).tolist() == [count // 10] * 10
    if split == "train":
        # the training set's mean and deviation that its users normalise with
        share = np.bincount(data.pixels.ravel(), minlength=256) / data.pixels.size
        value = np.arange(256) / 255
        mean = share @ value
        assert mean == pytest.approx(0.2860, abs=1e-4)
        assert np.sqrt(share @ (value - mean) ** 2) == pytest.approx(0.3530, abs=1e-4)


def test_pictures_in_files_and_in_shards_are_turned_upright_where_that_is_asked(tmp_path):
    exif = Image.Exif()
    exif[274] = 3  # upside down
    (tmp_path / "set/ant").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "set/ant/0.jpg", exif=exif)
    files = open_labelled(tmp_path / "set")
    write_shards(files, tmp_path / "shards")
    for data in (files, open_labelled(tmp_path / "shards")):
        assert np.array_equal(upright(data).picture(0), data.picture(0)[::-1, ::-1])
    held = LabelledArray(["0"], pixels[None], np.zeros(1, np.int64))
    assert upright(held) is held
