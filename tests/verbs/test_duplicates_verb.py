from __future__ import annotations

import csv
import errno
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anabranch.errors import CheckpointError
from anabranch.verbs.duplicates import run

pytest.importorskip("imagehash")


def photo(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC)


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """train, with a picture in two classes; val, which shares none; test, which shares one and nearly another."""
    for place, seed in (
        ("train/ant/0", 0),
        ("train/ant/1", 1),
        ("train/bee/1", 1),
        ("val/ant/2", 2),
        ("test/ant/0", 0),
    ):
        path = tmp_path / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(seed).save(path)
    stamped = photo(1)
    stamped.paste((0, 0, 0), (0, 0, 10, 10))
    stamped.save(tmp_path / "test" / "ant" / "1.png")
    return tmp_path


def compared(
    sets: Path,
    split: str,
    other_split: str | None = None,
    *,
    other: Path | None = None,
    radius: int | None = 8,
    as_json: bool = False,
    csv_file: str | None = None,
) -> int:
    return run(
        str(sets),
        None if other is None else str(other),
        split=split,
        other_split=other_split,
        labels=None,
        other_labels=None,
        radius=radius,
        json=as_json,
        csv_file=csv_file,
    )


def test_two_sets_that_share_pictures_give_status_1_and_a_sentence(sets, capsys):
    assert compared(sets, "train", "test") == 1
    told = capsys.readouterr().out
    assert "the sets share pictures: 2 of the second set's 2 pictures are in the first too" in told
    assert "1 group of equal pixels\n  2 pictures: ant/0.png  |  ant/0.png" in told
    assert "1 pair of hashes that nearly agree" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--json", "--csv", "-"], "--json and --csv - would both write to standard output"),
        (["--other-labels", "nowhere.txt"], "--other-labels are those of a second set"),
        (["--exact", "--radius", "4"], "--exact looks for equal pixels alone, which have no --radius"),
    ],
)
def test_words_that_do_not_go_together_are_refused(anabranch, sets, words, message):
    done = anabranch("duplicates", sets / "train", *words)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"error: {message}")


def test_two_sets_that_share_nothing_give_status_0(sets, capsys):
    assert compared(sets, "train", "val") == 0
    assert capsys.readouterr().out == "the sets share no pictures: none of 3 is among the second set's 1\n"


def test_the_other_set_may_lie_elsewhere(sets, capsys):
    assert compared(sets, "train", other=sets / "test", radius=None) == 1
    assert "1 of the second set's 2 pictures" in capsys.readouterr().out


def test_what_a_set_holds_twice_is_told_with_labels_that_differ_and_status_0(sets, capsys):
    assert compared(sets, "train") == 0
    told = capsys.readouterr().out
    assert "2 of 3 pictures are like another one" in told
    assert "2 pictures, LABELS DIFFER: ant/1.png, bee/1.png" in told


def test_machines_get_every_match(sets, capsys):
    assert compared(sets, "train", "test", as_json=True) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["pictures"], said["other_pictures"], said["matched"], said["unreadable"]) == (3, 2, 2, [])
    assert said["groups"] == [
        {"kind": "same", "first": ["ant/0.png"], "second": ["ant/0.png"], "labels_differ": False},
    ]
    assert said["pairs"][0]["second"] == "ant/1.png"


def test_a_csv_has_a_line_for_each_picture_of_a_match(sets, tmp_path, capsys):
    compared(sets, "train", csv_file=str(tmp_path / "found.csv"))
    rows = list(csv.DictReader((tmp_path / "found.csv").read_text(encoding="utf-8").splitlines()))
    assert [(row["group"], row["kind"], row["set"], row["picture"], row["labels_differ"]) for row in rows] == [
        ("0", "same", "first", "ant/1.png", "1"),
        ("0", "same", "first", "bee/1.png", "1"),
    ]
    capsys.readouterr()
    compared(sets, "train", csv_file="-")
    assert capsys.readouterr().out == (tmp_path / "found.csv").read_text(encoding="utf-8")


def test_a_name_that_is_not_utf_8_stands_in_the_csv_with_a_backslash(sets, tmp_path):
    os.rename(sets / "train/ant/1.png", os.fsencode(sets / "train/ant") + b"/\xe9.png")
    assert compared(sets, "train", csv_file=str(tmp_path / "found.csv")) == 0
    rows = list(csv.DictReader((tmp_path / "found.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["picture"] for row in rows] == ["ant/\\udce9.png", "bee/1.png"]


def test_a_csv_that_cannot_be_written_whole_is_not_there_at_all(sets, tmp_path, monkeypatch):
    def full(found, file):
        file.write("group")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("anabranch.verbs.duplicates._write_csv", full)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=r"found\.csv: cannot be written \(No space left on device\)"):
        compared(sets, "train", csv_file=str(tmp_path / "found.csv"))
    assert sorted(tmp_path.iterdir()) == before


def test_a_csv_may_go_into_a_pipe(sets, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE, text=True) as reader:
        compared(sets, "train", csv_file=str(tmp_path / "pipe"))
        assert reader.communicate()[0].startswith("group,kind,distance,set,picture,labels_differ\n0,same,")


def test_an_unreadable_picture_is_reported_and_the_status_is_1(sets, capsys):
    (sets / "val" / "ant" / "3.png").write_bytes(b"")
    assert compared(sets, "train", "val") == 1
    assert "ant/3.png: the file is empty" in capsys.readouterr().err


def test_a_flat_folder_does_without_labels(sets, tmp_path, capsys):
    (tmp_path / "flat").mkdir()
    for seed, name in ((5, "a"), (5, "b"), (0, "c")):
        photo(seed).save(tmp_path / "flat" / f"{name}.png")
    words = {"labels": None, "other_labels": None, "split": None, "csv_file": None, "json": False, "radius": None}
    assert run(str(tmp_path / "flat"), None, other_split=None, **words) == 0
    assert "2 of 3 pictures are like another one" in capsys.readouterr().out
    assert (
        run(str(sets / "train"), str(tmp_path / "flat"), other_split=None, **words) == 1
    )  # one has labels, one has none
    told = capsys.readouterr().out
    assert "2 pictures: ant/0.png  |  c.png" in told
    assert "LABELS DIFFER: ant/0.png" not in told
