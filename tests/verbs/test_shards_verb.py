from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anabranch.images.labelled import open_labelled
from anabranch.verbs.shards import run

pytest.importorskip("webdataset")


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "set" / "train" / name).mkdir(parents=True)
        for at in range(3):
            picture = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
            picture.save(tmp_path / "set" / "train" / name / f"{at}.bmp")
    return tmp_path / "set"


def test_a_set_becomes_shards_and_a_person_is_told_how_many(classes, tmp_path, capsys):
    status = run(str(classes), out=str(tmp_path / "out"), split="train", labels=None, max_mb=1, seed=0, json=False)
    told = capsys.readouterr().out
    assert status == 0
    assert f"{tmp_path / 'out'}: 6 pictures in 1 shard, 0.1 MB" in told
    assert "2 classes, their names in classes.json" in told
    assert len(open_labelled(tmp_path / "out")) == 6


def test_machines_get_the_names_of_the_shards(classes, tmp_path, capsys):
    run(str(classes), out=str(tmp_path / "out"), split="train", labels=None, max_mb=1, seed=3, json=True)
    said = json.loads(capsys.readouterr().out)
    size_bytes = (tmp_path / "out" / "000000.tar").stat().st_size
    assert said == {
        "folder": str(tmp_path / "out"),
        "shards": ["000000.tar"],
        "size_bytes": size_bytes,
        "seed": 3,
        "pictures": 6,
        "classes": 2,
    }


def test_a_set_that_does_not_name_its_classes_is_told_where_names_go(classes, tmp_path, capsys):
    (classes / "list.txt").write_text("train/ant/0.bmp 4\n")
    run(str(classes / "list.txt"), out=str(tmp_path / "out"), split=None, labels=None, max_mb=1, seed=0, json=False)
    assert "put their names into classes.json" in capsys.readouterr().out
    assert open_labelled(tmp_path / "out").labels.tolist() == [4]


def test_a_seed_below_zero_is_refused_in_a_sentence(anabranch, classes, tmp_path):
    done = anabranch("shards", classes, "-o", tmp_path / "out", "--split", "train", "--seed", -1)
    assert done.status == 2
    assert "-1 is not in the range x>=0" in done.err
    assert not (tmp_path / "out").exists()


def test_what_a_killed_process_left_is_taken_away_by_the_next(anabranch, classes, tmp_path):
    words = ["shards", "/usr/share/datasets/fashion-mnist", "--split", "train", "-o", str(tmp_path / "out")]
    process = subprocess.Popen([sys.executable, "-m", "anabranch", *words], stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob(".out.*.partial/*")):
        assert process.poll() is None
        time.sleep(0.01)
    other = tmp_path / ".out.more.01234567.partial"  # of another name
    other.mkdir()
    assert anabranch("shards", str(classes / "train"), "-o", str(tmp_path / "out.elsewhere")).status == 0
    process.kill()
    process.wait()
    assert list(tmp_path.glob(".out.????????.partial"))
    assert anabranch("shards", str(classes / "train"), "-o", str(tmp_path / "out")).status == 0
    assert [path.name for path in tmp_path.glob(".*")] == [other.name]
