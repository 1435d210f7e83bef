from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from anabranch.train.estimate import Estimate, Parts, Timed, estimate
from anabranch.train.plan import Plan
from anabranch.train.tables import Data, Input, Optimise, Recipe, Run, Source
from anabranch.train.team import device_name

CPU = torch.device("cpu")


def plan(*, step: int = 0, processes: int = 1, **run: object) -> Plan:
    """Five epochs of 100 steps of 32 pictures, tested on 60."""
    recipe = Recipe(
        name="tiny",
        expect="nothing",
        arch="resnet18",
        data=Data(train=Source(path="shown"), test=Source(path="tested")),
        input=Input(crop_px=8, resize_px=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        optimise=Optimise(epochs=5, batch=32, lr=0.1),
        run=Run(**run),
    )
    return Plan(
        recipe=recipe,
        params=1000,
        macs=5000,
        class_names=("a", "b", "c"),
        num_pictures=3200,
        num_tested=60,
        processes=processes,
        device="the processor",
        lr=0.1,
        steps_per_epoch=100,
        step=step,
    )


class Clocked:
    """Parts of a run whose clock goes on by what each of them says it takes."""

    def __init__(self, *, reading: float, computing: Callable[[int], float], testing: float = 0.0):
        self.now = 0.0
        self.reading, self.computing, self.testing = reading, computing, testing
        self.fetched = self.stepped = 0

    def fetch(self) -> str:
        self.now += self.reading
        self.fetched += 1
        return "batch"

    def step(self, batch: str) -> int:
        assert batch == "batch"
        self.now += self.computing(self.stepped)
        self.stepped += 1
        return 32

    def test(self) -> int:
        self.now += self.testing
        return 20

    def held(self) -> dict[str, torch.Tensor]:
        assert self.stepped, "an optimiser has its momenta after a step"
        return {"net": torch.zeros(100), "seen": torch.zeros(2, dtype=torch.int64)}

    def estimate(self, plan: Plan, folder: Path, **settings: object) -> Estimate:
        parts = Parts(fetch=self.fetch, step=self.step, test=self.test, held=self.held)
        return estimate(plan, parts, folder, CPU, clock=lambda: self.now, **settings)


def test_the_mean_has_twice_its_standard_error() -> None:
    seconds = [1.0, 2.0, 3.0, 6.0]
    timed = Timed.of(seconds)
    assert timed.seconds == pytest.approx(np.mean(seconds))
    assert timed.error == pytest.approx(2 * np.std(seconds, ddof=1) / np.sqrt(4))
    assert timed.times == 4


def test_reading_and_computing_are_timed_apart_and_together(tmp_path: Path) -> None:
    found = Clocked(reading=0.25, computing=lambda step: 1.0, testing=0.5).estimate(plan(), tmp_path)
    assert (found.reading.seconds, found.computing.seconds, found.whole.seconds) == (0.25, 1.0, 1.25)
    assert found.epoch_seconds == 125
    assert found.test_seconds == 1.5  # 60 pictures, 20 at once
    assert found.run_seconds == 5 * (125 + 1.5)
    assert not found.waits_for_pictures


def test_a_run_whose_reading_is_slower_waits_for_pictures(tmp_path: Path) -> None:
    assert Clocked(reading=2.0, computing=lambda step: 1.0).estimate(plan(), tmp_path).waits_for_pictures


def test_the_first_steps_are_not_timed(tmp_path: Path) -> None:
    found = Clocked(reading=0.0, computing=lambda step: 60.0 if step == 0 else 1.0).estimate(plan(), tmp_path)
    assert found.whole == Timed(1.0, 0.0, found.whole.times)


def test_batches_that_wait_ready_do_not_make_reading_look_fast(tmp_path: Path) -> None:
    clocked = Clocked(reading=0.0, computing=lambda step: 1.0)
    read = clocked.fetch

    def fetch() -> str:  # six batches lie ready in the windows of three workers
        clocked.now += 5.0 if clocked.fetched > 6 else 0.0
        return read()

    clocked.fetch = fetch  # type: ignore[method-assign]
    assert clocked.estimate(plan(workers=3), tmp_path).reading.seconds == 5.0


def test_what_is_left_of_a_run_that_goes_on_is_estimated(tmp_path: Path) -> None:
    found = Clocked(reading=0.0, computing=lambda step: 1.0, testing=1.0).estimate(plan(step=350), tmp_path)
    assert found.run_seconds == 150 + 2 * 3  # half an epoch and a whole one, each with its test


def test_every_process_does_as_many_steps_as_the_team_agrees_on(tmp_path: Path) -> None:
    fast = Clocked(reading=0.0, computing=lambda step: 0.001)
    slow = Clocked(reading=0.0, computing=lambda step: 9.0)
    for each in (fast, slow):
        each.estimate(plan(processes=2), tmp_path, agreed=lambda seconds: 1.0)
    assert fast.stepped == slow.stepped


@pytest.mark.parametrize(("step_seconds", "times"), [(100.0, 3), (1.0, 10), (0.001, 20)])
def test_slow_steps_are_timed_less_often(tmp_path: Path, step_seconds: float, times: int) -> None:
    clocked = Clocked(reading=0.0, computing=lambda step: step_seconds)
    assert clocked.estimate(plan(), tmp_path, seconds=30).whole.times == times


@pytest.mark.parametrize(
    ("run", "models"), [({}, 1), ({"result": "best"}, 2), ({"keep": 3}, 4 + 1), ({"keep": 3, "result": "best"}, 4 + 2)]
)
def test_the_disk_is_asked_for_two_checkpoints_the_models_kept_and_the_answers(
    tmp_path: Path, run: dict[str, object], models: int
) -> None:
    folder = tmp_path / "not" / "yet"
    found = Clocked(reading=0.0, computing=lambda step: 1.0).estimate(plan(**run), folder)
    assert found.checkpoint_bytes == 100 * 4 + 2 * 8
    assert found.disk_bytes == 2 * 416 + models * 4 * 1000 + 60 * 3 * 4
    assert found.free_bytes == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
    assert found.has_room
    assert not folder.exists()


def test_the_peak_of_memory_counts_what_has_been_given_back() -> None:
    # in a process of its own: this one may have had more before
    code = """if True:
        import numpy, torch
        from anabranch.train.estimate import peak_bytes
        before = peak_bytes(torch.device("cpu"))
        numpy.ones(50_000_000)  # given back at once
        print(peak_bytes(torch.device("cpu")) - before)
    """
    more = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 350e6 < more < 450e6


def test_a_plan_counts_steps_and_pictures() -> None:
    assert plan(processes=2).steps == 500
    assert plan(processes=2).pictures_per_process == 16


def test_the_processor_is_named_with_its_threads() -> None:
    assert str(torch.get_num_threads()) in device_name(CPU)


def test_epochs_of_smaller_pictures_count_by_their_own_steps(tmp_path: Path) -> None:
    large, small = (Clocked(reading=0.0, computing=lambda step, each=each: each) for each in (4.0, 1.0))
    small.now = large.now

    def shared(parts: Clocked) -> Parts[str]:
        def step(batch: str) -> int:
            large.now += parts.computing(0)
            return 32

        return Parts(fetch=large.fetch, step=step, test=large.test, held=dict)

    smaller = [(shared(small), 0.6)]
    found = estimate(plan(), shared(large), tmp_path, CPU, smaller=smaller, clock=lambda: large.now)
    assert found.whole.seconds == 4.0
    assert found.mean_step.seconds == pytest.approx(0.4 * 4 + 0.6 * 1)
    assert found.run_seconds == pytest.approx(500 * (0.4 * 4 + 0.6 * 1))


def test_the_best_epochs_weights_are_tested_once_more(tmp_path: Path) -> None:
    last, best = (
        Clocked(reading=0.0, computing=lambda step: 1.0, testing=1.0).estimate(plan(result=result), tmp_path)
        for result in ("last", "best")
    )
    assert (last.run_seconds, best.run_seconds) == (500 + 5 * 3, 500 + 6 * 3)
