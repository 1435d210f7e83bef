"""The dry run: a few steps of a recipe are tried, and what the whole run will take is said. Nothing is written."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from anabranch.train.data import Crops, Share, sides
from anabranch.train.distil import Locate, a_path
from anabranch.train.estimate import Estimate, Parts, estimate, steps_timed
from anabranch.train.freed import memory_may_run_out
from anabranch.train.plan import Plan, plan_of, shares
from anabranch.train.score import answers, tested_net
from anabranch.train.sets import Sets, open_sets
from anabranch.train.student import Student
from anabranch.train.tables import Recipe
from anabranch.train.team import Team

_TESTED = 256  # pictures, of which a rehearsal tells how long a test takes


def rehearse(recipe: Recipe, folder: Path, *, locate: Locate = a_path) -> Estimate:
    """Try a few steps of the recipe and say what the whole run will take. Nothing is written. Raises as `train`.

    In one process, without a teacher and uncompiled, they are tried in the other layout too, if there is memory for
    it: which one is faster depends on the net, the device and torch.
    """
    with Team() as team, memory_may_run_out():
        sets = open_sets(recipe.data)
        found = _rehearsed(recipe, folder, sets, team, locate=locate)
        if recipe.distil or recipe.run.compile or team.processes > 1:
            return found
        gc.collect()  # the first student, whose memory the second one needs
        try:
            flipped = _with_run(recipe, channels_last=not recipe.run.channels_last)
            student = Student(flipped, sets.class_names, team, locate=locate)
            share = next(_first_epoch(found.plan, sets, team, max(sides(recipe))))
            other = steps_timed(lambda: student.step(share, 0, 0.0), found.computing.times, team.device)
        except torch.OutOfMemoryError:
            return found
        return replace(found, other_layout=other)


def _rehearsed(recipe: Recipe, folder: Path, sets: Sets, team: Team, *, locate: Locate) -> Estimate:
    student = Student(recipe, sets.class_names, team, locate=locate)
    plan = plan_of(recipe, sets, team)
    few = _with_run(recipe, test_pictures=_TESTED)
    tested = tested_net(student.net, student.learner.mean.state, team)

    def step(share: Share) -> int:
        student.step(share, 0, 0.0)
        return len(share.labels)

    def test() -> int:
        at_once = max(1, _TESTED // (2 * max(1, recipe.run.workers)))  # so that no worker stands idle
        return len(answers(tested, few, sets, team, at_once=at_once).indices)

    def parts(side_px: int) -> Parts[Share]:
        fetch = partial(next, _first_epoch(plan, sets, team, side_px))
        return Parts(fetch=fetch, step=step, test=test, held=student.learner.tensors)

    def agreed(seconds: float) -> float:
        return team.total(torch.tensor([seconds], dtype=torch.float64)).item() / team.processes

    epochs = sides(recipe)
    largest = max(epochs)
    smaller = [(parts(side), epochs[side] / epochs.total()) for side in epochs if side != largest]
    return estimate(plan, parts(largest), folder, team.device, smaller=smaller, agreed=agreed)


def _first_epoch(plan: Plan, sets: Sets, team: Team, side_px: int) -> Iterator[Share]:
    """This process's share of the batches of the first epoch, at that side, again and again."""
    recipe = plan.recipe
    crops = Crops(sets.shown, recipe.input.preprocess(), recipe.augment, seed=recipe.run.seed)
    crops.side_px = side_px
    while True:
        yield from shares(recipe, crops, team, epoch=0, steps=plan.steps_per_epoch)


def _with_run(recipe: Recipe, **run: Any) -> Recipe:
    return recipe.model_copy(update={"run": recipe.run.model_copy(update=run)})
