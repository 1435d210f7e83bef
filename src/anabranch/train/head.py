"""The head that is fitted to features: multinomial logistic regression."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anabranch.errors import DatasetError, RecipeError, need

_HELD_OUT = 5  # one picture of so many
_TOLERANCE = 1e-4  # of the gradient's largest entry, as in scikit-learn's LogisticRegression
_TOLERANCE_TO_CHOOSE = 1e-3  # in less time; of weak decays a hundredth of the decay, whose own pull is no larger


@dataclass(frozen=True, slots=True)
class Tried:
    weight_decay: float
    top1: float  # percent of the held-out pictures
    loss: float  # mean cross-entropy on them, of a fit as near as choosing wants
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
    chosen = decays[0]
    tried: tuple[Tried, ...] = ()
    if len(decays) > 1:
        tried = tuple(_tried(values, labels, _held_out(labels, num_classes, seed), num_classes, decays))
        chosen = max(tried, key=lambda each: (each.top1, -each.loss)).weight_decay
    ((weight, bias),) = _fitted(values, labels, num_classes, [chosen], [_TOLERANCE])
    return Head(weight.astype(np.float32), bias.astype(np.float32), chosen, tried)


def _tried(
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    held_out: NDArray[np.bool_],
    num_classes: int,
    decays: Sequence[float],
) -> Iterator[Tried]:
    judged, truth = x[held_out], y[held_out]
    tolerances = [min(_TOLERANCE_TO_CHOOSE, decay / 100) for decay in decays]
    fits = _fitted(x[~held_out], y[~held_out], num_classes, decays, tolerances)
    for decay, (weight, bias) in zip(decays, fits, strict=True):
        logits = judged @ weight.T + bias
        right = float((logits.argmax(1) == truth).mean())
        yield Tried(decay, 100 * right, _cross_entropy(logits, truth)[0], len(truth))


def _fitted(
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    num_classes: int,
    decays: Sequence[float],
    tolerances: Sequence[float],
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """For each decay weight (K, C) and bias (K,), for features as they are; each begins where the last ended.

    A feature that hardly varies is scaled as if it varied by a thousandth of the one that varies most: to make a new
    picture's value of it a huge one would be to learn from noise.
    """
    mean, spread = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    spread = np.maximum(spread, max(1e-3 * spread.max(), np.finfo(np.float32).tiny))
    standard = ((x - mean) / spread).astype(np.float32)
    weight, bias = np.zeros((num_classes, x.shape[1])), np.zeros(num_classes)
    for decay, tolerance in zip(decays, tolerances, strict=True):
        weight, bias = _minimised(standard, y, weight, bias, decay, tolerance)
        unscaled = weight / spread
        yield unscaled, bias - unscaled @ mean


def _minimised(
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    weight: NDArray[np.float64],
    bias: NDArray[np.float64],
    decay: float,
    tolerance: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where no entry of the gradient is above the tolerance, from this weight and bias on."""
    optimize = need("scipy.optimize", extra="train")  # torch's own LBFGS imports its compiler, for seconds

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        w, b = flat[: weight.size].reshape(weight.shape), flat[weight.size :]
        value, wrong = _cross_entropy(x @ w.T.astype(np.float32) + b, y)
        slope = wrong.T.astype(np.float32) @ x + decay * w
        return value + decay / 2 * float((w * w).sum()), np.concatenate([slope.ravel(), wrong.sum(0)])

    start = np.concatenate([weight.ravel(), bias])
    options = {"maxiter": 1000, "gtol": tolerance, "ftol": 1e-9}
    # numpy and scipy bring a BLAS each, whose threads wait for one another by spinning: ten times slower than with one
    with need("threadpoolctl", extra="train").threadpool_limits(1, "blas"):
        found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x
    return found[: weight.size].reshape(weight.shape), found[weight.size :]


def _cross_entropy(logits: NDArray[np.floating], y: NDArray[np.int64]) -> tuple[float, NDArray[np.float64]]:
    """The mean over (n, K) logits, and its gradient by them."""
    rows = np.arange(len(y))
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    exponentials = np.exp(shifted)
    sums = exponentials.sum(1)
    value = float((np.log(sums) - shifted[rows, y]).mean())
    slope = exponentials / sums[:, None]
    slope[rows, y] -= 1
    return value, slope / len(y)


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
