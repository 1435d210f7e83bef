from __future__ import annotations

import contextlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from torch import Tensor

from anabranch.checkpoints.load import load
from anabranch.errors import CheckpointError, DatasetError, ImageError, RecipeError
from anabranch.images.labelled import open_labelled
from anabranch.images.shards import write_shards
from anabranch.nets.load import load_trained
from anabranch.nets.store import read_tensors
from anabranch.train.loop import _kept, train
from anabranch.train.recipe import read_recipe
from anabranch.train.score import Answers, answers
from anabranch.train.tables import Recipe
from anabranch.train.team import Team

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
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
    assert trained.about.class_names == ("left", "right")
    assert (trained.about.name, trained.about.licence) == ("tiny", "CC0-1.0")


def _run(recipe: Path, folder: Path, *words: str, processes: int) -> subprocess.Popen[bytes]:
    """The command line, training into `folder`; what it says goes to FOLDER.log."""
    launch = [sys.executable, "-m"]
    if processes > 1:
        launch += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    command = [*launch, "anabranch", "train", str(recipe), "--out", str(folder), "--resume", *words]
    with folder.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            command,
            env=ENVIRONMENT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _two(script: Path, code: str) -> subprocess.CompletedProcess[str]:
    """The program in two processes of one team."""
    script.write_text(code)
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
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
        process = _run(tiny, often, "--set", f"run.workers={draw.choice([0, 2])}", processes=processes)
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
    assert {path.name for path in often.iterdir()} == {path.name for path in alone.iterdir()}


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_from_the_same_batches(tiny: Path, tmp_path: Path) -> None:
    quiet = ["net.dropout=0.0", "net.drop_path=0.0", "net.sync_norms=true", "augment.mixup=0.0", "optimise.lr=0.005"]
    words = [word for key in quiet for word in ("--set", key)]
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        assert _run(tiny, folder, *words, processes=processes).wait() == 0, folder.with_suffix(".log").read_text()
    one, two = ((tmp_path / run / "history.jsonl").read_text().splitlines() for run in ("1", "2"))
    for alone, together in zip(map(json.loads, one), map(json.loads, two), strict=True):
        assert together["loss"] == pytest.approx(alone["loss"], rel=1e-4)
        assert together["test_loss"] == pytest.approx(alone["test_loss"], rel=1e-4)
        assert (together["pictures"], together["top1"]) == (alone["pictures"], alone["top1"])


@pytest.mark.slow
def test_hosts_that_do_not_share_the_runs_folder_do_not_go_on_with_it(tiny: Path, tmp_path: Path) -> None:
    assert _run(tiny, tmp_path / "host0", "--smoke", processes=2).wait() == 0
    done = _two(
        tmp_path / "host.py",
        f"""
import os
from pathlib import Path
from anabranch.train.loop import train
from anabranch.train.recipe import read_recipe
folder = Path({str(tmp_path)!r}) / f"host{{os.environ['RANK']}}"
train(read_recipe(Path({str(tiny)!r}), smoke=True), folder, resume=True)
""",
    )
    assert done.returncode != 0
    for host in ("host0", "host1"):
        assert f"{host}/last.safetensors: not every process finds it; --out must be a folder" in done.stderr
    assert not (tmp_path / "host1/model.safetensors").exists()


def _partly_readable(folder: Path, count: int, *, broken_each: int) -> list[str]:
    """Overrides that name a set of noise to learn from and to be tested on, of which one in so many is no picture."""
    rng = np.random.default_rng(0)
    for index in range(count):
        path = folder / ("left", "right")[index % 2] / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path)
        if index % broken_each == 0:
            path.write_bytes(b"no picture")
    return [f"data.{part}={{path='{folder}'}}" for part in ("train", "test")]


@pytest.mark.slow
def test_processes_that_read_different_numbers_of_pictures_do_not_wait_for_ever(tiny: Path, tmp_path: Path) -> None:
    sets = _partly_readable(tmp_path / "set", 32, broken_each=6)
    told = [*sets, "data.unreadable=0.5", "optimise.accumulate=4", "net.sync_norms=true", "optimise.epochs=2"]
    words = [word for each in told for word in ("--set", each)]
    assert _run(tiny, tmp_path / "run", *words, processes=2).wait(timeout=120) == 0, (tmp_path / "run.log").read_text()


