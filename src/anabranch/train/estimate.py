"""What a run is about to do, and what that will take: time, memory and disk, measured on a few of its own steps.

Nothing is modelled that can be timed: a step is timed as the run does it, reading and computing at once, and each of
the two is timed alone to say which of them the other waits for.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Generic, TypeVar

import torch
from torch import Tensor

from anabranch.train.plan import Plan

_WARM_UP = 2  # steps that are not timed: memory is claimed in them, and kernels are chosen
_FEWEST, _MOST = 3, 20  # steps that are timed

Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class Parts(Generic[Batch]):
    """The parts of a run that can be tried one by one. They may change what they work on: hand in copies of it."""

    fetch: Callable[[], Batch]  # reads the next batch as the run does, waiting for it; at the set's end it begins anew
    step: Callable[[Batch], object]  # one step of the optimiser on it
    test: Callable[[], int]  # reads some test pictures and answers them; how many, over all processes
    held: Callable[[], Mapping[str, Tensor]]  # all tensors of a checkpoint, asked for after some steps


@dataclass(frozen=True, slots=True)
class Timed:
    """Something done `times` times: its mean in seconds, and twice the standard error of that mean."""

    seconds: float
    error: float
    times: int

    @classmethod
    def of(cls, seconds: list[float]) -> Timed:
        mean = sum(seconds) / len(seconds)
        variance = sum((each - mean) ** 2 for each in seconds) / (len(seconds) - 1)
        return cls(mean, 2 * math.sqrt(variance / len(seconds)), len(seconds))

    @classmethod
    def mean(cls, parts: Sequence[tuple[Timed, float]]) -> Timed:
        """Over things that were timed, each with its share of the whole."""
        return cls(
            sum(share * each.seconds for each, share in parts),
            math.hypot(*(share * each.error for each, share in parts)),
            sum(each.times for each, _ in parts),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a run will take, by steps that this process timed."""

    plan: Plan
    whole: Timed  # a step as the run does it, of its largest pictures: a batch is waited for, then learnt from
    mean_step: Timed  # the same, over the sides that pictures have in the run's epochs
    reading: Timed  # a batch, while nothing else goes on
    computing: Timed  # a step on a batch at hand
    other_layout: Timed | None = None  # the same with run.channels_last the other way
    test_seconds: float  # all test pictures once
    memory_bytes: int | None  # of this process at its peak, on the device that computes; None: the system does not say
    device_bytes: int | None  # what the device has, where it is a GPU
    checkpoint_bytes: int
    disk_bytes: int  # the run's folder at its fullest
    free_bytes: int  # where the folder is to lie

    @property
    def epoch_seconds(self) -> float:
        """In the mean, without its test."""
        return self.plan.steps_per_epoch * self.mean_step.seconds

    @property
    def run_seconds(self) -> float:
        """From the plan's step to the end, tests included; writing checkpoints is not."""
        left = self.plan.steps - self.plan.step
        tests = math.ceil(left / self.plan.steps_per_epoch) + (self.plan.recipe.run.result != "last")
        return left * self.mean_step.seconds + tests * self.test_seconds

    @property
    def run_error(self) -> float:
        return (self.plan.steps - self.plan.step) * self.mean_step.error

    @property
    def grows(self) -> bool:
        """Whether pictures have several sides."""
        return self.mean_step != self.whole

    @property
    def waits_for_pictures(self) -> bool:
        """Whether reading is the slower of the two."""
        return self.reading.seconds > self.computing.seconds

    @property
    def has_slower_layout(self) -> bool:
        """Whether the other layout is faster, beyond the errors of both."""
        if self.other_layout is None:
            return False
        margin = math.hypot(self.computing.error, self.other_layout.error)
        return self.computing.seconds - self.other_layout.seconds > margin

    @property
    def has_room(self) -> bool:
        return self.disk_bytes < self.free_bytes


def estimate(
    plan: Plan,
    parts: Parts[Batch],
    folder: Path,
    device: torch.device,
    *,
    smaller: Sequence[tuple[Parts[Batch], float]] = (),
    seconds: float = 30.0,
    agreed: Callable[[float], float] = lambda seconds: seconds,
    clock: Callable[[], float] = perf_counter,
) -> Estimate:
    """Try the parts of a run for about `seconds`, at least three times each, and say what the whole will take.

    parts: with the largest pictures of the run; smaller: with each other side, and the share of the epochs that have
    it. Every process of a team calls this; `agreed` gives each the same of a figure (its mean), so that all do as many
    steps. `folder`, which need not exist yet, is only asked how much room it has.
    """

    def timed(act: Callable[[], object], times: int) -> list[float]:
        return _timed(act, times, device, clock)

    ahead = 2 * plan.recipe.run.workers  # batches that wait ready, which would make reading look faster than it is
    batch = parts.fetch()
    warm = timed(lambda: parts.step(batch), _WARM_UP)
    times = min(_MOST, max(_FEWEST, int(seconds / 3 / max(agreed(warm[-1]), 1e-9))))
    computing = Timed.of(timed(lambda: parts.step(batch), times))
    timed(parts.fetch, ahead)
    reading = Timed.of(timed(parts.fetch, times))

    def timed_whole(parts: Parts[Batch]) -> Timed:
        timed(lambda: parts.step(parts.fetch()), _WARM_UP)
        return Timed.of(timed(lambda: parts.step(parts.fetch()), times))

    whole = timed_whole(parts)
    others = [(timed_whole(each), share) for each, share in smaller]
    tested_at_once = parts.test()
    tested = Timed.of(timed(parts.test, _FEWEST))
    checkpoint_bytes = sum(tensor.numel() * tensor.element_size() for tensor in parts.held().values())
    wanted = plan.recipe.run
    model_bytes = 4 * plan.params
    epochs = wanted.keep + 1 if wanted.keep > 1 else 0  # their weights; one is written beside those kept
    models = 2 if wanted.result == "best" else 1  # the best so far stands beside the result
    answers_bytes = 4 * plan.num_tested * plan.num_classes
    return Estimate(
        plan=plan,
        whole=whole,
        mean_step=Timed.mean([(whole, 1 - sum(share for _, share in smaller)), *others]),
        reading=reading,
        computing=computing,
        test_seconds=tested.seconds * plan.num_tested / tested_at_once,
        memory_bytes=peak_bytes(device),
        device_bytes=torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None,
        checkpoint_bytes=checkpoint_bytes,
        disk_bytes=2 * checkpoint_bytes + (epochs + models) * model_bytes + answers_bytes,  # the next beside the last
        free_bytes=shutil.disk_usage(_existing(folder)).free,
    )


def steps_timed(step: Callable[[], object], times: int, device: torch.device) -> Timed:
    """So many steps, after a few that are not timed."""
    _timed(step, _WARM_UP, device, perf_counter)
    return Timed.of(_timed(step, times, device, perf_counter))


def _timed(act: Callable[[], object], times: int, device: torch.device, clock: Callable[[], float]) -> list[float]:
    durations = []
    for _ in range(times):
        started = clock()
        act()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        durations.append(clock() - started)
    return durations


def peak_bytes(device: torch.device) -> int | None:
    """The most memory that this process has had: of a GPU what tensors took, of the processor what was resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":  # whose getrusage begins with the peak of the process that started this one
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes here
    return None


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
