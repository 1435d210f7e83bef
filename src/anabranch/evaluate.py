"""How often a predictor is right on a labelled set.

A picture shows one class, or, of a set with several labels a picture, any number of them. Of the latter the score is
the mean average precision of the multi-label papers, such as Ridnik et al. 2021 ("Asymmetric loss"), on VOC and COCO:
not interpolated, unlike that of the VOC challenge and of detection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from anabranch.catalogue.classes import imagenet_1k
from anabranch.errors import DatasetError
from anabranch.images.labelled import Labelled
from anabranch.runtimes.pipeline import Answer, Picture, answer
from anabranch.runtimes.predictor import Predictor


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    num_pictures: int  # that could be read; each was counted once
    top1_right: int
    top5_right: int
    unreadable: tuple[tuple[str, str], ...]  # name and reason; in no count above
    matched_by: Literal["name", "position"]  # how the set's classes were matched with the model's labels
    seconds: float

    @property
    def top1(self) -> float:
        """Percent."""
        return 100 * self.top1_right / self.num_pictures

    @property
    def top5(self) -> float:
        """Percent."""
        return 100 * self.top5_right / self.num_pictures

    @property
    def top1_interval(self) -> tuple[float, float]:
        """95 % confidence interval of top-1 in percent. Source: Wilson 1927."""
        n, z = self.num_pictures, 1.959964
        share = self.top1_right / n
        centre = share + z * z / (2 * n)
        spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        low, high = (100 * (centre + sign * spread) / (1 + z * z / n) for sign in (-1, 1))
        return max(0.0, low), min(100.0, high)  # which they pass by float noise


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiLabelScore:
    """Of pictures that show any number of classes each."""

    num_pictures: int  # that could be read; each was counted once
    average_precisions: tuple[float, ...]  # percent, by the set's classes; NaN where no picture shows one
    f1: float  # percent, over all classes and pictures together, a class being answered from a probability of 0.5 on
    unreadable: tuple[tuple[str, str], ...]  # name and reason; in no figure above
    matched_by: Literal["name", "position"]
    seconds: float

    @property
    def mean_average_precision(self) -> float:
        """Percent, over the classes that any picture shows."""
        return float(np.nanmean(self.average_precisions))


def average_precisions(logits: NDArray[np.floating], targets: NDArray[np.integer]) -> NDArray[np.float64]:
    """Percent for each class: (N, K) and (N, K) of 0 and 1 -> (K,); NaN for a class that no picture shows.

    The mean, over the pictures that show the class, of the precision down to that picture: of all that score at least
    as high, the share that show it. Equal scores are thus met together, as in scikit-learn's average_precision_score.
    Raises DatasetError where no picture shows any class.
    """
    if not targets.any():
        raise DatasetError(f"none of {len(targets)} test pictures shows any class; label some, or test on more of them")
    met = np.full(targets.shape[1], np.nan)
    for index in np.flatnonzero(targets.any(0)):
        everyone = np.sort(logits[:, index])
        shown = np.sort(logits[targets[:, index] > 0, index])
        at_least = [len(scores) - np.searchsorted(scores, shown) for scores in (shown, everyone)]
        met[index] = 100 * np.mean(at_least[0] / at_least[1])
    return met


def f1(logits: NDArray[np.floating], targets: NDArray[np.integer]) -> float:
    """Percent over all classes together, a class being answered from a probability of 0.5 on: (N, K) twice."""
    answered, shown = logits >= 0, targets > 0
    return float(200 * (answered & shown).sum() / max(1, answered.sum() + shown.sum()))


def evaluate(
    predictor: Predictor, data: Labelled, *, batch: int = 32, report: Callable[[int], None] = lambda done: None
) -> Score:
    """Top-1 and top-5 over the whole set. `report` is told the number of pictures done.

    A picture that cannot be read is listed and counted nowhere. Raises DatasetError where the set's classes are not the
    model's, or where no picture could be read.
    """
    index_of, matched_by = match_classes(data, predictor.card.labels)
    started = perf_counter()
    top1 = top5 = 0
    unreadable: list[tuple[str, str]] = []
    for i, answered in _answered(predictor, data, unreadable, batch=batch, report=report):
        best = [guess.class_index for guess in answered.guesses]
        truth = index_of[int(data.labels[i])]
        top1 += best[0] == truth
        top5 += truth in best
    return Score(
        num_pictures=len(data) - len(unreadable),
        top1_right=top1,
        top5_right=top5,
        unreadable=tuple(unreadable),
        matched_by=matched_by,
        seconds=perf_counter() - started,
    )


def evaluate_multi_label(
    predictor: Predictor, data: Labelled, *, batch: int = 32, report: Callable[[int], None] = lambda done: None
) -> MultiLabelScore:
    """The same for a set with several labels a picture, over the set's classes. Raises as `evaluate`."""
    assert data.targets is not None
    index_of, matched_by = match_classes(data, predictor.card.labels)
    started = perf_counter()
    unreadable: list[tuple[str, str]] = []
    answered = _answered(predictor, data, unreadable, batch=batch, report=report)
    rows, told = zip(*((i, each.logits) for i, each in answered), strict=True)
    # classes that are matched by position are as many as the model's, and the set may show fewer
    targets = np.pad(data.targets[list(rows)], [(0, 0), (0, len(index_of) - data.targets.shape[1])])
    logits = np.stack(told)[:, index_of]
    return MultiLabelScore(
        num_pictures=len(rows),
        average_precisions=tuple(average_precisions(logits, targets).tolist()),
        f1=f1(logits, targets),
        unreadable=tuple(unreadable),
        matched_by=matched_by,
        seconds=perf_counter() - started,
    )