@pytest.mark.slow
def test_a_picture_counts_the_same_in_whichever_process_it_is_read(tiny: Path, tmp_path: Path) -> None:
    sets = _partly_readable(tmp_path / "set", 48, broken_each=3)
    quiet = ["net.dropout=0.0", "net.drop_path=0.0", "net.sync_norms=true", "augment.mixup=0.0", "optimise.lr=0.05"]
    words = [word for each in [*sets, *quiet, "data.unreadable=0.5"] for word in ("--set", each)]
    losses = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        assert _run(tiny, folder, *words, processes=processes).wait() == 0, folder.with_suffix(".log").read_text()
        lines = (folder / "history.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["test_loss"] for line in lines])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.slow
def test_a_run_stopped_within_an_epoch_forgets_no_unreadable_picture_of_any_process(
    tiny: Path, tmp_path: Path, spoilt: list[str]
) -> None:
    broken = {f"{name}/{index}.png" for name in ("left", "right") for index in (3, 7)}
    for name in broken:
        (tmp_path / "set" / name).write_bytes(b"no picture")
    told = [*spoilt, "optimise.batch=4", "data.unreadable=0.5", "optimise.epochs=1", "run.checkpoint_steps=4"]
    done = _two(
        tmp_path / "stopped.py",
        f"""
from pathlib import Path
from anabranch.train.loop import train
from anabranch.train.recipe import read_recipe
def stop(told):
    if told.get("step") == 5:
        raise KeyboardInterrupt
train(read_recipe(Path({str(tiny)!r}), overrides={told!r}), Path({str(tmp_path / "run")!r}), report=stop)
""",
    )
    assert done.returncode != 0
    assert read_tensors(tmp_path / "run/last.safetensors")[1]["progress"]["step"] == 4
    words = [word for each in told for word in ("--set", each)]
    assert _run(tiny, tmp_path / "run", *words, processes=2).wait() == 0, (tmp_path / "run.log").read_text()
    listed = (tmp_path / "run/unreadable.txt").read_text().splitlines()
    assert {name for line in listed for name in broken if f"set/{name}: not a picture" in line} == broken
    assert len(listed) == len(broken)
    assert json.loads((tmp_path / "run/history.jsonl").read_text())["unreadable"] == len(broken)


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
    first_line = json.loads((tmp_path / "halves/history.jsonl").read_text())
    told: list[Mapping[str, Any]] = []
    halves = train(recipe, tmp_path / "halves", resume=True, report=told.append)
    assert told[0]["tested"] == first_line
    assert _tensors(whole) == _tensors(halves)
    without_time = [
        [
            {**json.loads(line), "seconds": 0, "waiting": 0}
            for line in (tmp_path / run / "history.jsonl").read_text().splitlines()
        ]
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


def test_as_many_other_pictures_in_shards_are_told_from_those_of_before(tiny: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def pack(name: str) -> str:
        for index in range(40):
            path = tmp_path / name / ("left", "right")[index % 2] / f"{name}{index:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path)
        write_shards(open_labelled(tmp_path / name), tmp_path / f"{name}-shards")
        return f"data.train={{path='{tmp_path / name}-shards'}}"

    train(read_recipe(tiny, smoke=True, overrides=[pack("old")]), tmp_path / "run")
    with pytest.raises(RecipeError, match=r"this would not be the same run: their names and classes, as a hash, was"):
        train(read_recipe(tiny, smoke=True, overrides=[pack("new")]), tmp_path / "run", resume=True)


def test_a_schedule_behind_the_end_of_the_run_and_a_test_that_is_none_are_told(tiny: Path, tmp_path: Path) -> None:
    told: list[Mapping[str, Any]] = []

    def stop(line: Mapping[str, Any]) -> None:
        told.append(line)
        raise KeyboardInterrupt

    steps = ["optimise.schedule=step", "optimise.step_epochs=[3]", "optimise.warmup_epochs=3.0"]
    for overrides in ([], [*steps, "data.test.split=train"]):
        with pytest.raises(KeyboardInterrupt):
            train(read_recipe(tiny, overrides=overrides), tmp_path / "run", report=stop)
    assert told[0]["plan"].doubts == ()
    assert [each.split(";")[0] for each in told[1]["plan"].doubts] == [
        "what is learnt from is tested on, and the score says nothing of other pictures",
        "the warm-up takes 3 epochs of 3",
        "the rate would first fall after 3 epochs of 3",
    ]


def test_the_last_epochs_are_kept_however_many_there_were(tmp_path: Path) -> None:
    for epoch in (9998, 9999, 10000):
        (tmp_path / f"epoch-{epoch:04d}.safetensors").touch()
    assert [path.stem for path in _kept(tmp_path)] == ["epoch-9998", "epoch-9999", "epoch-10000"]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4294967296 bytes."
        ),
        MemoryError(),
    ],
)
def test_memory_that_runs_out_is_said_with_what_helps(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def step(*told: Any) -> float:
        raise error

    monkeypatch.setattr("anabranch.train.student.Student.step", step)
    with pytest.raises(RecipeError, match=r"not enough memory for a step; lower optimise\.batch"):
        train(read_recipe(tiny), tmp_path / "run")


def test_as_many_parts_as_pictures_go_on_without_one_that_cannot_be_read(tiny: Path, tmp_path: Path) -> None:
    sets = _partly_readable(tmp_path / "set", 32, broken_each=31)
    told = [*sets, "data.unreadable=0.5", "optimise.accumulate=16", "input.crop_px=32", "input.resize_px=32"]
    train(read_recipe(tiny, smoke=True, overrides=told), tmp_path / "run")
    assert len((tmp_path / "run/unreadable.txt").read_text().splitlines()) >= 1


def test_as_many_other_pictures_are_told_from_those_of_before(tiny: Path, tmp_path: Path, spoilt: list[str]) -> None:
    told = [*spoilt, "data.unreadable=0.05", "optimise.epochs=2", "run.checkpoint_steps=1"]
    stopped(read_recipe(tiny, overrides=told), tmp_path / "run", step=3)
    (tmp_path / "set").rename(tmp_path / "moved")
    moved = [each.replace(f"{tmp_path / 'set'}", f"{tmp_path / 'moved'}") for each in told]
    train(read_recipe(tiny, overrides=moved), tmp_path / "run", resume=True)
    [line] = (tmp_path / "run/unreadable.txt").read_text().splitlines()
    assert line.startswith(f"{tmp_path}/moved/left/3.png: ")
    (tmp_path / "moved/left/5.png").rename(tmp_path / "moved/left/a.png")
    with pytest.raises(RecipeError, match=r"this would not be the same run: their names and classes, as a hash, was"):
        train(read_recipe(tiny, overrides=moved), tmp_path / "run", resume=True)


def test_a_set_may_be_moved_with_the_file_of_its_labels(tiny: Path, tmp_path: Path) -> None:
    def recipe(folder: Path) -> Recipe:
        pictures, labels = (f"{folder}/train-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1"))
        return read_recipe(tiny, smoke=True, overrides=[f"data.train={{path='{pictures}', labels='{labels}'}}"])

    train(recipe(tmp_path), tmp_path / "run")
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in tmp_path.glob("train-*"):
        path.rename(moved / path.name)
    train(recipe(moved), tmp_path / "run", resume=True)
    labels = bytearray((moved / "train-labels-idx1-ubyte").read_bytes())
    labels[-1] ^= 1
    (moved / "train-labels-idx1-ubyte").write_bytes(labels)
    with pytest.raises(RecipeError, match="their names and classes, as a hash, was"):
        train(recipe(moved), tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("result", "changed"),
    [("average", "run.keep=2"), ("best", "run.test_pictures=5")],
)
def test_what_decides_the_result_may_not_change_between_sittings(
    tiny: Path, tmp_path: Path, result: str, changed: str
) -> None:
    told = [f"run.result={result}", "run.keep=3"]
    train(read_recipe(tiny, smoke=True, overrides=told), tmp_path / "run")
    with pytest.raises(RecipeError, match=changed.split("=")[0]):
        train(read_recipe(tiny, smoke=True, overrides=[*told, changed]), tmp_path / "run", resume=True)


