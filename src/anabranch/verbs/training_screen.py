"""What a person sees of a training run: what it will do, how it goes, and what came of it. 80 columns are enough."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from time import monotonic
from typing import TYPE_CHECKING, Any

from anabranch.errors import Error, shown
from anabranch.evaluate import MultiLabelScore, Score
from anabranch.report.training import PictureOf, page
from anabranch.screen import counted
from anabranch.verbs.evaluate import score_lines

if TYPE_CHECKING:  # it stands in torch's wing
    from anabranch.train.estimate import Estimate, Timed
    from anabranch.train.plan import Plan
    from anabranch.train.probe import ProbeEstimate

_MUCH_WAITING = 0.1  # of the time
_MUCH_LEFT_OUT = 0.1  # of the pictures
_SOON = 20  # steps after which the share of waiting can be judged
_LINE_SECONDS = 60.0  # between two lines within an epoch


class Lines:
    """A line for each epoch, and one a minute within it, for a log."""

    def __init__(self, *, say: Callable[[str], object] = print, clock: Callable[[], float] = monotonic):
        self.say, self.clock = say, clock
        self.hint = Hint()
        self.first: tuple[int, float] | None = None  # step that was told first, and when
        self.said = 0.0

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *failure: object) -> None:
        pass

    def __call__(self, told: Mapping[str, Any]) -> None:
        for line in self._lines(told):
            self.say(line)

    def _lines(self, told: Mapping[str, Any]) -> list[str]:
        if "plan" in told:
            self.hint.workers = told["plan"].recipe.run.workers
            return summary(told["plan"])
        if "step" not in told:
            return [epoch_line(told)]
        now = self.clock()
        if self.first is None:
            self.first, self.said = (told["step"], now), now
        lines = self.hint(told)
        if now - self.said >= _LINE_SECONDS:
            self.said = now
            step, began = self.first
            left = (told["steps"] - told["step"]) * (now - began) / (told["step"] - step)
            lines.append(step_line(told, left))
        return lines


class Bar:
    """A bar over all steps with the time left on standard error; what `Lines` says of an epoch stands above it.

    Beside the loss stands the learning rate, and from the first test on what the last one's score was.
    """

    def __enter__(self) -> Bar:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        self.hint = Hint()
        self.bar = Progress(
            TextColumn("loss {task.fields[loss]:.3f}  {task.fields[beside]}"),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),  # it has the room that the words leave
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]:.0f} pictures/s"),
            TextColumn("{task.fields[waiting]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            expand=True,
            speed_estimate_period=600,  # a step may take a minute
        )
        self.task = self.bar.add_task("", total=None, visible=False, loss=0.0, beside="", pace=0.0, waiting="")
        self.score: str | None = None
        self.bar.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.bar.stop()

    def __call__(self, told: Mapping[str, Any]) -> None:
        if "plan" in told:
            self.hint.workers = told["plan"].recipe.run.workers
            self._say(summary(told["plan"]))
            if told["tested"]:
                self.score = _scores(told["tested"])[0]
        elif "step" not in told:
            self._say([epoch_line(told)])
            self.score = _scores(told)[0]
        else:
            self._say(self.hint(told))
            loud = "[bold red]" if told["waiting"] > _MUCH_WAITING else ""
            self.bar.update(
                self.task,
                completed=told["step"],
                total=told["steps"],
                visible=True,
                loss=told["loss"],
                beside=self.score or f"lr {told['lr']:.2g}",
                pace=told["pictures_per_s"],
                waiting=f"{loud}waiting {_percent(told['waiting'])}",
            )

    def _say(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.bar.console.print(line, highlight=False, markup=False, soft_wrap=True)


class Hint:
    """Says once in a sitting what to do where a tenth of the time and more goes into waiting for pictures."""

    def __init__(self) -> None:
        self.workers = 0
        self.steps = 0
        self.given = False

    def __call__(self, told: Mapping[str, Any]) -> list[str]:
        self.steps += 1
        if self.given or self.steps < _SOON or told["waiting"] <= _MUCH_WAITING:
            return []
        self.given = True
        return [
            f"warning: waits for pictures {_percent(told['waiting'])} of the time; "
            f"try --set run.workers={max(2, 2 * self.workers)}"
        ]


def summary(plan: Plan) -> list[str]:
    """What the run is about to do."""
    recipe, wanted = plan.recipe, plan.recipe.steps
    side = recipe.input.crop_px
    shares = [
        f"{plan.processes} processes" if plan.processes > 1 else "",
        f"{wanted.accumulate} parts" if wanted.accumulate > 1 else "",
    ]
    any_number = ", any number each" if recipe.data.multi_label else ""
    classes = f"{plan.num_classes:,} classes{any_number}: {', '.join(map(shown, plan.class_names[:20]))}"
    apart = " x ".join(share for share in shares if share)
    rate = f"{plan.lr:g}"
    if wanted.lr_batch is not None and wanted.lr_batch != wanted.batch:
        rate = f"{wanted.lr:g} for {wanted.lr_batch:,} pictures, {rate} for {wanted.batch:,}"
    return [
        f"{recipe.name}: {plan.params:,} parameters, {plan.macs:,} MACs at {side} x {side} px",
        f"  pictures  {plan.num_pictures:,} to learn from, {plan.num_tested:,} to be tested on",
        f"            {shorten(classes, 68, placeholder=' ...')}",
        f"  batch     {wanted.batch:,}" + (f" = {apart} x {plan.pictures_per_process:,}" if apart else ""),
        f"  rate      {rate}",
        f"  computes  in {recipe.run.precision} on {plan.device}",
        f"  steps     {plan.steps:,}: {counted(wanted.epochs, 'epoch')} of {plan.steps_per_epoch:,}",
        *([f"  goes on   after step {plan.step:,}"] if plan.step else []),
        *(f"warning: {each}" for each in plan.doubts),
        *_left_out(plan),
    ]


def _left_out(plan: Plan) -> list[str]:
    """A warning where many pictures of each epoch fill no whole batch."""
    if plan.left_out <= _MUCH_LEFT_OUT * plan.num_pictures:
        return []
    parts = plan.recipe.steps.batch // plan.pictures_per_process
    fits = plan.num_pictures // (plan.steps_per_epoch + 1) // parts * parts
    better = f"; try --set optimise.batch={fits}" if fits else ""
    return [f"warning: each epoch leaves out {plan.left_out:,} pictures, which fill no whole batch{better}"]


def step_line(told: Mapping[str, Any], left_seconds: float) -> str:
    return (
        f"step {told['step']}/{told['steps']}  loss {told['loss']:.3f}  {told['pictures_per_s']:.0f} pictures/s  "
        f"waiting {_percent(told['waiting'])}  {duration(left_seconds)} left"
    )


def epoch_line(line: Mapping[str, Any]) -> str:
    """A line of the history; a second one where pictures could not be read."""
    scores = (
        f"epoch {line['epoch']:3d}  loss {line['loss']:.4f}  test {line['test_loss']:.4f}  "
        f"{'  '.join(_scores(line))}  at {duration(line['seconds'])}"
    )
    if not line["unreadable"]:
        return scores
    return f"{scores}\n           left out {counted(line['unreadable'], 'picture')} that could not be read"


def _scores(line: Mapping[str, Any]) -> list[str]:
    told = {"top-1": "top1", "top-5": "top5", "mAP": "map", "F1": "f1"}
    return [f"{name} {line[key]:.2f} %" for name, key in told.items() if key in line]


def ending(
    result: Path, score: Score | MultiLabelScore, *, about: Sequence[str], expect: str | None, held_out: bool
) -> list[str]:
    """What came of the run, and what to type next: no test on a set of which the run held the tested part out."""
    first, second = score_lines(score)
    model = shlex.quote(str(result))
    kind = "pictures that were held out" if held_out else "test pictures"
    return [
        str(result),
        f"{first}, on {score.num_pictures:,} {kind}",
        second,
        *([f"  expected: {expect}"] if expect is not None else []),
        *about,
        "next:",
        *([] if held_out else [f"  anabranch evaluate DATA -m {model}"]),
        f"  anabranch export {model} -o DIR    makes an artefact of it",
    ]


def page_line(folder: Path, picture: PictureOf) -> str:
    """Make the run's page and say where it is. A page that cannot be made fails no run that is done: it says why."""
    try:
        return f"  {page(folder, picture)}   curves, classes and the worst pictures"
    except (Error, OSError) as error:
        return f"  no page of the run: {error}"


