"""The optimiser, its rate over time, and the running mean of the weights."""

from __future__ import annotations

import math

import torch
from torch import nn

from anabranch.train.recipe import Optimise


def sgd(net: nn.Module, recipe: Optimise) -> torch.optim.SGD:
    """Weight decay on matrices and kernels only, unless the recipe asks for it on norms and biases too."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for parameter in net.parameters():
        (decayed if recipe.decay_norms or parameter.ndim > 1 else free).append(parameter)
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.SGD(
        groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov and recipe.momentum > 0
    )


def rate(recipe: Optimise, step: int, steps_per_epoch: int) -> float:
    """Learning rate of step 0, 1, ...: linear warm-up, then a cosine to zero (Loshchilov & Hutter 2017, eq. 5)."""
    warmup = recipe.warmup_epochs * steps_per_epoch
    if step < warmup:
        return recipe.lr * min(1.0, (step + 1) / warmup)
    done = (step - warmup) / max(1.0, recipe.epochs * steps_per_epoch - warmup)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * done))


class Ema:
    """A running mean of the weights and of the norms' statistics, warmed up so that the first steps count for little.

    After step t (1, 2, ...) the mean moves by 1 - min(decay, (1 + t) / (10 + t)) towards the net.
    """

    def __init__(self, net: nn.Module, decay: float):
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in net.state_dict().items()}

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        keep = min(self.decay, (1 + step) / (10 + step))
        now = net.state_dict()
        moving = [name for name, value in now.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.state[name] for name in moving], [now[name] for name in moving], 1 - keep)
        for name in now.keys() - set(moving):
            self.state[name].copy_(now[name])
