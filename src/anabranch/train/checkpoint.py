"""All that a run needs to go on as if it had never stopped: weights, their mean, the optimiser, and where it stood."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from anabranch.errors import CheckpointError, RecipeError
from anabranch.errors import shown as plain
from anabranch.images.labelled import Labelled, LabelledFiles
from anabranch.images.shards import LabelledShards
from anabranch.nets.load import MEAN, RUN, About, about_to_json
from anabranch.nets.store import read_tensors, write_tensors
from anabranch.train.optimise import Ema
from anabranch.train.sets import Sets, truth
from anabranch.train.tables import Recipe
from anabranch.train.team import Team

_TEACHER = "distil.teacher, as a hash,"


@dataclass(kw_only=True)
class Progress:
    """Where a run stands. Random numbers need no place here: each step seeds its own from the recipe's seed."""

    step: int = 0  # optimiser steps done
    loss_sum: float = 0.0  # over the pictures of this epoch so far, all processes
    seen: int = 0
    seconds: float = 0.0  # spent training, over all sittings
    stepping: float = 0.0  # seconds spent on this epoch's steps so far
    waiting: float = 0.0  # seconds of these in which the leading process waited for pictures
    unreadable: list[str] = field(default_factory=list)  # a line for each picture left out, without its set's folder
    best: dict[str, Any] | None = None  # the best epoch's line of the history
    history: list[dict[str, Any]] = field(default_factory=list)  # one line per epoch done


@dataclass(frozen=True, slots=True)
class Fixed:
    """What must be the same in every sitting of a run, or its weights would not be."""

    recipe: Recipe
    processes: int  # each norm sees its process's share of a batch
    sets: Sets
    teacher: str | None = None  # its hash, where the recipe has one

    def as_json(self) -> dict[str, Any]:
        """By the words of a message: what is compared."""
        recipe, run = self.recipe.model_dump(mode="json"), self.recipe.run
        for free in ("expect", "licence", "smoke"):
            del recipe[free]
        for free in ("checkpoint_steps", "workers", "tensorboard"):
            del recipe["run"][free]
        if run.result != "average":
            del recipe["run"]["keep"]
        if run.result != "best" and self.recipe.steps.patience is None:
            del recipe["run"]["test_pictures"]
        del recipe["data"]["unreadable"]  # it says when to stop, and changes no weight
        del recipe["data"]["class_names"]  # the classes are compared as they are
        for part in ("train", "test"):
            if recipe["data"][part]:
                del recipe["data"][part]["path"], recipe["data"][part]["labels"]  # a set may be moved
        if self.recipe.distil:
            del recipe["distil"]["teacher"]  # and so may a teacher, which is known by its hash
        keys = {f"{table}.{key}": value for table in recipe for key, value in _items(recipe[table])}
        shown, tested, class_names = self.sets
        return {
            **keys,
            **({_TEACHER: self.teacher[:12]} if self.teacher else {}),
            "processes": self.processes,
            "training and test pictures": [len(shown), len(tested)],
            "their names and classes, as a hash,": [_hash(shown), _hash(tested)],
            "classes": list(class_names),
        }


def _hash(data: Labelled) -> str:
    """Of which pictures these are, by their names, and of what they show. A set that was moved has the same one."""
    total = hashlib.sha256(np.ascontiguousarray(truth(data)).tobytes())
    if isinstance(data, LabelledFiles | LabelledShards):  # the names of others are the numbers of their places
        total.update("\0".join(data.names).encode(errors="surrogateescape"))
    return total.hexdigest()[:12]


