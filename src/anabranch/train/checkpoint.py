"""All that a run needs to go on as if it had never stopped: weights, their mean, momenta, and where it stood."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anabranch.errors import CheckpointError, RecipeError
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


def save(
    path: Path, recipe: Recipe, processes: int, progress: Progress, net: Net, sgd: torch.optim.SGD, ema: Ema
) -> None:
    tensors: dict[str, Tensor] = {f"net/{name}": value for name, value in net.state_dict().items()}
    tensors |= {f"ema/{name}": value for name, value in ema.state.items()}
    for name, parameter in net.named_parameters():
        momentum = sgd.state[parameter].get("momentum_buffer")
        if momentum is not None:
            tensors[f"momentum/{name}"] = momentum
    about = {
        "kind": _KIND,
        "recipe": recipe.model_dump(mode="json"),
        "processes": processes,
        "progress": asdict(progress),
    }
    write_tensors(path, tensors, about)


def restore(path: Path, recipe: Recipe, processes: int, net: Net, sgd: torch.optim.SGD, ema: Ema) -> Progress:
    """Fill net, optimiser and mean from `path`. Raises CheckpointError, RecipeError where the recipe has changed."""
    tensors, about = read_tensors(path)
    if about.get("kind") != _KIND:
        raise CheckpointError(f"{path}: holds a {about.get('kind')}, not a training run; --resume wants a run's folder")
    now = recipe.model_dump(mode="json")
    told_only = ("expect", "licence", "smoke")  # these change no weight
    changed = [key for key in now if key not in told_only and now[key] != about["recipe"].get(key)]
    if changed:
        raise RecipeError(
            f"{path}: the run began with another recipe (changed: {', '.join(changed)}); "
            "go on with the one it began with, or start a new run in another folder"
        )
    if about["processes"] != processes:
        raise RecipeError(
            f"{path}: the run began on {about['processes']} processes and this is {processes}; "
            "each norm sees its process's share of a batch, so the run would not be the same: use as many as before"
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
