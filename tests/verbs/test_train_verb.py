from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anabranch.artefact import read_card

RECIPE = Path(__file__).parents[2] / "recipes" / "fashion-mnist.toml"
DATASET = Path("/usr/share/datasets/fashion-mnist")
needs_dataset = pytest.mark.skipif(not DATASET.is_dir(), reason="the package dataset-fashion-mnist is not installed")


@pytest.mark.slow
@needs_dataset
def test_a_recipe_becomes_an_artefact_that_answers(anabranch, tmp_path) -> None:
    run, artefact = tmp_path / "run", tmp_path / "artefact"
    trained = anabranch("train", RECIPE, "--smoke", "--out", run, "--set", "optimise.epochs=1")
    assert trained.status == 0
    assert "epoch   1" in trained.out
    assert str(run / "model.safetensors") in trained.out

    exported = anabranch("export", run / "model.safetensors", "-o", artefact, "--json")
    assert exported.status == 0
    assert json.loads(exported.out)["agreement"].keys() == {"openvino", "onnxruntime"}
    assert read_card(artefact).labels[9] == "ankle boot"
    again = anabranch("export", run / "model.safetensors", "-o", artefact)
    assert again.status != 0
    assert str(artefact) in again.err
    small = anabranch(
        "export", run / "model.safetensors", "-o", artefact, "--format", "openvino", "--stored", "f16", "--overwrite"
    )
    assert small.status == 0
    assert "measured on 8 synthetic pictures" in small.out
    assert read_card(artefact).graphs.keys() == {"openvino"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.toml"], "nowhere.toml: cannot be read"),
        (["prob"], "prob: neither a file nor a recipe that anabranch brings along; the nearest of these are probe, "),
        (["recipes/probe"], "recipes/probe: cannot be read"),
        ([RECIPE, "--set", "optimise.epoch=1"], "the nearest are optimise.epochs"),
        ([RECIPE, "--set", "data.train.path=/nowhere"], "/nowhere"),
    ],
)
def test_what_was_asked_wrongly_is_one_line(anabranch, tmp_path, arguments, message) -> None:
    done = anabranch("train", *arguments, "--out", tmp_path / "run")
    assert done.status in (1, 2)
    assert message in done.err
    assert len(done.err.splitlines()) == 1