def _answered(
    predictor: Predictor,
    data: Labelled,
    unreadable: list[tuple[str, str]],
    *,
    batch: int,
    report: Callable[[int], None],
) -> Iterator[tuple[int, Answer]]:
    """Each picture that can be read and its answer; name and reason of the others go to `unreadable`."""
    pictures = (Picture(name, partial(data.picture, i)) for i, name in enumerate(data.names))
    for i, answered in enumerate(answer(predictor, pictures, top=5, batch=batch)):
        if answered.error is not None:
            unreadable.append((answered.name, answered.error))
        else:
            yield i, answered
        report(i + 1)
    if len(unreadable) == len(data):
        reason = f"; the first: {unreadable[0][1]}" if unreadable else ""
        raise DatasetError(f"none of the {len(data)} pictures could be read{reason}")


def doubtful_match(names: tuple[str, ...] | None, labels: tuple[str, ...], matched_by: str) -> str | None:
    """What to tell of a set whose named classes were matched by position; ImageNet's stand in every model's order."""
    if matched_by == "name" or names is None or names == tuple(synset for synset, _ in imagenet_1k()):
        return None
    return (
        f"its classes are none of the model's: {names[0]!r} was taken for {labels[0]!r}, and so on by position; "
        "the score means nothing unless that is right"
    )


def match_classes(data: Labelled, labels: tuple[str, ...]) -> tuple[list[int], Literal["name", "position"]]:
    """For each class of the set, the model's index of it: by name where the model knows every name, else by position.

    ImageNet's identifiers and words are the same names: n01440764 is tench. Raises DatasetError where the set has
    classes that the model cannot answer, or where it knows only some names.
    """
    words = dict(imagenet_1k())
    labels = tuple(words.get(label, label) for label in labels)
    names = None if data.class_names is None else tuple(words.get(name, name) for name in data.class_names)
    if names is not None and set(names) <= set(labels) and len(set(labels)) == len(labels):
        return [labels.index(name) for name in names], "name"
    largest = int(data.labels.max(initial=-1)) if data.targets is None else data.targets.shape[1] - 1
    partly = names is not None and not set(names).isdisjoint(labels)  # then position would mean another class
    if partly or (names is not None and len(names) != len(labels)) or largest >= len(labels):
        classes = len(names) if names is not None else largest + 1
        unknown = next((name for name in data.class_names or () if words.get(name, name) not in labels), None)
        told = f" (it does not know {unknown!r}, for one)" if unknown else ""
        raise DatasetError(
            f"the set has {classes} classes and the model {len(labels)}{told}; "
            "name the set's classes as the model's labels.txt does, or evaluate the model that was trained on them"
        )
    return list(range(len(labels))), "position"