@pytest.mark.parametrize("result", ["average", "best"])
def test_epochs_of_an_earlier_run_are_not_taken_for_ones_own(tiny: Path, tmp_path: Path, result: str) -> None:
    told = [f"run.result={result}", "run.keep=2"]
    train(read_recipe(tiny, overrides=told), tmp_path / "run")
    (tmp_path / "run/last.safetensors").unlink()
    with pytest.raises(RecipeError, match=r"run/(epoch-000\d|best)\.safetensors: is of an earlier run; remove it"):
        train(read_recipe(tiny, overrides=told), tmp_path / "run", resume=True)


def test_a_run_goes_on_without_the_weights_that_it_started_from(tiny: Path, tmp_path: Path) -> None:
    start = train(read_recipe(tiny, smoke=True), tmp_path / "start")
    told = [f"start={{weights='{start}', frozen=['stem']}}", "distil.teacher=random", "distil.labels=0.5"]
    recipe = read_recipe(tiny, overrides=told)
    whole = train(recipe, tmp_path / "whole")
    stopped(recipe, tmp_path / "halves", step=7)
    start.unlink()
    assert _tensors(train(recipe, tmp_path / "halves", resume=True)) == _tensors(whole)


@pytest.mark.parametrize("key", ["start.weights", "distil.teacher"])
def test_weights_are_not_looked_for_by_a_run_that_does_not_go_on(tiny: Path, tmp_path: Path, key: str) -> None:
    def never(name: str) -> tuple[Path, None]:
        raise AssertionError(name)

    plain = "optimise.label_smoothing=0.0"  # of no use to a teacher without labels
    train(read_recipe(tiny, smoke=True, overrides=[f"{key}=random", plain]), tmp_path / "run")
    other = read_recipe(tiny, overrides=[f"{key}=nowhere/model.safetensors", plain, "optimise.batch=1000"])
    with pytest.raises(RecipeError, match=r"not be the same run: .*optimise\.batch was 16, is 1000"):
        train(other, tmp_path / "run", resume=True, locate=never)


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


def test_of_two_runs_that_start_at_once_the_refused_one_leaves_the_other_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = FileLock(tmp_path / "run/.lock")

    def make_after_the_other(folder: Path, **words: bool) -> None:
        monkeypatch.undo()
        folder.mkdir()
        other.acquire()
        folder.mkdir(**words)

    monkeypatch.setattr(Path, "mkdir", make_after_the_other)
    with pytest.raises(RecipeError, match="another process trains here"), Team().alone_in(tmp_path / "run"):
        pass
    assert (tmp_path / "run/.lock").exists()
    other.release()