def test_a_recipe_that_came_along_is_known_by_its_name(anabranch, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = "--smoke", "--data", tmp_path / "none", "--out", tmp_path / "run"
    (tmp_path / "finetune").mkdir()
    assert f"{tmp_path / 'none'}: no such folder" in anabranch("train", "finetune", *asked).err
    (tmp_path / "finetune").rmdir()
    (tmp_path / "finetune").write_text("of one's own")
    assert "finetune: not TOML" in anabranch("train", "finetune", *asked).err


def test_a_rank_that_is_left_from_elsewhere_says_nothing(anabranch, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    data = photos(tmp_path / "set", ant=5, bee=5)
    done = anabranch("train", RECIPE, "--data", data, "--out", tmp_path / "run", *SMALL)
    assert done.status == 0, done.err
    assert str(tmp_path / "run/model.safetensors") in done.out
    assert (tmp_path / "run/model.safetensors").is_file()


@needs_dataset
def test_a_run_that_is_ended_says_what_is_kept(tmp_path) -> None:
    words = ["train", RECIPE, "--smoke", "--out", tmp_path / "run", "--set", "run.checkpoint_steps=1"]
    longer = ["--set", "optimise.epochs=99"]
    command = [sys.executable, "-m", "anabranch", *map(str, [*words, *longer])]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run/last.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)  # as impatient schedulers do
    _, told = process.communicate()
    assert process.returncode == 143
    assert told.splitlines()[-1] == (
        f"stopped: {tmp_path / 'run/last.safetensors'} is kept, --resume goes on from there"
    )
    assert "Traceback" not in told


@pytest.mark.parametrize(("variable", "told"), [("WORLD_SIZE", ""), ("LOCAL_RANK", "x")])
def test_a_variable_of_torchruns_that_is_no_number_is_named(anabranch, tmp_path, monkeypatch, variable, told) -> None:
    monkeypatch.setenv(variable, told)
    data = photos(tmp_path / "set", ant=5, bee=5)
    done = anabranch("train", RECIPE, "--data", data, "--out", tmp_path / "run", *SMALL)
    one_sentence(done, 2, f"{variable} = '{told}' is no number", "torchrun, or unset it")


def test_one_process_that_is_told_of_others_says_who_starts_them(anabranch, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_PORT", "29400")
    data = photos(tmp_path / "set", ant=5, bee=5)
    done = anabranch("train", RECIPE, "--data", data, "--out", tmp_path / "run", *SMALL)
    one_sentence(done, 2, "WORLD_SIZE = 2", "RANK, MASTER_ADDR are not set", "start them with torchrun")
    assert not (tmp_path / "run").exists()


def photos(folder: Path, **counts: int) -> Path:
    """Class folders with so many pictures each."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")
    return folder


def one_sentence(done, status: int, *parts: str) -> None:
    assert done.status == status
    assert len(done.err.splitlines()) == 1
    for part in parts:
        assert part in done.err


SMALL = ["--set", "optimise.batch=4", "--set", "optimise.epochs=1", "--set", 'data.class_names=["ant", "bee"]']


def test_a_class_of_one_picture_of_which_some_are_held_out_is_named(anabranch, tmp_path) -> None:
    done = anabranch("train", RECIPE, "--data", photos(tmp_path / "set", ant=5, bee=1), "--out", tmp_path / "run")
    one_sentence(done, 1, "class 'bee' has one picture, bee/0.png", "add pictures to the class")


def test_classes_that_the_test_pictures_lack_are_named(anabranch, tmp_path) -> None:
    photos(tmp_path / "set/train", ant=2, bee=2, cat=2)
    photos(tmp_path / "set/val", ant=2, cat=2)
    done = anabranch("train", RECIPE, "--data", tmp_path / "set", "--out", tmp_path / "run")
    one_sentence(done, 1, "set", "missing are bee")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ant/0.png 0\nbee/0.png 7\n", "holds label 7, but there are 2 class names; mend the label of bee/0.png"),
        ("ant/0.png 0\nbee/0.png -1\n", "line 2: label '-1' is not a whole number from 0 on"),
        ("", "no pictures are listed in it"),
    ],
)
@pytest.mark.parametrize("part", ["train", "test"])
def test_a_list_that_does_not_fit_is_named(anabranch, tmp_path, part, text, message) -> None:
    photos(tmp_path, ant=4, bee=4)
    (tmp_path / "train.txt").write_text("ant/0.png 0\nbee/0.png 1\n" * 4)
    (tmp_path / "test.txt").write_text("ant/0.png 0\n")
    (tmp_path / f"{part}.txt").write_text(text)
    sets = [f"data.{each}={{path='{tmp_path / each}.txt'}}" for each in ("train", "test")]
    words = [word for key in [*sets, 'data.class_names=["ant", "bee"]'] for word in ("--set", key)]
    one_sentence(anabranch("train", RECIPE, *words, "--out", tmp_path / "run"), 1, f"{part}.txt", message)


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_a_file_that_is_no_picture_is_named(anabranch, tmp_path, part, content) -> None:
    for each in ("train", "val"):
        photos(tmp_path / "set" / each, ant=2, bee=2)
    (tmp_path / "set" / part / "bee/1.png").write_bytes(content)
    done = anabranch("train", RECIPE, "--data", tmp_path / "set", "--out", tmp_path / "run", *SMALL)
    one_sentence(done, 1, f"{part}/bee/1.png")


def test_a_test_set_without_pictures_is_named(anabranch, tmp_path) -> None:
    photos(tmp_path / "set/train", ant=2, bee=2)
    (tmp_path / "set/val").mkdir()
    done = anabranch("train", RECIPE, "--data", tmp_path / "set", "--out", tmp_path / "run")
    one_sentence(done, 1, "set/val: holds neither class folders nor IDX files")


def test_an_empty_recipe_says_what_it_lacks(anabranch, tmp_path) -> None:
    (tmp_path / "empty.toml").touch()
    done = anabranch("train", tmp_path / "empty.toml", "--out", tmp_path / "run")
    one_sentence(done, 2, "empty.toml: the key 'name' is missing")


@pytest.mark.parametrize("out", ["file", "file/run"])
def test_a_place_where_no_run_can_be_written_is_named(anabranch, tmp_path, out) -> None:
    (tmp_path / "file").touch()
    done = anabranch("train", RECIPE, "--data", photos(tmp_path / "set", ant=5, bee=5), "--out", tmp_path / out, *SMALL)
    assert done.status in (1, 2)
    one_sentence(done, done.status, str(tmp_path / out))


def test_a_checkpoint_that_is_none_is_refused(anabranch, tmp_path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    done = anabranch("export", tmp_path / "x.safetensors", "-o", tmp_path / "artefact")
    assert done.status == 1
    assert "x.safetensors" in done.err
    assert not (tmp_path / "artefact").exists()
