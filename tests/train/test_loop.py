from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from anabranch.errors import CheckpointError, DatasetError, ImageError, RecipeError
from anabranch.images.labelled import open_labelled
from anabranch.nets.load import load_trained
from anabranch.nets.store import read_tensors
from anabranch.train.loop import train
from anabranch.train.recipe import read_recipe

STEPS_PER_EPOCH = 4  # 70 pictures in batches of 16, the rest left out


def test_the_net_learns_and_its_result_says_so(tiny: Path, tmp_path: Path) -> None:
    recipe = read_recipe(tiny, overrides=["optimise.epochs=8", "augment.mixup=0.0", "augment.erase=0.0"])
    told = []
    path = train(recipe, tmp_path / "run", report=lambda line: told.append(dict(line)))
    history = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in history] == list(range(1, 9))
    assert history[-1]["top1"] > 90
    assert history[-1]["pictures"] == 30
    assert sum("step" in line for line in told) == 8 * STEPS_PER_EPOCH

    trained = load_trained(path)  # the oracle for top-1: plain arithmetic over the whole test set at once
    data = open_labelled(tiny.parent, split="test")
    pixels = torch.stack([torch.from_numpy(data.picture(i).copy()) for i in range(len(data))])
    x = (pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    with torch.inference_mode():
        right = (trained.net(x).argmax(1).numpy() == data.labels).mean()
    assert history[-1]["top1"] == pytest.approx(100 * right)
    assert trained.class_names == ("left", "right")
    assert (trained.name, trained.licence) == ("tiny", "CC0-1.0")


def _run(recipe: Path, folder: Path, *, processes: int) -> subprocess.Popen[bytes]:
    """The command line, training into `folder`; what it says goes to FOLDER.log."""
    launch = [sys.executable, "-m"]
    if processes > 1:
        launch += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    command = [*launch, "anabranch", "train", str(recipe), "--out", str(folder), "--resume"]
    with folder.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _tensors(path: Path) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in read_tensors(path)[0].items()}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_killed_anywhere_and_resumed_ends_with_the_same_bits(tiny: Path, tmp_path: Path, processes: int) -> None:
    alone, often = tmp_path / "alone", tmp_path / "killed"
    tiny.write_text(tiny.read_text().replace("epochs = 3", "epochs = 20").replace("_steps = 2", "_steps = 3"))
    assert _run(tiny, alone, processes=processes).wait() == 0, alone.with_suffix(".log").read_text()

    draw = random.Random(processes)
    last = often / "last.safetensors"
    num_killed = 0
    for _ in range(3):
        process = _run(tiny, often, processes=processes)
        before = _written(last)
        while process.poll() is None and _written(last) == before:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.3))
        if process.poll() is None:
            _kill(process.pid)
            num_killed += 1
        process.wait()
    assert num_killed >= 1, "the run ended before it could be killed; make it longer"
    assert _run(tiny, often, processes=processes).wait() == 0, often.with_suffix(".log").read_text()
    assert _tensors(alone / "model.safetensors") == _tensors(often / "model.safetensors")
    assert sorted(path.name for path in often.iterdir()) == sorted(path.name for path in alone.iterdir())


