"""All that a run needs to go on as if it had never stopped: weights, their mean, momenta, and where it stood."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anabranch.errors import CheckpointError, RecipeError, shown
from anabranch.nets.net import Net
from anabranch.nets.store import read_tensors, write_tensors
from anabranch.train.optimise import Ema
from anabranch.train.recipe import Recipe

_KIND = "training run"


@dataclass(kw_only=True)
class Progress:
    """Where a run stands. Random numbers need no place here: each step seeds its own from the recipe's seed."""

    step: int = 0  # optimiser steps done
    loss_sum: float = 0.0  # over the pictures of this epoch so far, all processes
    seen: int = 0
    seconds: float = 0.0  # spent training, over all sittings
    history: list[dict[str, Any]] = field(default_factory=list)  # one line per epoch done


@dataclass(frozen=True, slots=True)
class Fixed:
    """What must be the same in every sitting of a run, or its weights would not be."""

    recipe: Recipe
    processes: int  # each norm sees its process's share of a batch
    class_names: tuple[str, ...]
    pictures: tuple[int, int]  # to learn from, to be tested on

    def as_json(self) -> dict[str, Any]:
        """By the words of a message: what is compared."""
        recipe = self.recipe.model_dump(mode="json")
        for free in ("expect", "licence", "smoke"):
            del recipe[free]
        for free in ("checkpoint_steps", "workers", "test_pictures"):
            del recipe["run"][free]
        for part in ("train", "test"):
            del recipe["data"][part]["path"]  # a set may be moved
        keys = {f"{table}.{key}": value for table in recipe for key, value in _items(recipe[table])}
        numbers = {"processes": self.processes, "training and test pictures": list(self.pictures)}
        return {**keys, **numbers, "classes": list(self.class_names)}


def _items(table: Any) -> list[tuple[str, Any]]:
    return list(table.items()) if isinstance(table, dict) else [("", table)]


def save(path: Path, fixed: Fixed, progress: Progress, net: Net, sgd: torch.optim.SGD, ema: Ema) -> None:
    tensors: dict[str, Tensor] = {f"net/{name}": value for name, value in net.state_dict().items()}
    tensors |= {f"ema/{name}": value for name, value in ema.state.items()}
    for name, parameter in net.named_parameters():
        momentum = sgd.state[parameter].get("momentum_buffer")
        if momentum is not None:
            tensors[f"momentum/{name}"] = momentum
    write_tensors(path, tensors, {"kind": _KIND, "fixed": fixed.as_json(), "progress": asdict(progress)})


def restore(path: Path, fixed: Fixed, net: Net, sgd: torch.optim.SGD, ema: Ema) -> Progress:
    """Fill net, optimiser and mean from `path`. Raises CheckpointError, RecipeError where what is fixed has changed."""
    tensors, about = read_tensors(path)
    if about.get("kind") != _KIND:
        raise CheckpointError(
            f"{path}: holds a {shown(about.get('kind'))}, not a training run; --resume wants a run's folder"
        )
    now, then = fixed.as_json(), about["fixed"]
    changed = [
        f"{key.rstrip('.')} was {then.get(key)!r}, is {now.get(key)!r}"
        for key in dict.fromkeys([*then, *now])
        if now.get(key) != then.get(key)
    ]
    if changed:
        raise RecipeError(
            f"{path}: this would not be the same run: {'; '.join(changed)}. "
            "Go on as it began, or start a new run in another folder"
        )
    net.load_state_dict(
        {name.removeprefix("net/"): value for name, value in tensors.items() if name.startswith("net/")}
    )
    for name, mean in ema.state.items():
        mean.copy_(tensors[f"ema/{name}"])
    for name, parameter in net.named_parameters():
        if f"momentum/{name}" in tensors:
            # as the optimiser itself lays it out: like the parameter
            sgd.state[parameter]["momentum_buffer"] = (
                torch.empty_like(parameter).copy_(tensors[f"momentum/{name}"]).detach()
            )
    return Progress(**about["progress"])
