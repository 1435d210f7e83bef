"""What a run is about to do, counted before its first step: its epochs, their steps, and the batches of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from anabranch.errors import RecipeError
from anabranch.nets.count import count
from anabranch.train.data import Crops, Share, batches, order
from anabranch.train.optimise import scaled_lr
from anabranch.train.sets import Sets, doubts
from anabranch.train.tables import Recipe
from anabranch.train.team import Team, device_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run is about to do, counted before its first step."""

    recipe: Recipe
    params: int
    macs: int  # for one picture of input.crop_px
    class_names: tuple[str, ...]
    num_pictures: int  # to learn from
    num_tested: int  # after each epoch, by all processes together
    processes: int
    device: str  # in words
    lr: float  # at its highest, scaled to the batch
    steps_per_epoch: int
    step: int = 0  # steps done in earlier sittings
    doubts: tuple[str, ...] = ()  # about the pictures, a line each

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def left_out(self) -> int:
        """Pictures of each epoch's order that fill no whole batch, unless the recipe itself asks for fewer steps."""
        wanted = self.recipe.steps
        return 0 if wanted.steps_per_epoch else self.num_pictures - self.steps_per_epoch * wanted.batch

    @property
    def steps(self) -> int:
        return self.recipe.steps.epochs * self.steps_per_epoch

    @property
    def pictures_per_process(self) -> int:
        """In each part of a batch."""
        return self.recipe.steps.batch // (self.processes * self.recipe.steps.accumulate)


def plan_of(recipe: Recipe, sets: Sets, team: Team, *, step: int = 0) -> Plan:
    """`step`: how many are done. Raises RecipeError where the recipe's batch or steps do not fit the pictures."""
    side = recipe.input.crop_px
    counted = count(recipe.spec(), height=side, width=side, num_classes=len(sets.class_names))
    return Plan(
        recipe=recipe,
        params=counted.params,
        macs=counted.macs,
        class_names=sets.class_names,
        num_pictures=len(sets.shown),
        num_tested=min(len(sets.tested), recipe.run.test_pictures or len(sets.tested)),
        processes=team.processes,
        device=device_name(team.device),
        lr=scaled_lr(recipe.steps),
        steps_per_epoch=_steps_per_epoch(recipe, len(sets.shown), team.processes),
        step=step,
        doubts=(*doubts(sets), *_unfit(recipe)),
    )


def _unfit(recipe: Recipe) -> Iterator[str]:
    """Where the test is none; and what of the schedule lies behind the end of a run, unless steps_per_epoch cuts it."""
    wanted = recipe.steps
    if recipe.data.train == recipe.data.test:
        yield "what is learnt from is tested on, and the score says nothing of other pictures; name others in data.test"
    if wanted.steps_per_epoch:
        return
    if wanted.warmup_epochs >= wanted.epochs:
        yield f"the warm-up takes {wanted.warmup_epochs:g} epochs of {wanted.epochs}; the rate stays below its height"
    if wanted.step_epochs and wanted.step_epochs[0] >= wanted.epochs:
        yield f"the rate would first fall after {wanted.step_epochs[0]} epochs of {wanted.epochs}; it never does"


def _steps_per_epoch(recipe: Recipe, pictures: int, processes: int) -> int:
    wanted, parts = recipe.steps, processes * recipe.steps.accumulate
    if wanted.batch % parts or wanted.batch > pictures:
        fits = min(wanted.batch, pictures) // parts * parts
        of_parts = f", and a multiple of {processes} processes x {wanted.accumulate} parts" if parts > 1 else ""
        raise RecipeError(
            f"optimise.batch = {wanted.batch} does not fit: it must be at most the {pictures} training pictures"
            f"{of_parts}; " + (f"try --set optimise.batch={fits}" if fits else "add pictures")
        )
    steps = wanted.steps_per_epoch or pictures // wanted.batch
    if steps * wanted.epochs < wanted.ema_steps:
        raise RecipeError(
            f"optimise.ema_steps = {wanted.ema_steps} does not fit: the whole run has {steps * wanted.epochs} steps, "
            "and its result, the running mean, would never move from where it began; lower it, or train longer"
        )
    if steps * wanted.batch > pictures:
        raise RecipeError(
            f"optimise.steps_per_epoch = {steps} does not fit: {steps} batches of {wanted.batch} are more than "
            f"the {pictures} training pictures; try --set optimise.steps_per_epoch={pictures // wanted.batch}"
        )
    return steps


def shares(recipe: Recipe, crops: Crops, team: Team, *, epoch: int, steps: int, first: int = 0) -> Iterator[Share]:
    """This process's share of each of the epoch's batches, from batch `first` on."""
    crops.epoch = epoch
    data, batch = recipe.data, recipe.steps.batch
    drawn = order(recipe.run.seed, epoch, crops.data, balanced=data.balanced, repeats=data.repeats)
    return batches(
        crops,
        drawn[: steps * batch],
        batch,
        first=first,
        rank=team.rank,
        processes=team.processes,
        workers=recipe.run.workers,
        tolerate=data.unreadable > 0,
    )