def test_a_file_in_the_place_of_the_folder_is_named(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(RecipeError, match="run: this is a file"):
        train(read_recipe(tiny, smoke=True), tmp_path / "run")


def test_a_loss_that_is_no_number_ends_the_run(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"the loss is no longer a number; lower optimise\.lr"):
        train(read_recipe(tiny, overrides=["optimise.lr=1e30"]), tmp_path / "run")
    assert not (tmp_path / "run/model.safetensors").exists()


def test_a_loss_that_the_last_step_makes_no_number_ends_the_run(tiny: Path, tmp_path: Path) -> None:
    wild = ["optimise.lr=1e38", "optimise.warmup_epochs=0.0", "optimise.ema_decay=0.0", "optimise.steps_per_epoch=1"]
    with pytest.raises(RecipeError, match=r"step 1: .* no longer a number; lower optimise\.lr"):
        train(read_recipe(tiny, smoke=True, overrides=wild), tmp_path / "run")
    assert not (tmp_path / "run/history.jsonl").exists()
    assert not (tmp_path / "run/model.safetensors").exists()


def test_the_checkpoint_from_before_a_loss_that_is_no_number_still_loads(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no longer a number"):
        train(read_recipe(tiny, overrides=["optimise.lr=1e30", "run.checkpoint_steps=1"]), tmp_path / "run")
    tensors, about = read_tensors(tmp_path / "run/last.safetensors")
    assert about["progress"]["step"] >= 1
    assert all(value.isfinite().all() for value in tensors.values())


@pytest.mark.parametrize("step", [3, STEPS_PER_EPOCH])
def test_a_step_that_spoils_the_weights_does_not_spoil_the_last_good_checkpoint(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Within an epoch and at its end, where the loss itself is still a number; and what is kept starts another run."""
    steps = iter(range(1, 100))

    def spoil(net: torch.nn.Module, recipe: object) -> None:
        if next(steps) == step:
            next(net.parameters()).grad.fill_(math.nan)

    monkeypatch.setattr("anabranch.train.student.clip", spoil)
    last = tmp_path / "run/last.safetensors"
    wanted = rf"step {step}: in net/.* there are values .* no longer a number; .* --set start\.weights={last}"
    with pytest.raises(RecipeError, match=wanted):
        train(read_recipe(tiny, overrides=["run.checkpoint_steps=1"]), tmp_path / "run")
    tensors, about = read_tensors(last)
    assert about["progress"]["step"] == step - 1
    assert all(value.isfinite().all() for value in tensors.values())

    met: list[Tensor] = []
    still = ["optimise.epochs=1", "optimise.steps_per_epoch=1", "optimise.lr=1e-30", "optimise.ema_decay=0.0"]
    result = train(read_recipe(tiny, overrides=[f"start.weights={last}", *still]), tmp_path / "again")
    begun = load_trained(result).net.state_dict()
    for name, value in begun.items():
        if "running" not in name and "batches" not in name:  # which count the new run's pictures
            torch.testing.assert_close(value, tensors[f"ema/{name}"], rtol=0, atol=1e-6)
            met.append(value)
    assert len(met) > 10


def test_a_run_that_is_not_done_is_a_net_too(tiny: Path, tmp_path: Path) -> None:
    def stop(line: object) -> None:
        if isinstance(line, dict) and line.get("step") == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(read_recipe(tiny), tmp_path / "run", report=stop)
    last = tmp_path / "run/last.safetensors"
    trained = load_trained(last)
    about = trained.about
    assert (about.name, about.class_names, about.preprocess.crop_px) == ("tiny-step-6", ("left", "right"), 12)
    mean = {name.removeprefix("ema/"): value for name, value in read_tensors(last)[0].items() if "ema/" in name}
    for net in (trained.net, load(last)):
        assert _equal(net.state_dict(), mean)


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


ENDED = """
import os, signal, sys
from pathlib import Path
from anabranch.train import checkpoint, loop
from anabranch.train.recipe import read_recipe
from anabranch.train.stopping import Stopping
from anabranch.train.student import Student

recipe, folder, moment, number, *words = sys.argv[1:]
before = os.environ.get("BEFORE")
signal.signal(signal.SIGINT, signal.default_int_handler)  # or it is ignored where a script runs this in the background
if before == "a handler":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
elif before == "ignored":
    signal.signal(signal.SIGINT, signal.SIG_IGN)

def tell():
    for name in os.environ["SIGNALS"].split():
        signal.raise_signal(getattr(signal, name))

step = Student.step
def stepped(self, share, at, lr):
    if moment == "step" and at == int(number) - 1:
        tell()
    return step(self, share, at, lr)
Student.step = stepped

save = checkpoint.save
def saved(path, fixed, progress, learner):
    if moment == "save" and progress.step == int(number):
        tell()
    return save(path, fixed, progress, learner)
checkpoint.save = saved

def reported(line):
    if moment == "report" and line.get("step") == int(number):
        tell()

overrides = ["run.checkpoint_steps=1000", *words]
with Stopping("stopping") as stopping:
    loop.train(read_recipe(Path(recipe), overrides=overrides), Path(folder), report=reported, stopping=stopping)
print("done")
"""


def _ended(
    tiny: Path, folder: Path, moment: str, step: int, *, signals: str, before: str = ""
) -> subprocess.CompletedProcess[str]:
    """A run that is sent signals as it does a step, saves after it, or tells of it."""
    script = folder.with_suffix(".py")
    script.write_text(ENDED)
    return subprocess.run(
        [sys.executable, script, tiny, folder, moment, str(step)],
        env={**ENVIRONMENT, "SIGNALS": signals, "BEFORE": before},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("moment", "step"),
    [("step", 3), ("report", 3), ("step", STEPS_PER_EPOCH), ("report", STEPS_PER_EPOCH), ("save", STEPS_PER_EPOCH)],
)
def test_a_run_that_is_told_to_end_keeps_the_step_at_hand(tiny: Path, tmp_path: Path, moment: str, step: int) -> None:
    """Twice, as impatient schedulers do; told after a step, it does one more unless its epoch is over."""
    recipe = read_recipe(tiny, overrides=["run.checkpoint_steps=1000"])
    done = _ended(tiny, tmp_path / "halves", moment, step, signals="SIGTERM SIGTERM", before="a handler")
    assert (done.returncode, done.stdout) == (143, ""), done.stderr
    assert done.stderr.count("stopping") == 1
    kept = step + 1 if moment == "report" and step % STEPS_PER_EPOCH else step
    assert read_tensors(tmp_path / "halves/last.safetensors")[1]["progress"]["step"] == kept
    whole, halves = train(recipe, tmp_path / "whole"), train(recipe, tmp_path / "halves", resume=True)
    assert _tensors(whole) == _tensors(halves)


@pytest.mark.parametrize(
    ("signals", "before", "status", "kept"),
    [
        ("SIGINT SIGINT", "", -signal.SIGINT, False),  # the second Ctrl-C does not wait for the step
        ("SIGINT", "", -signal.SIGINT, True),
        ("SIGTERM", "", -signal.SIGTERM, True),  # as it ends a program by default
        ("SIGHUP", "", -signal.SIGHUP, True),
        ("SIGINT", "ignored", 0, True),  # as in the background of a script, where the run goes on to its end
    ],
)
def test_a_signal_does_what_it_did_before_once_the_step_is_kept(
    tiny: Path, tmp_path: Path, signals: str, before: str, status: int, kept: bool
) -> None:
    done = _ended(tiny, tmp_path / "run", "step", 3, signals=signals, before=before)
    assert done.returncode == status, done.stderr
    assert (tmp_path / "run/last.safetensors").exists() == kept
    assert (tmp_path / "run/model.safetensors").exists() == (status == 0)


@pytest.mark.slow
def test_when_one_process_is_told_to_end_all_of_them_keep_the_same_step(tiny: Path, tmp_path: Path) -> None:
    """The one that heard of it must tell the others, which would wait for it in their next step."""
    words = ["run.checkpoint_steps=1000", "optimise.epochs=3"]
    done = _two(
        tmp_path / "ended.py",
        f"""
import os, signal
from pathlib import Path
from anabranch.train.loop import train
from anabranch.train.recipe import read_recipe
from anabranch.train.stopping import Stopping
from anabranch.train.student import Student

signal.signal(signal.SIGINT, signal.default_int_handler)  # or it may be ignored
step = Student.step
def told(self, share, number, lr):
    if number == 5 and os.environ["RANK"] == "1":
        signal.raise_signal(signal.SIGINT)
    return step(self, share, number, lr)
Student.step = told
with Stopping() as stopping:
    train(read_recipe(Path({str(tiny)!r}), overrides={words!r}), Path({str(tmp_path / "run")!r}), stopping=stopping)
""",
    )
    assert done.returncode != 0
    assert "KeyboardInterrupt" in done.stderr
    assert read_tensors(tmp_path / "run/last.safetensors")[1]["progress"]["step"] == 6
    folders = tmp_path / "run", tmp_path / "whole"
    for folder in folders:
        settings = [word for each in words for word in ("--set", each)]
        assert _run(tiny, folder, *settings, processes=2).wait() == 0, folder.with_suffix(".log").read_text()
    assert _tensors(folders[0] / "model.safetensors") == _tensors(folders[1] / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_where_one_process_is_gone_the_other_says_so(tiny: Path, tmp_path: Path, where: str) -> None:
    done = _two(
        tmp_path / "gone.py",
        f"""
import os, signal
from pathlib import Path
from anabranch.errors import Error
from anabranch.train.loop import train
from anabranch.train.recipe import read_recipe
from anabranch.train.student import Student

signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which torchrun sends to who is left
loss = Student._loss
def gone(self, *batch):
    if os.environ["RANK"] == "1" and self.steps == 3:
        os._exit(7)
    return loss(self, *batch)
Student._loss = gone
step = Student.step
def told(self, share, number, lr):
    self.steps = number
    return step(self, share, number, lr)
Student.step = told
recipe = read_recipe(Path({str(tiny)!r}), overrides=["net.sync_norms={str(where == "forward").lower()}"])
try:
    train(recipe, Path({str(tmp_path / "run")!r}))
except Error as error:
    Path({str(tmp_path / "said.txt")!r}).write_text(str(error))
""",
    )
    assert done.returncode != 0
    assert (tmp_path / "said.txt").read_text().startswith("another process of this run has ended"), done.stderr
    assert read_tensors(tmp_path / "run/last.safetensors")[1]["progress"]["step"] == 2


@pytest.mark.slow
def test_where_one_process_is_spoilt_all_of_them_end_with_a_sentence(tiny: Path, tmp_path: Path) -> None:
    """In its norms' statistics, of which each has its own: the leading process alone would not see it.

    The threads that send the team's numbers are gone by then. One that frees a tensor as Python ends aborts it.
    """
    done = _two(
        tmp_path / "spoilt.py",
        f"""
import math, os
from pathlib import Path
from anabranch.errors import RecipeError
from anabranch.train.loop import train
from anabranch.train.recipe import read_recipe
from anabranch.train.student import Student
from anabranch.train.team import Team

def threads():
    return set(os.listdir("/proc/self/task"))

before, wrap = threads(), Team.wrap
def wrapping(team, net):
    global sending
    sending = threads() - before
    return wrap(team, net)
Team.wrap = wrapping

step = Student.step
def spoiling(self, share, number, lr):
    loss = step(self, share, number, lr)
    if number == 2 and os.environ["RANK"] == "1":
        next(self.net.buffers()).fill_(math.nan)
    return loss
Student.step = spoiling
try:
    train(read_recipe(Path({str(tiny)!r}), overrides=["run.checkpoint_steps=1"]), Path({str(tmp_path / "run")!r}))
except RecipeError as error:
    assert sending and not sending & threads()
    Path({str(tmp_path)!r}, "refused." + os.environ["RANK"]).write_text(str(error))
""",
    )
    assert done.returncode == 0, done.stderr
    assert "in another process there are values" in (tmp_path / "refused.0").read_text()
    assert "in net/" in (tmp_path / "refused.1").read_text()
    assert read_tensors(tmp_path / "run/last.safetensors")[1]["progress"]["step"] == 2


def test_a_running_mean_that_would_never_move_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"optimise\.ema_steps = 13 does not fit: the whole run has 12 steps"):
        train(read_recipe(tiny, overrides=["optimise.ema_steps=13"]), tmp_path / "run")


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
    ("held", "instead"),
    [(rb"step\": 2", rb"step\": 1"), (rb"mean\": [0.5", rb"mean\": [0.4")],
)
def test_a_checkpoint_that_says_something_else_of_its_tensors_is_refused(
    tiny: Path, tmp_path: Path, held: bytes, instead: bytes
) -> None:
    train(read_recipe(tiny, smoke=True), tmp_path / "run")
    last = tmp_path / "run/last.safetensors"
    whole = last.read_bytes()
    assert held in whole
    last.write_bytes(whole.replace(held, instead, 1))
    with pytest.raises(CheckpointError, match="what it says of its tensors is damaged"):
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


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants a C++ compiler")
def test_a_compiled_net_learns_what_it_learns_uncompiled(tiny: Path, tmp_path: Path) -> None:
    words = ["net.dropout=0.0", "net.drop_path=0.0", "augment.mixup=0.0", "optimise.epochs=1", "optimise.lr=0.005"]
    losses = []
    for compiled in ("false", "true"):
        folder = tmp_path / compiled
        settings = [word for each in (*words, f"run.compile={compiled}") for word in ("--set", each)]
        assert _run(tiny, folder, *settings, processes=1).wait() == 0, folder.with_suffix(".log").read_text()
        losses.append(json.loads((folder / "history.jsonl").read_text())["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_batch_in_parts_gives_the_step_of_the_whole(tiny: Path, tmp_path: Path) -> None:
    # norms see a part by itself, so they are kept still: all but the head is frozen
    start = train(read_recipe(tiny, smoke=True), tmp_path / "start")
    frozen = f"start={{weights='{start}', frozen=['all but head']}}"
    plain = [frozen, "augment.mixup=0.0", "net.dropout=0.0", "net.drop_path=0.0"]
    results = [
        read_tensors(train(read_recipe(tiny, overrides=[*plain, f"optimise.accumulate={n}"]), tmp_path / str(n)))[0]
        for n in (1, 4)
    ]
    for name, whole in results[0].items():
        torch.testing.assert_close(results[1][name], whole, rtol=1e-4, atol=1e-6, msg=name)


def test_what_is_frozen_stays_and_the_head_learns(tiny: Path, tmp_path: Path) -> None:
    start = train(read_recipe(tiny, smoke=True), tmp_path / "start")
    recipe = read_recipe(tiny, overrides=[f"start={{weights='{start}', frozen=['all but head']}}"])
    before, after = read_tensors(start)[0], read_tensors(train(recipe, tmp_path / "run"))[0]
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"head.weight", "head.bias"}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_run_in_reduced_precision_learns_and_goes_on_to_the_same_bits(
    tiny: Path, tmp_path: Path, precision: str
) -> None:
    recipe = read_recipe(tiny, overrides=["augment.mixup=0.0", f"run.precision={precision}"])
    whole = train(recipe, tmp_path / "whole")
    stopped(recipe, tmp_path / "halves", step=7)
    assert _tensors(train(recipe, tmp_path / "halves", resume=True)) == _tensors(whole)
    history = [json.loads(line) for line in (tmp_path / "whole/history.jsonl").read_text().splitlines()]
    assert history[-1]["loss"] < history[0]["loss"]


@pytest.mark.parametrize("batch", [["optimise.batch=1"], ["optimise.batch=2", "optimise.accumulate=2"]])
def test_a_norm_that_sees_one_value_says_which_keys_to_raise(tiny: Path, tmp_path: Path, batch: list[str]) -> None:
    small = ["input.crop_px=2", "input.resize_px=2", "augment.mixup=0.0"]
    with pytest.raises(RecipeError, match="one picture of 2 px leaves norms without a spread.*raise optimise.batch"):
        train(read_recipe(tiny, overrides=[*small, *batch]), tmp_path / "run")


@pytest.mark.parametrize("optimiser", ["adamw", "rmsprop", "lamb"])
def test_every_optimiser_goes_on_to_the_same_bits(tiny: Path, tmp_path: Path, optimiser: str) -> None:
    recipe = read_recipe(tiny, overrides=[f"optimise.optimiser={optimiser}", "optimise.lr=0.002"])
    whole = train(recipe, tmp_path / "whole")
    stopped(recipe, tmp_path / "halves", step=7)
    assert _tensors(train(recipe, tmp_path / "halves", resume=True)) == _tensors(whole)


def stopped(recipe: Recipe, folder: Path, *, step: int) -> None:
    """A run that a user's interrupt ends after this step."""

    def stop(told: Mapping[str, Any]) -> None:
        if told.get("step") == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, folder, report=stop)


def test_the_best_epoch_becomes_the_model_where_that_is_asked_even_if_it_came_before_a_stop(
    tiny: Path, tmp_path: Path
) -> None:
    wild = ["run.result=best", "optimise.lr=0.5", "optimise.ema_decay=0.0", "optimise.epochs=6", "run.keep=6"]
    recipe = read_recipe(tiny, overrides=wild)
    stopped(recipe, tmp_path / "run", step=4 * STEPS_PER_EPOCH + 1)
    result = train(recipe, tmp_path / "run", resume=True)
    history = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    best = max(history, key=lambda line: (line["top1"], -line["epoch"]))  # the first of equals
    assert _tensors(result) == _tensors(tmp_path / f"run/epoch-{best['epoch']:04d}.safetensors")


def test_the_average_of_the_epochs_that_are_kept_becomes_the_model_where_that_is_asked(
    tiny: Path, tmp_path: Path
) -> None:
    result = train(read_recipe(tiny, overrides=["run.result=average", "run.keep=2"]), tmp_path / "run")
    kept = sorted((tmp_path / "run").glob("epoch-*.safetensors"))
    assert [path.name for path in kept] == ["epoch-0002.safetensors", "epoch-0003.safetensors"]
    second, third = (read_tensors(path)[0] for path in kept)
    torch.testing.assert_close(
        read_tensors(result)[0]["head.weight"], (second["head.weight"] + third["head.weight"]) / 2
    )


def test_a_run_ends_when_it_has_not_become_better_for_so_many_epochs(tiny: Path, tmp_path: Path) -> None:
    train(read_recipe(tiny, overrides=["optimise.epochs=50", "optimise.patience=2"]), tmp_path / "run")
    scores = [json.loads(line)["top1"] for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert len(scores) < 50
    assert scores.index(max(scores)) == len(scores) - 3


@pytest.fixture
def spoilt(tmp_path: Path) -> list[str]:
    """Overrides that name a set of 20 pictures of which one is none."""
    rng = np.random.default_rng(0)
    for name in ("left", "right"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(tmp_path / f"set/{name}/{i}.png")
    shutil.copytree(tmp_path / "set", tmp_path / "whole")
    (tmp_path / "set/left/3.png").write_bytes(b"no picture")
    paths = {"train": tmp_path / "set", "test": tmp_path / "whole"}
    return ["optimise.batch=10", *(f"data.{part}={{path='{path}'}}" for part, path in paths.items())]


def test_a_few_unreadable_pictures_are_left_out_and_listed_where_that_is_allowed(
    tiny: Path, tmp_path: Path, spoilt: list[str]
) -> None:
    train(read_recipe(tiny, overrides=[*spoilt, "data.unreadable=0.05"]), tmp_path / "run")
    [line] = (tmp_path / "run/unreadable.txt").read_text().splitlines()
    assert "left/3.png: not a picture" in line
    assert json.loads((tmp_path / "run/history.jsonl").read_text().splitlines()[-1])["unreadable"] == 1


def test_an_unreadable_picture_may_have_a_name_that_is_not_utf_8(tiny: Path, tmp_path: Path, spoilt: list[str]) -> None:
    os.rename(tmp_path / "set/left/3.png", os.fsencode(tmp_path / "set/left") + b"/\xe9.png")
    train(read_recipe(tiny, overrides=[*spoilt, "data.unreadable=0.05"]), tmp_path / "run")
    [line] = (tmp_path / "run/unreadable.txt").read_text(encoding="utf-8").splitlines()
    assert "left/\\udce9.png: not a picture" in line


def test_a_few_unreadable_test_pictures_are_left_out_of_the_score_where_that_is_allowed(
    tiny: Path, tmp_path: Path, spoilt: list[str]
) -> None:
    swapped = [each.replace("whole", "set") for each in spoilt]
    trained = load_trained(train(read_recipe(tiny, overrides=[*swapped, "data.unreadable=0.05"]), tmp_path / "run"))
    last = json.loads((tmp_path / "run/history.jsonl").read_text().splitlines()[-1])
    assert (last["pictures"], last["unreadable"]) == (19, 2)
    assert len((tmp_path / "run/unreadable.txt").read_text().splitlines()) == 2  # as a training and as a test picture
    with np.load(tmp_path / "run/answers.npz") as held:
        assert held["indices"].tolist() == [index for index in range(20) if index != 3]
        pixels = np.stack([np.asarray(Image.open(tmp_path / "set" / name)) for name in held["names"]])
        x = torch.from_numpy((pixels.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25).float()
        with torch.inference_mode():
            np.testing.assert_allclose(held["logits"], trained.net(x).numpy(), rtol=1e-4, atol=1e-4)


def test_an_unreadable_test_picture_costs_no_epoch(tiny: Path, tmp_path: Path, spoilt: list[str]) -> None:
    whole, broken = (f"path='{tmp_path / name}'" for name in ("whole", "set"))
    swapped = [f"data.train={{{whole}}}", f"data.test={{{broken}}}"]
    recipe = read_recipe(tiny, overrides=[*spoilt, *swapped, "run.checkpoint_steps=500"])
    with pytest.raises(ImageError, match=r"3\.png: not a picture"):
        train(recipe, tmp_path / "run")
    shutil.copy(tmp_path / "whole/left/3.png", tmp_path / "set/left/3.png")
    steps: list[int] = []
    resumed = train(
        recipe,
        tmp_path / "run",
        resume=True,
        report=lambda told: steps.append(told["step"]) if "step" in told else None,
    )
    assert steps == [3, 4, 5, 6]
    assert _tensors(resumed) == _tensors(train(recipe, tmp_path / "at once"))
    assert (tmp_path / "run/history.jsonl").read_text().count("\n") == 3


def test_more_unreadable_pictures_than_are_allowed_end_the_run(tiny: Path, tmp_path: Path, spoilt: list[str]) -> None:
    with pytest.raises(DatasetError, match=r"1 of 20 training pictures cannot be read, more than .* = 0.04; .*3.png"):
        train(read_recipe(tiny, overrides=[*spoilt, "data.unreadable=0.04"]), tmp_path / "run")


def test_a_run_goes_on_where_a_larger_share_of_unreadable_pictures_is_allowed(
    tiny: Path, tmp_path: Path, spoilt: list[str]
) -> None:
    told = [*spoilt, "optimise.epochs=2"]
    stopped(read_recipe(tiny, overrides=[*told, "data.unreadable=0.05"]), tmp_path / "run", step=3)
    for name in ("left/4.png", "right/5.png"):
        (tmp_path / "set" / name).write_bytes(b"no picture")
    with pytest.raises(DatasetError, match="or allow a larger share"):
        train(read_recipe(tiny, overrides=[*told, "data.unreadable=0.05"]), tmp_path / "run", resume=True)
    train(read_recipe(tiny, overrides=[*told, "data.unreadable=0.2"]), tmp_path / "run", resume=True)
    assert len((tmp_path / "run/unreadable.txt").read_text().splitlines()) == 3


def test_a_student_without_labels_comes_to_answer_as_its_teacher(tiny: Path, tmp_path: Path) -> None:
    teacher = train(read_recipe(tiny, overrides=["optimise.epochs=8", "augment.mixup=0.0"]), tmp_path / "teacher")
    told = [f"distil.teacher='{teacher}'", "run.seed=9", "optimise.epochs=8", "optimise.lr=0.1", "augment.mixup=0.0"]
    student = train(read_recipe(tiny, overrides=[*told, "optimise.label_smoothing=0.0"]), tmp_path / "student")
    data = open_labelled(tiny.parent, split="test")
    pixels = torch.stack([torch.from_numpy(data.picture(i).copy()) for i in range(len(data))])
    x = (pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    with torch.inference_mode():
        answered = [load_trained(path).net(x).argmax(1) for path in (teacher, student)]
    assert (answered[0] == answered[1]).float().mean() > 0.9


def test_pictures_without_labels_are_learnt_from_a_teacher(tiny: Path, tmp_path: Path) -> None:
    """At any depth, and to the same bits as with labels that are not looked at."""
    teacher = train(read_recipe(tiny, smoke=True), tmp_path / "teacher")
    data = open_labelled(tiny.parent, split="train")
    for index in range(len(data)):
        place = tmp_path / "photos" / ("left", "right")[data.labels[index]] / f"{index:02}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.picture(index)).save(place)
    told = [
        f"distil.teacher='{teacher}'",
        "optimise.label_smoothing=0.0",
        f"data.train={{path='{tmp_path / 'photos'}'}}",
    ]
    labelled = train(read_recipe(tiny, overrides=told), tmp_path / "labelled")
    unlabelled = train(read_recipe(tiny, overrides=[*told, "data.unlabelled=true"]), tmp_path / "unlabelled")
    assert _tensors(labelled) == _tensors(unlabelled)
    for place in (tmp_path / "photos/right").iterdir():  # loose ones now, beside a folder
        place.rename(tmp_path / "photos" / place.name)
    train(read_recipe(tiny, overrides=[*told, "data.unlabelled=true"]), tmp_path / "loose")


def test_a_run_does_not_go_on_with_another_teacher_in_the_place_of_the_first(tiny: Path, tmp_path: Path) -> None:
    one, other = (
        train(read_recipe(tiny, smoke=True, overrides=[f"run.seed={seed}"]), tmp_path / str(seed)) for seed in (1, 2)
    )
    teacher = shutil.copy(one, tmp_path / "teacher.safetensors")
    recipe = read_recipe(tiny, overrides=[f"distil.teacher='{teacher}'", "distil.labels=0.5"])
    whole = train(recipe, tmp_path / "whole")
    stopped(recipe, tmp_path / "halves", step=3)
    shutil.copy(other, tmp_path / "teacher.safetensors")
    with pytest.raises(
        RecipeError, match=r"not be the same run: distil\.teacher, as a hash, was '\w+', is '\w+'\. Go on"
    ):
        train(recipe, tmp_path / "halves", resume=True)
    moved = shutil.copy(one, tmp_path / "moved.safetensors")
    recipe = read_recipe(tiny, overrides=[f"distil.teacher='{moved}'", "distil.labels=0.5"])
    assert _tensors(train(recipe, tmp_path / "halves", resume=True)) == _tensors(whole)


def test_a_run_may_be_shown_larger_pictures_as_it_goes_on(tiny: Path, tmp_path: Path) -> None:
    sizes = ["augment.side_px=[[0, 8], [1, 12]]", "augment.crop='random-resized'", "augment.pad_px=0"]
    recipe = read_recipe(tiny, overrides=sizes)
    whole = train(recipe, tmp_path / "whole")
    stopped(recipe, tmp_path / "halves", step=STEPS_PER_EPOCH + 1)
    assert _tensors(train(recipe, tmp_path / "halves", resume=True)) == _tensors(whole)


@pytest.mark.parametrize(("result", "times"), [("last", 3), ("best", 4), ("average", 4)])
def test_the_last_epochs_answers_are_not_asked_for_twice(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result: str, times: int
) -> None:
    asked = []

    def noted(*told: Any) -> Answers:
        asked.append(told)
        return answers(*told)

    monkeypatch.setattr("anabranch.train.loop.answers", noted)
    keep = ["run.keep=2"] if result == "average" else []
    path = train(read_recipe(tiny, overrides=[f"run.result={result}", *keep]), tmp_path / "run")
    assert len(asked) == times
    with np.load(
        tmp_path / "run/answers.npz"
    ) as written:  # the oracle: the checkpoint that was written, on all pictures
        data = open_labelled(tiny.parent, split="test")
        pixels = torch.stack([torch.from_numpy(data.picture(i).copy()) for i in range(len(data))])
        with torch.inference_mode():
            wanted = load_trained(path).net((pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25)
        np.testing.assert_allclose(written["logits"], wanted.numpy(), rtol=0, atol=1e-4)


def test_the_rate_scaled_to_the_batch_is_told_before_the_first_step(tiny: Path, tmp_path: Path) -> None:
    told = []
    train(read_recipe(tiny, smoke=True, overrides=["optimise.lr_batch=8"]), tmp_path / "run", report=told.append)
    assert told[0]["plan"].lr == pytest.approx(2 * 0.05)  # for a batch of 16