def estimate_lines(found: Estimate) -> list[str]:
    """What a run will take; each ± is twice a mean's standard error."""
    plan, times = found.plan, found.whole.times
    pace = plan.recipe.steps.batch / found.whole.seconds
    each = f" in each of {plan.processes} processes" if plan.processes > 1 else ""
    room = "which is enough" if found.has_room else "TOO LITTLE: choose another folder with --out"
    waits = "waits for pictures: more run.workers may help" if found.waits_for_pictures else "waits for the net"
    memory = (
        "not told by this system" if found.memory_bytes is None else f"{size(found.memory_bytes)} at its peak{each}"
    )
    of_device = f", of {size(found.device_bytes)}" if found.device_bytes is not None else ""
    distil = plan.recipe.distil
    beside = ", without the teacher's program" if distil and not isinstance(distil.teacher, str) else ""
    return [
        f"estimated from {times} steps of {plan.recipe.steps.batch:,} pictures; nothing was kept of them",
        f"  step      {_timed(found.whole)}, {pace:,.0f} pictures/s",
        *([f"            of the largest pictures; {_timed(found.mean_step)} over all epochs"] if found.grows else []),
        f"            reading alone {_timed(found.reading)}, computing alone {_timed(found.computing)}:",
        f"            the run {waits}",
        *_layout(found),
        f"  epoch     {duration(found.epoch_seconds)}, and {duration(found.test_seconds)} for its test",
        f"  run       {duration(found.run_seconds)} ± {duration(found.run_error)} to the end of "
        f"epoch {plan.recipe.steps.epochs:,}",
        f"  memory    {memory}{of_device}{beside}",
        f"  disk      {size(found.disk_bytes)} at most, {size(found.checkpoint_bytes)} a checkpoint; "
        f"{size(found.free_bytes)} are free,",
        f"            {room}",
    ]


