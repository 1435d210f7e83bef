"""The optimiser, its rate over time, clipped gradients, and means of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anabranch.errors import need
from anabranch.nets.net import Net
from anabranch.train.tables import Optimise

# ---- The optimiser -------------------------------------------------------------------------------------------------


def optimiser(groups: Sequence[Mapping[str, Any]], recipe: Optimise) -> torch.optim.Optimizer:
    """The recipe's optimiser of `start.groups`, whose rate is to be set before every step. Raises MissingExtra.

    "rmsprop" is torch's, its epsilon outside the square root: 0.0316 there is next to the 0.001 inside it of
    TensorFlow's and of timm's RMSpropTF, and is what torchvision trains with. Unlike theirs, its mean of squares begins
    at zero.
    """
    given = [dict(group) for group in groups]
    match recipe.optimiser:
        case "sgd":
            nesterov = recipe.nesterov and recipe.momentum > 0
            return torch.optim.SGD(given, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov)
        case "adamw":
            return torch.optim.AdamW(given, lr=recipe.lr)
        case "rmsprop":
            return torch.optim.RMSprop(given, lr=recipe.lr, alpha=0.9, eps=0.0316, momentum=recipe.momentum)
        case "lamb":
            return _lamb(given, recipe)


def _lamb(groups: list[dict[str, Any]], recipe: Optimise) -> torch.optim.Optimizer:
    """As NVIDIA's FusedLAMB and timm's Lamb, with which Wightman et al. 2021 trained, but for the bias correction.

    Decay is part of what the trust ratio scales, gradients are first scaled to a norm of at most 1 over all
    parameters, and those without decay move as Adam moves them. Without the correction these go several times as far in
    the first steps, which a warm-up covers. Source: You et al. 2020, algorithm 2.
    """
    given = [{**group, "adam": group["weight_decay"] == 0} for group in groups]
    lamb: torch.optim.Optimizer = need("pytorch_optimizer", extra="train").Lamb(
        given,
        lr=recipe.lr,
        weight_decouple=False,
        pre_norm=True,
        max_grad_norm=1.0,
        adam_debias=True,  # otherwise the correction would multiply the scaled step, tenfold in the first one
    )
    lamb.clamp = math.inf  # type: ignore[attr-defined]  # of the weights' norm, which is above its 10 in wide layers
    return lamb


# ---- Its rate ------------------------------------------------------------------------------------------------------


def scaled_lr(recipe: Optimise) -> float:
    """The recipe's rate for the recipe's batch, in proportion to the one it is meant for. Source: Goyal et al. 2017."""
    return recipe.lr if recipe.lr_batch is None else recipe.lr * recipe.batch / recipe.lr_batch


def rate(recipe: Optimise, step: int, steps_per_epoch: int) -> float:
    """Learning rate of step 0, 1, ..., scaled to the batch: linear warm-up, then half a cosine or a staircase.

    Epochs are counted from the first step on, those of the warm-up too. Source: Loshchilov & Hutter 2017, eq. 5.
    """
    lr = scaled_lr(recipe)
    warmup = recipe.warmup_epochs * steps_per_epoch
    if step < warmup:
        return lr * (recipe.warmup_from + (1 - recipe.warmup_from) * min(1.0, (step + 1) / warmup))
    if recipe.schedule == "step":
        falls = sum(step >= epoch * steps_per_epoch for epoch in recipe.step_epochs)
        return lr * recipe.step_factor**falls
    done = (step - warmup) / max(1.0, recipe.epochs * steps_per_epoch - warmup)
    return recipe.final_lr + (lr - recipe.final_lr) * 0.5 * (1 + math.cos(math.pi * done))


# ---- Clipped gradients ---------------------------------------------------------------------------------------------


def clip(net: Net, recipe: Optimise) -> None:
    """Shorten in place the gradients that the recipe finds too long: adaptively first, then over the whole net.

    They must be the whole batch's, without a scaler's factor. Adaptive clipping leaves the classifier alone: Brock et
    al. 2021, section 4.1.
    """
    if recipe.clip_adaptive:
        body = (parameter for name, parameter in net.named_parameters() if not name.startswith("head."))
        _clip_units(body, recipe.clip_adaptive)
    if recipe.clip_norm:
        nn.utils.clip_grad_norm_(net.parameters(), recipe.clip_norm)


@torch.no_grad()
def _clip_units(parameters: Iterable[nn.Parameter], longest: float) -> None:
    """Each unit's gradient to at most `longest` times its weights' norm. Source: Brock et al. 2021, eq. 3.

    A unit is what makes one output channel; a vector of gains or biases is one by itself, as in the authors' code.
    """
    for parameter in parameters:
        if parameter.grad is not None:
            most = longest * _unit_norms(parameter).clamp(min=1e-3)  # so that weights of zero can learn
            parameter.grad.mul_((most / _unit_norms(parameter.grad)).clamp(max=1))


def _unit_norms(x: Tensor) -> Tensor:
    """(units, ...) -> (units, 1, ...); of a vector: ()."""
    within = tuple(range(1, x.ndim)) or None
    norms: Tensor = torch.linalg.vector_norm(x, dim=within, keepdim=within is not None)
    return norms


# ---- Means of the weights ------------------------------------------------------------------------------------------


class Ema:
    """A running mean of the weights and of the norms' statistics, warmed up so that the first steps count for little.

    Every `steps` optimiser steps, in update t (1, 2, ...), the mean moves by 1 - min(decay, (1 + t) / (10 + t)) towards
    the net. The decay is that of one update, whatever `steps` is; torchvision's script is given another number `d`, of
    which it makes a decay of 1 - (1 - d) * batch * steps / epochs. A decay of 0 is the net itself, after every step.
    """

    def __init__(self, net: nn.Module, decay: float, steps: int = 1):
        self.decay = decay
        self.steps = steps if decay else 1
        self.state = {name: value.detach().clone() for name, value in net.state_dict().items()}

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        """To be called after every optimiser step 1, 2, ..."""
        updates, left = divmod(step, self.steps)
        if left:
            return
        keep = min(self.decay, (1 + updates) / (10 + updates))
        now = net.state_dict()
        moving = [name for name, value in now.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.state[name] for name in moving], [now[name] for name in moving], 1 - keep)
        for name in now.keys() - set(moving):
            self.state[name].copy_(now[name])


def averaged(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The plain mean of the same net's tensors at several times, each summed in float64; counts are the last one's.

    Source: Izmailov et al. 2018, "stochastic weight averaging". Unlike there, the norms' statistics are averaged too,
    and not computed anew by a pass over the training pictures.
    """
    *_, last = states
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value.clone()
        for name, value in last.items()
    }
