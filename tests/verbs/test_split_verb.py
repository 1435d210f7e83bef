from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anabranch.errors import UsageError
from anabranch.images.labelled import open_labelled
from anabranch.verbs.split import run


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for at in range(10):
            picture = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
            for copy in "ab":
                picture.save(tmp_path / "set" / name / f"{at}{copy}.png")
    return tmp_path / "set"


def parted(classes: Path, out: Path, *, shares=("train=0.8", "val=0.2"), together=False, as_json=False) -> int:
    return run(str(classes), out=str(out), shares=shares, labels=None, seed=0, together=together, json=as_json)


def test_a_folder_is_parted_and_a_person_sees_the_shares(classes, tmp_path, capsys):
    assert parted(classes, tmp_path / "out") == 0
    counts = {name: len(open_labelled(tmp_path / "out" / f"{name}.txt")) for name in ("train", "val")}
    assert sum(counts.values()) == 40
    told = capsys.readouterr().out
    assert f"{tmp_path / 'out' / 'val.txt'}: {counts['val']} pictures" in told
    assert "% where 20 % were wanted" in told


def test_near_duplicates_stay_together_where_it_is_asked_for(classes, tmp_path, capsys):
    pytest.importorskip("imagehash")
    parted(classes, tmp_path / "out", together=True)
    assert "near-duplicates kept together: 40 pictures are 20 that differ" in capsys.readouterr().out
    for name in ("train", "val"):
        pictures = {Path(path).parts[-2:] for path in open_labelled(tmp_path / "out" / f"{name}.txt").names}
        assert {(folder, file.replace("a", "b")) for folder, file in pictures} <= pictures


def test_machines_get_the_lists_and_counts(classes, tmp_path, capsys):
    parted(classes, tmp_path / "out", as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert said["parts"]["train"]["list"] == str(tmp_path / "out" / "train.txt")
    assert sum(part["pictures"] for part in said["parts"].values()) == 40
    assert (said["seed"], said["groups"]) == (0, None)


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        (("train",), "--share train: wanted NAME=SHARE"),
        (("train=most", "val=0.2"), "--share train=most: wanted NAME=SHARE"),
        (("val=0.5", "val=0.5"), "--share val=0.5: val has a share already"),
        (("train=0.5", "val=0.2"), "whose sum is 1"),
    ],
)
def test_shares_that_are_not_understood_are_refused(classes, tmp_path, shares, said):
    with pytest.raises(UsageError, match=said):
        parted(classes, tmp_path / "out", shares=shares)
    assert not (tmp_path / "out").exists()
