"""What a dry run tells, against what the run itself then does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from anabranch.train.data import Share
from anabranch.train.loop import train
from anabranch.train.recipe import read_recipe
from anabranch.train.rehearse import rehearse
from anabranch.train.score import Answers, answers
from anabranch.train.student import Student


def test_a_rehearsal_says_what_a_run_takes_and_writes_nothing(tiny: Path, tmp_path: Path) -> None:
    found = rehearse(read_recipe(tiny), tmp_path / "run")
    assert found.plan.steps == 3 * (70 // 16)
    assert found.plan.num_pictures == 70
    assert 0 < found.epoch_seconds < found.run_seconds
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("sides", "tried"), [("[[2, 8]]", {12, 8}), ("[[0, 8], [1, 12]]", {12, 8}), ("[[0, 8]]", {8}), ("[]", {12})]
)
def test_a_rehearsal_tries_every_side_that_pictures_will_have(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sides: str, tried: set[int]
) -> None:
    met = []
    step = Student.step

    def noted(student: Student, share: Share, number: int, lr: float) -> float:
        met.append(share.pixels.shape[1])
        return step(student, share, number, lr)

    monkeypatch.setattr(Student, "step", noted)
    told = [f"augment.side_px={sides}", "augment.crop='random-resized'", "augment.pad_px=0"]
    found = rehearse(read_recipe(tiny, overrides=told), tmp_path / "run")
    assert set(met) == tried
    assert met[0] == max(tried)  # whose memory and step are told
    assert (found.mean_step == found.whole) == (len(tried) == 1)


def test_a_rehearsals_test_keeps_every_worker_busy(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def noted(*told: Any, at_once: int) -> Answers:
        asked.append(at_once)
        return answers(*told, at_once=at_once)

    monkeypatch.setattr("anabranch.train.rehearse.answers", noted)
    rehearse(read_recipe(tiny, overrides=["run.workers=4"]), tmp_path / "run")
    assert set(asked) == {256 // 8}


@pytest.mark.parametrize("kept", [["run.keep=3"], ["run.result=best"]])
def test_the_disk_that_a_rehearsal_tells_is_what_a_run_takes(tiny: Path, tmp_path: Path, kept: list[str]) -> None:
    wide = ["arch.width=32", "arch.group_width=64", "optimise.steps_per_epoch=1"]
    recipe = read_recipe(tiny, overrides=[*wide, *kept])
    found = rehearse(recipe, tmp_path / "run")
    train(recipe, tmp_path / "run")
    left = {path.name: path.stat().st_size for path in (tmp_path / "run").iterdir()}
    beside = left["last.safetensors"] + left.get("epoch-0003.safetensors", 0)  # each is written beside what goes
    assert found.disk_bytes == pytest.approx(sum(left.values()) + beside, rel=0.05)
