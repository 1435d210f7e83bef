"""The head that is fitted to features: multinomial logistic regression."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from anabranch.errors import DatasetError, RecipeError

_HELD_OUT = 5  # one picture of so many
_TOLERANCE = 1e-4  # of the gradient's largest entry, as in scikit-learn's LogisticRegression
_TOLERANCE_TO_CHOOSE = 1e-3  # which of several decays is best is seen long before


@dataclass(frozen=True, slots=True)
class Tried:
    weight_decay: float
    top1: float  # percent of the held-out pictures
    loss: float  # mean cross-entropy on them
    num_pictures: int


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    weight: NDArray[np.float32]  # (K, C), for features as they are
    bias: NDArray[np.float32]  # (K,)
    weight_decay: float
    tried: tuple[Tried, ...]  # strongest first; empty where there was but one


def fit_head(
    values: NDArray[np.float32],
    labels: NDArray[np.int64],
    num_classes: int,
    *,
    weight_decay: Sequence[float],
    seed: int = 0,
) -> Head:
    """Multinomial logistic regression of labels (n,) on features (n, C).

    It minimises mean cross-entropy + weight_decay / 2 * sum of squared weights, the features standardised and the
    biases free. Of several decays the one with the best top-1 on a held-out fifth of each class counts, of equals the
    one with the lower loss there, and is then fitted to all pictures. The same arguments give the same head. Raises
    RecipeError for decays that are not above 0, DatasetError for labels from which no head can be learnt.
    """
    _check_decays(weight_decay)
    _check_labels(labels, num_classes)
    decays = sorted(set(weight_decay), reverse=True)
    x, y = torch.from_numpy(values), torch.from_numpy(labels)
    chosen = decays[0]
    tried: tuple[Tried, ...] = ()
    if len(decays) > 1:
        held_out = torch.from_numpy(_held_out(labels, num_classes, seed))
        tried = tuple(_tried(x, y, held_out, num_classes, decays))
        chosen = max(tried, key=lambda each: (each.top1, -each.loss)).weight_decay
    ((weight, bias),) = _fitted(x, y, num_classes, [chosen], _TOLERANCE)
    return Head(weight.float().numpy(), bias.float().numpy(), chosen, tried)


def _tried(x: Tensor, y: Tensor, held_out: Tensor, num_classes: int, decays: Sequence[float]) -> Iterator[Tried]:
    judged, truth = x[held_out].double(), y[held_out]
    fits = _fitted(x[~held_out], y[~held_out], num_classes, decays, _TOLERANCE_TO_CHOOSE)
    for decay, (weight, bias) in zip(decays, fits, strict=True):
        logits = judged @ weight.T + bias
        right = (logits.argmax(1) == truth).double().mean().item()
        yield Tried(decay, 100 * right, F.cross_entropy(logits, truth).item(), len(truth))


def _fitted(
    x: Tensor, y: Tensor, num_classes: int, decays: Sequence[float], tolerance: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each decay weight (K, C) and bias (K,), float64, for features as they are; each begins where the last ended.

    A feature that hardly varies is scaled as if it varied by a thousandth of the one that varies most: to make a new
    picture's value of it a huge one would be to learn from noise.
    """
    mean = x.mean(0)
    spread = x.std(0, correction=0)
    spread = spread.clamp_min(max(1e-3 * spread.max().item(), torch.finfo(torch.float32).tiny))
    standard = (x - mean).div_(spread)
    weight = torch.zeros(num_classes, x.shape[1], requires_grad=True)
    bias = torch.zeros(num_classes, requires_grad=True)
    for decay in decays:
        _minimise(standard, y, weight, bias, decay, tolerance)
        unscaled = weight.detach().double() / spread
        yield unscaled, bias.detach().double() - unscaled @ mean.double()


def _minimise(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, decay: float, tolerance: float) -> None:
    """Move weight and bias, in place, to where no entry of the gradient is above the tolerance."""
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=1000, tolerance_grad=tolerance, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def loss() -> float:
        optimiser.zero_grad()
        value = F.cross_entropy(x @ weight.T + bias, y) + decay / 2 * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value.item()

    optimiser.step(loss)  # type: ignore[no-untyped-call]


def _held_out(labels: NDArray[np.int64], num_classes: int, seed: int) -> NDArray[np.bool_]:
    """Which pictures are held out: a fifth of each class, at least one of a class that has two. Raises DatasetError."""
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), np.bool_)
    for label in range(num_classes):
        of_class = rng.permutation(np.flatnonzero(labels == label))
        if len(of_class) > 1:
            chosen[of_class[: max(1, len(of_class) // _HELD_OUT)]] = True
    if not chosen.any():
        raise DatasetError(
            "no class has two training pictures, so none can be held out to choose a weight decay by; "
            "add pictures, or give one weight decay"
        )
    return chosen


def _check_decays(weight_decay: Sequence[float]) -> None:
    if not weight_decay or min(weight_decay) <= 0:
        raise RecipeError(
            f"weight_decay = {list(weight_decay)} does not fit a probe: at least one is wanted, and each above 0"
        )


def _check_labels(labels: NDArray[np.int64], num_classes: int) -> None:
    if len(labels) == 0 or labels.min() < 0:
        raise DatasetError("a probe learns one class for each picture, and these have none or several; train the net")
    counts = np.bincount(labels, minlength=num_classes)
    if (counts == 0).any():
        absent = np.flatnonzero(counts == 0)
        raise DatasetError(
            f"{len(absent)} of {num_classes} classes have no training picture that could be read, number {absent[0]} "
            "for one; add pictures, or remove the classes"
        )