def _layout(found: Estimate) -> list[str]:
    """Which of the two layouts of a batch the steps were faster in."""
    if found.other_layout is None:
        return []
    chosen = found.plan.recipe.run.channels_last
    told = f"  layout    {'channels_last' if chosen else 'contiguous'}; the other takes {_timed(found.other_layout)}"
    if not found.has_slower_layout:
        return [told]
    return [told, f"            and is faster: try --set run.channels_last={'false' if chosen else 'true'}"]


def estimate_json(found: Estimate) -> dict[str, Any]:
    """The same for machines: seconds, bytes."""
    timed = {"step": found.whole, "reading": found.reading, "computing": found.computing}
    return {
        **{f"{name}_seconds": each.seconds for name, each in timed.items()},
        **{f"{name}_error": each.error for name, each in timed.items()},
        "other_layout_seconds": found.other_layout.seconds if found.other_layout else None,
        "timed_steps": found.whole.times,
        "epoch_seconds": found.epoch_seconds,
        "test_seconds": found.test_seconds,
        "run_seconds": found.run_seconds,
        "run_error": found.run_error,
        "waits_for": "pictures" if found.waits_for_pictures else "the net",
        "memory_bytes": found.memory_bytes,
        "device_bytes": found.device_bytes,
        "checkpoint_bytes": found.checkpoint_bytes,
        "disk_bytes": found.disk_bytes,
        "free_bytes": found.free_bytes,
    }


def probe_lines(found: ProbeEstimate) -> list[str]:
    """What a probe will take; each ± is twice a mean's standard error."""
    of_training, of_test = (
        f"{number:,} pictures in {precision}, {_timed(each)} each"
        for number, precision, each in (
            (found.num_pictures, found.precision, found.shown),
            (found.num_tested, "f32", found.tested),
        )
    )
    return [
        "estimated from some pictures; what is kept is the exported backbone, in the cache",
        f"  training  {of_training}",
        f"  test      {of_test}",
        f"  probe     {duration(found.seconds)} ± {duration(found.error)}, and the fit of the head",
    ]


def probe_json(found: ProbeEstimate) -> dict[str, Any]:
    """The same for machines, in seconds."""
    return {
        "precision": found.precision,
        "picture_seconds": found.shown.seconds,
        "picture_error": found.shown.error,
        "tested_seconds": found.tested.seconds,
        "tested_error": found.tested.error,
        "run_seconds": found.seconds,
        "run_error": found.error,
    }


def duration(seconds: float) -> str:
    """In two units at most: 4.2 s, 45 s, 12 min, 2 h 34 min, 3 d 4 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours = round(seconds / 3600)
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 48 * 60 else f"{hours // 24} d {hours % 24} h"


def size(num_bytes: int) -> str:
    """In thousands of thousands: 23.4 MB, 1.20 GB."""
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def _timed(timed: Timed) -> str:
    error = f"{timed.error:.0f}" if timed.error >= 1 else f"{timed.error:.1g}"
    return f"{timed.seconds:.3g} ± {error} s"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