def _kill(pid: int) -> None:
    """SIGKILL a process and all that it started, which torchrun puts into sessions of their own."""
    family, parents = {pid}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it may be gone by now
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    for each in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def test_a_run_stopped_within_an_epoch_goes_on_to_the_same_bits(tiny: Path, tmp_path: Path) -> None:
    recipe = read_recipe(tiny)
    whole = train(recipe, tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop(line: object) -> None:
        if isinstance(line, dict) and line.get("step") == 7:
            raise Stop

    with pytest.raises(Stop):
        train(recipe, tmp_path / "halves", report=stop)
    assert read_tensors(tmp_path / "halves/last.safetensors")[1]["progress"]["step"] == 6
    halves = train(recipe, tmp_path / "halves", resume=True)
    assert _tensors(whole) == _tensors(halves)
    without_time = [
        [{**json.loads(line), "seconds": 0} for line in (tmp_path / run / "history.jsonl").read_text().splitlines()]
        for run in ("whole", "halves")
    ]
    assert without_time[0] == without_time[1]


def test_another_seed_gives_other_weights(tiny: Path, tmp_path: Path) -> None:
    results = [
        _tensors(train(read_recipe(tiny, smoke=True, overrides=[f"run.seed={seed}"]), tmp_path / str(seed)))
        for seed in (1, 2)
    ]
    assert results[0] != results[1]


def test_workers_change_nothing(tiny: Path, tmp_path: Path) -> None:
    results = [
        _tensors(train(read_recipe(tiny, smoke=True, overrides=[f"run.workers={n}"]), tmp_path / str(n)))
        for n in (0, 2)
    ]
    assert results[0] == results[1]


def test_a_folder_that_holds_a_run_is_not_overwritten(tiny: Path, tmp_path: Path) -> None:
    train(read_recipe(tiny, smoke=True), tmp_path / "run")
    with pytest.raises(RecipeError, match="already holds a run; go on with --resume"):
        train(read_recipe(tiny, smoke=True), tmp_path / "run")


def test_a_run_does_not_go_on_with_another_recipe(tiny: Path, tmp_path: Path) -> None:
    train(read_recipe(tiny, smoke=True), tmp_path / "run")
    with pytest.raises(RecipeError, match=r"optimise\.lr was 0\.05, is 0\.1"):
        train(read_recipe(tiny, smoke=True, overrides=["optimise.lr=0.1"]), tmp_path / "run", resume=True)


def test_a_run_does_not_go_on_with_other_pictures(tiny: Path, tmp_path: Path) -> None:
    train(read_recipe(tiny, smoke=True), tmp_path / "run")
    with pytest.raises(RecipeError, match=r"data\.test was .*training and test pictures was \[70, 30\], is \[70, 70\]"):
        train(read_recipe(tiny, smoke=True, overrides=["data.test.split=train"]), tmp_path / "run", resume=True)


def test_what_changes_no_weight_may_change_between_sittings(tiny: Path, tmp_path: Path) -> None:
    whole = train(read_recipe(tiny, smoke=True), tmp_path / "run")
    before = _tensors(whole)
    whole.unlink()
    free = ["run.workers=1", "run.checkpoint_steps=1", "run.test_pictures=5", "expect=else"]
    train(read_recipe(tiny, smoke=True, overrides=free), tmp_path / "run", resume=True)
    assert _tensors(whole) == before


def test_a_folder_in_which_another_process_trains_is_left_alone(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run/.lock"), pytest.raises(RecipeError, match="another process trains here"):
        train(read_recipe(tiny, smoke=True), tmp_path / "run")


def test_a_file_in_the_place_of_the_folder_is_named(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(RecipeError, match="run: this is a file"):
        train(read_recipe(tiny, smoke=True), tmp_path / "run")


def test_a_loss_that_is_no_number_ends_the_run(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"the loss is no longer a number; lower optimise\.lr"):
        train(read_recipe(tiny, overrides=["optimise.lr=1e30"]), tmp_path / "run")
    assert not (tmp_path / "run/model.safetensors").exists()


def test_more_test_pictures_than_there_are_means_all_of_them(tiny: Path, tmp_path: Path) -> None:
    train(read_recipe(tiny, smoke=True, overrides=["run.test_pictures=31"]), tmp_path / "run")
    assert json.loads((tmp_path / "run/history.jsonl").read_text())["pictures"] == 30


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_cannot_be_read_is_named_in_one_line(tiny: Path, tmp_path: Path, workers: int) -> None:
    rng = np.random.default_rng(0)
    for name in ("left", "right"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(tmp_path / f"set/{name}/{i}.png")
    (tmp_path / "set/left/3.png").write_bytes(b"no picture")
    sets = [f"data.{part}={{path='{tmp_path / 'set'}'}}" for part in ("train", "test")]
    recipe = read_recipe(tiny, overrides=[*sets, f"run.workers={workers}"])
    with pytest.raises(ImageError) as caught:
        train(recipe, tmp_path / "run")
    assert "3.png: not a picture" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_of_the_recipe_that_are_not_the_sets_own_are_refused(tiny: Path, tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.new("RGB", (12, 12)).save(tmp_path / f"set/{name}/0.png")
    sets = [f"data.{part}={{path='{tmp_path / 'set'}'}}" for part in ("train", "test")]
    with pytest.raises(DatasetError, match=r"data\.class_names: its classes bee, ant are not those of"):
        train(read_recipe(tiny, overrides=[*sets, 'data.class_names=["bee", "ant"]']), tmp_path / "run")


def test_a_damaged_checkpoint_is_refused(tiny: Path, tmp_path: Path) -> None:
    train(read_recipe(tiny, smoke=True), tmp_path / "run")
    last = tmp_path / "run/last.safetensors"
    damaged = bytearray(last.read_bytes())
    damaged[-1] ^= 1
    last.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="do not match their hash"):
        train(read_recipe(tiny, smoke=True), tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("optimise.batch=100", RecipeError, "at most the 70 training pictures"),
        ("optimise.steps_per_epoch=5", RecipeError, "are more than the 70 training pictures"),
        ('data.class_names=["one"]', DatasetError, "holds label 1, but there are 1 class names"),
    ],
)
def test_what_does_not_fit_the_data_is_said(
    tiny: Path, tmp_path: Path, override: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(read_recipe(tiny, overrides=[override]), tmp_path / "run")
    assert not (tmp_path / "run/last.safetensors").exists()