def _items(table: Any) -> list[tuple[str, Any]]:
    return list(table.items()) if isinstance(table, dict) else [("", table)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """All that a step changes."""

    net: nn.Module
    optimiser: torch.optim.Optimizer
    mean: Ema
    scaler: torch.amp.GradScaler

    def tensors(self) -> dict[str, Tensor]:
        """By the names of a checkpoint."""
        kept = {f"net/{name}": value for name, value in self.net.state_dict().items()}
        kept |= {f"{MEAN}{name}": value for name, value in self.mean.state.items()}
        return kept | {
            f"optimiser/{key}/{name}": value
            for name, state in self._states()
            for key, value in state.items()
            if isinstance(value, Tensor)
        }

    def numbers(self) -> dict[str, Any]:
        """What is no tensor: the optimiser's own counts, and the scaler's."""
        states = {
            name: {key: value for key, value in state.items() if isinstance(value, bool | int | float)}
            for name, state in self._states()
        }
        groups = [
            {key: value for key, value in group.items() if isinstance(value, bool | int | float)}
            for group in self.optimiser.param_groups
        ]
        return {
            "states": {name: state for name, state in states.items() if state},
            "groups": groups,
            "scaler": self.scaler.state_dict(),
        }

    def take(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Become what these were taken from."""
        self.net.load_state_dict(_under("net/", tensors))
        for name, mean in self.mean.state.items():
            mean.copy_(tensors[f"{MEAN}{name}"])
        parameters = dict(self.net.named_parameters())
        for key, value in _under("optimiser/", tensors).items():
            kind, _, name = key.partition("/")
            parameter = parameters[name]
            if value.shape == parameter.shape:  # as the optimiser itself lays it out: like the parameter
                self.optimiser.state[parameter][kind] = torch.empty_like(parameter).copy_(value).detach()
            else:
                self.optimiser.state[parameter][kind] = value
        for name, state in numbers["states"].items():
            self.optimiser.state[parameters[name]].update(state)
        for group, kept in zip(self.optimiser.param_groups, numbers["groups"], strict=True):
            group.update(kept)
        if numbers["scaler"]:
            self.scaler.load_state_dict(numbers["scaler"])

    def _states(self) -> Iterator[tuple[str, dict[str, Any]]]:
        return (
            (name, self.optimiser.state[parameter])
            for name, parameter in self.net.named_parameters()
            if parameter in self.optimiser.state
        )


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def about_of_run(recipe: Recipe, sets: Sets) -> About:
    """What the net that the recipe trains knows of itself."""
    return About(
        name=recipe.name,
        licence=recipe.licence,
        class_names=sets.class_names,
        multi_label=recipe.data.multi_label,
        preprocess=recipe.input.preprocess(),
    )


def save(path: Path, fixed: Fixed, progress: Progress, learner: Learner) -> None:
    recipe = fixed.recipe
    about = replace(about_of_run(recipe, fixed.sets), name=f"{recipe.name}-step-{progress.step}")
    told = {"fixed": fixed.as_json(), "progress": asdict(progress), "numbers": learner.numbers()}
    write_tensors(path, learner.tensors(), {"kind": RUN, "net": about_to_json(about, recipe.spec()), **told})


def want_whole(learner: Learner, recipe: Recipe, step: int, path: Path, team: Team) -> None:
    """Raises RecipeError, in every process, where the learner of any holds what is no number."""
    spoilt = _spoilt(learner.tensors())
    if team.total(torch.tensor([spoilt is not None], dtype=torch.float64)).item() > 0:
        where = f"in {spoilt} there" if spoilt else "in another process there"
        raise diverged(f"{where} are values that are", recipe, step, path)


def _spoilt(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of one of them that holds what is no number; a device is waited for once."""
    bounds: dict[torch.device, list[tuple[str, Tensor]]] = {}
    for name, value in tensors.items():
        if value.is_floating_point() and value.numel():
            bounds.setdefault(value.device, []).append((name, torch.stack(torch.aminmax(value.detach())).float()))
    for held in bounds.values():
        fine = torch.stack([each for _, each in held]).isfinite().all(1).tolist()
        if not all(fine):
            return held[fine.index(False)][0]
    return None


def diverged(what: str, recipe: Recipe, step: int, kept: Path | None) -> RecipeError:
    """The error of a run that cannot go on, whose last good checkpoint is `kept`, if there is one."""
    wanted, again = recipe.steps, ""
    if kept is not None and kept.exists() and step > wanted.ema_steps:  # until then its mean has learnt nothing
        head = " --set start.head=keep" if recipe.start and recipe.start.head == "drop" else ""
        again = f"; its weights so far may be begun from: --set start.weights={kept}{head}"
    return RecipeError(
        f"step {step}: {what} no longer a number; lower optimise.lr = {wanted.lr}, or warm up longer, in another "
        f"folder: --out{again}"
    )


class Saved(NamedTuple):
    """What a checkpoint holds: its tensors, which lie in the file, and what else `save` was given."""

    path: Path
    tensors: Mapping[str, Tensor]
    fixed: Mapping[str, Any]
    progress: Progress
    numbers: Mapping[str, Any]


def read(path: Path, fixed: Fixed) -> Saved:
    """The checkpoint of a run that goes on. A teacher that `fixed` does not know yet is left to `restore`.

    Raises CheckpointError, and RecipeError where what is fixed has changed.
    """
    tensors, about = read_tensors(path)
    if about.get("kind") != RUN:
        raise CheckpointError(
            f"{path}: holds a {plain(about.get('kind'))}, not a training run; --resume wants a run's folder"
        )
    saved = Saved(path, tensors, about["fixed"], Progress(**about["progress"]), about["numbers"])
    _want_same(saved, fixed, but=() if fixed.teacher else (_TEACHER,))
    return saved


def restore(saved: Saved, fixed: Fixed, learner: Learner) -> None:
    """Make the learner what it was. Raises RecipeError where what is fixed has changed."""
    _want_same(saved, fixed)
    learner.take(saved.tensors, saved.numbers)


def _want_same(saved: Saved, fixed: Fixed, *, but: Collection[str] = ()) -> None:
    now, then = fixed.as_json(), saved.fixed
    changed = [
        f"{key.rstrip('.')} was {then.get(key)!r}, is {now.get(key)!r}"
        for key in dict.fromkeys([*then, *now])
        if now.get(key) != then.get(key) and key not in but
    ]
    if changed:
        raise RecipeError(
            f"{saved.path}: this would not be the same run: {'; '.join(changed)}. "
            "Go on as it began, or start a new run in another folder"
        )
