"""What a run says and leaves behind where a file of it cannot be written.

A limit on the size of files stands in for a full disk: writes fail half-way with the system's own error.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anabranch.errors import CheckpointError
from anabranch.nets.store import read_tensors
from anabranch.train.logs import Logs, write_answers
from anabranch.train.loop import train
from anabranch.train.recipe import read_recipe
from anabranch.train.tables import Recipe


@contextmanager
def no_file_above(size_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def recipe(tiny: Path) -> Recipe:
    return read_recipe(tiny, overrides=["run.tensorboard=true"])


def bits(path: Path) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in read_tensors(path)[0].items()}


def test_a_disk_that_fills_up_costs_nothing_but_the_steps_since_the_last_checkpoint(
    recipe: Recipe, tmp_path: Path
) -> None:
    def stop(told: object) -> None:
        if isinstance(told, dict) and told.get("step") == 3:
            raise KeyboardInterrupt

    whole = train(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", report=stop)
    last = tmp_path / "run/last.safetensors"
    before = last.read_bytes()
    said = r"last\.safetensors: cannot be written .*File too large.*make room"
    with no_file_above(len(before) // 2), pytest.raises(CheckpointError, match=said):
        train(recipe, tmp_path / "run", resume=True)
    assert last.read_bytes() == before
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        ".lock",
        "last.safetensors",
        "recipe.json",
        "tensorboard",
    }
    assert bits(train(recipe, tmp_path / "run", resume=True)) == bits(whole)


def test_a_result_that_finds_no_room_is_written_once_there_is_some(recipe: Recipe, tmp_path: Path) -> None:
    limits = ExitStack()

    def fill(told: Mapping[str, Any]) -> None:
        if told.get("epoch") == 3 and "step" not in told:  # the last epoch's line
            limits.enter_context(no_file_above(30_000))

    with limits, pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be written"):
        train(recipe, tmp_path / "run", report=fill)
    assert not (tmp_path / "run/model.safetensors").exists()
    assert bits(train(recipe, tmp_path / "run", resume=True)) == bits(train(recipe, tmp_path / "whole"))


def test_a_disk_that_is_full_from_the_start_is_said_before_the_first_step(recipe: Recipe, tmp_path: Path) -> None:
    told: list[Mapping[str, object]] = []
    with no_file_above(1000), pytest.raises(CheckpointError, match=r"recipe\.json: cannot be written"):
        train(recipe, tmp_path / "run", report=told.append)
    assert [*told[0]] == ["plan", "tested"]
    assert len(told) == 1
    assert not (tmp_path / "run").exists()


def test_the_history_of_before_stays_where_a_longer_one_finds_no_room(tmp_path: Path) -> None:
    logs = Logs(tmp_path, tensorboard=False)
    logs.rewrite([{"epoch": 1}])
    with no_file_above(20), pytest.raises(CheckpointError, match=r"history\.jsonl: cannot be written"):
        logs.rewrite([{"epoch": 1}, {"epoch": 2}])
    assert (tmp_path / "history.jsonl").read_text() == '{"epoch": 1}\n'
    assert len(list(tmp_path.iterdir())) == 1


def test_tensorboards_events_that_find_no_room_end_the_run_instead_of_hanging_it(tmp_path: Path) -> None:
    told = {"steps": 1000, "loss": 1.0, "lr": 0.1, "pictures_per_s": 50.0, "waiting": 0.25}
    logs = Logs(tmp_path, tensorboard=True)
    logs.step({**told, "step": 10})
    [events] = (tmp_path / "tensorboard").iterdir()
    written = events.read_bytes()
    with no_file_above(len(written) + 10), pytest.raises(CheckpointError, match=r"events\..*: cannot be written"):
        logs.step({**told, "step": 20})
    assert events.read_bytes().startswith(written)


def test_answers_that_find_no_room_leave_no_half_of_them(tmp_path: Path) -> None:
    logits = np.random.default_rng(0).normal(size=(500, 10)).astype(np.float32)
    told = {"names": ["x"] * 500, "class_names": list("abcdefghij")}
    with no_file_above(5000), pytest.raises(CheckpointError, match=r"answers\.npz: cannot be written"):
        write_answers(tmp_path, logits, np.zeros(500, np.int64), np.arange(500), **told)
    assert not list(tmp_path.iterdir())
