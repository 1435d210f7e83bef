"""`anabranch train`: a recipe run, its progress on the screen."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from anabranch.errors import need
from anabranch.screen import print_json


def run(recipe_file: str, *, out: str | None, overrides: Sequence[str], smoke: bool, resume: bool, json: bool) -> int:
    need("torch", extra="train")
    need("kornia", extra="train")
    from anabranch.train.loop import train
    from anabranch.train.recipe import read_recipe

    recipe = read_recipe(Path(recipe_file), overrides=overrides, smoke=smoke)
    folder = Path(out) if out else Path("runs") / recipe.name
    leads = int(os.environ.get("RANK", 0)) == 0
    watched = leads and not json and sys.stderr.isatty()
    screen = _Bar() if watched else nullcontext(_Lines(quiet=json or not leads))
    with screen as report:
        result = train(recipe, folder, resume=resume, report=report)
    if leads and json:
        print_json({"checkpoint": str(result), "history": str(folder / "history.jsonl")})
    elif leads:
        print(f"{result}\n  anabranch export {result} -o DIR    makes an artefact of it\n  expected: {recipe.expect}")
    return 0


class _Lines:
    """A line an epoch, for a log."""

    def __init__(self, *, quiet: bool):
        self.quiet = quiet

    def __call__(self, told: Mapping[str, Any]) -> None:
        if "epoch" in told and not self.quiet:
            print(_epoch(told), flush=True)


class _Bar:
    """A bar over all steps with the time left, and a line above it for each epoch done."""

    def __enter__(self) -> _Bar:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.bar = Progress(
            TextColumn("loss {task.fields[loss]:.3f}  lr {task.fields[lr]:.4f}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]:.0f} pictures/s"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self.task = self.bar.add_task("", total=None, loss=float("nan"), lr=0.0, pace=0.0)
        self.bar.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.bar.stop()

    def __call__(self, told: Mapping[str, Any]) -> None:
        if "epoch" in told:
            self.bar.console.print(_epoch(told), highlight=False)
        else:
            self.bar.update(
                self.task,
                completed=told["step"],
                total=told["steps"],
                loss=told["loss"],
                lr=told["lr"],
                pace=told["pictures_per_s"],
            )


def _epoch(line: Mapping[str, Any]) -> str:
    return (
        f"epoch {line['epoch']:3d}   loss {line['loss']:.4f}   top-1 {line['top1']:.2f} % "
        f"of {line['pictures']:.0f} test pictures   {line['seconds'] / 60:.1f} min"
    )
