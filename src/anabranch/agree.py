"""How far two predictors disagree on the same pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from anabranch.card import Agreement
from anabranch.errors import DatasetError, UsageError
from anabranch.images.labelled import Labelled
from anabranch.runtimes.pipeline import Answer, Guess, Picture, answer
from anabranch.runtimes.predictor import Predictor


@dataclass(frozen=True, slots=True)
class Flip:
    """A picture whose best class is another one."""

    name: str
    ours: Guess
    reference: Guess


@dataclass(frozen=True, slots=True)
class Comparison:
    agreement: Agreement
    flips: tuple[Flip, ...]  # in the order of the pictures
    unreadable: tuple[tuple[str, str], ...]  # by one or both, name and reason; in no figure


def compare(
    ours: Predictor, reference: Predictor, data: Labelled, *, report: Callable[[int], None] = lambda done: None
) -> Comparison:
    """Both on all pictures of a set, each with its own preprocessing, and classes matched by their names.

    They are asked side by side, so that no more answers are held than are on their way. `report` is told the number of
    pictures done, of which there are twice as many as in the set. Raises UsageError where the two do not have the same
    classes, DatasetError where no picture can be read.
    """
    index_of = _matched(ours, reference)
    met: Agreement | None = None
    flips: list[Flip] = []
    unreadable: list[tuple[str, str]] = []
    asked = zip(_asked(ours, data), _asked(reference, data), strict=True)
    for done, (our, their) in enumerate(asked, 1):
        report(2 * done)
        if our.logits is None or their.logits is None:
            unreadable.append((our.name, our.error or their.error or ""))
            continue
        one = agreement(our.logits[None, index_of], their.logits[None])
        met = one if met is None else _together(met, one)
        if our.guesses[0].class_index != index_of[their.guesses[0].class_index]:
            flips.append(Flip(our.name, our.guesses[0], their.guesses[0]))
    if met is None:
        raise DatasetError(f"none of the {len(data)} pictures could be read; the first: {unreadable[0][1]}")
    return Comparison(met, tuple(flips), tuple(unreadable))


def _asked(predictor: Predictor, data: Labelled) -> Iterator[Answer]:
    pictures = (Picture(name, partial(data.picture, index)) for index, name in enumerate(data.names))
    return answer(predictor, pictures, top=1)


def _together(some: Agreement, others: Agreement) -> Agreement:
    num_pictures = some.num_pictures + others.num_pictures
    summed = some.mean_abs * some.num_pictures + others.mean_abs * others.num_pictures
    return Agreement(
        max_abs=max(some.max_abs, others.max_abs),
        mean_abs=summed / num_pictures,
        largest_logit=max(some.largest_logit, others.largest_logit),
        top1_flips=some.top1_flips + others.top1_flips,
        num_pictures=num_pictures,
    )


def _matched(ours: Predictor, reference: Predictor) -> list[int]:
    """For each class of the reference, our index of it."""
    labels, theirs = ours.card.labels, reference.card.labels
    if labels == theirs:
        return list(range(len(labels)))
    if sorted(labels) != sorted(theirs) or len(set(labels)) != len(labels):
        raise UsageError(
            f"{ours.card.weights.name} has {len(labels)} classes and {reference.card.weights.name} {len(theirs)}, and "
            "they are not the same ones; only models of the same classes can be compared"
        )
    return [labels.index(name) for name in theirs]


def agreement(
    ours: Predictor | NDArray[np.float32],
    reference: Predictor | NDArray[np.float32],
    pixels: NDArray[np.uint8] | None = None,
    *,
    batch: int = 8,
) -> Agreement:
    """Compare two predictors on `pixels` (N, S, S, 3), or logits (N, K) that are already there.

    The largest logit is the reference's. A logit that is not finite on one side is infinitely far. Raises UsageError.
    """
    a, b = logits_of(ours, pixels, batch=batch), logits_of(reference, pixels, batch=batch)
    if a.shape != b.shape or a.ndim != 2 or a.size == 0:
        raise UsageError(f"logits of shapes {a.shape} and {b.shape} cannot be compared; two equal (N, K) are wanted")
    finite = np.isfinite(a) & np.isfinite(b)
    apart = np.where(finite, np.abs(np.subtract(a, b, where=finite, out=np.zeros(a.shape))), np.inf)
    return Agreement(
        max_abs=float(apart.max()),
        mean_abs=float(apart.mean()),
        largest_logit=float(np.abs(b[np.isfinite(b)]).max(initial=0)),
        top1_flips=int((a.argmax(1) != b.argmax(1)).sum()),
        num_pictures=len(a),
    )


def logits_of(
    source: Predictor | NDArray[np.float32], pixels: NDArray[np.uint8] | None, *, batch: int
) -> NDArray[np.float32]:
    """(N, K), asked for `batch` pictures at a time; what is already logits comes back as it is."""
    if isinstance(source, np.ndarray):
        return source
    if pixels is None or len(pixels) == 0:
        raise UsageError("a predictor needs pixels to answer; none were given")
    return np.concatenate([source.predict(pixels[i : i + batch]) for i in range(0, len(pixels), batch)])
