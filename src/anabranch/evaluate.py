"""How often a predictor is right on a labelled set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Literal

from anabranch.errors import DatasetError
from anabranch.images.labelled import Labelled
from anabranch.runtimes.pipeline import Picture, answer
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
        return tuple(100 * (centre + sign * spread) / (1 + z * z / n) for sign in (-1, 1))  # type: ignore[return-value]


def evaluate(
    predictor: Predictor, data: Labelled, *, batch: int = 32, report: Callable[[int], None] = lambda done: None
) -> Score:
    """Top-1 and top-5 over the whole set. `report` is told the number of pictures done.

    A picture that cannot be read is listed and counted nowhere. Raises DatasetError where the set's classes are not the
    model's, or where no picture could be read.
    """
    index_of, matched_by = match_classes(data, predictor.card.labels)
    pictures = (Picture(name, partial(data.picture, i)) for i, name in enumerate(data.names))
    started = perf_counter()
    top1 = top5 = readable = 0
    unreadable: list[tuple[str, str]] = []
    for i, answered in enumerate(answer(predictor, pictures, top=5, batch=batch)):
        if answered.error is not None:
            unreadable.append((answered.name, answered.error))
        else:
            best = [guess.class_index for guess in answered.guesses]
            truth = index_of[int(data.labels[i])]
            readable += 1
            top1 += best[0] == truth
            top5 += truth in best
        report(i + 1)
    if not readable:
        reason = f"; the first: {unreadable[0][1]}" if unreadable else ""
        raise DatasetError(f"none of the {len(data)} pictures could be read{reason}")
    return Score(
        num_pictures=readable,
        top1_right=top1,
        top5_right=top5,
        unreadable=tuple(unreadable),
        matched_by=matched_by,
        seconds=perf_counter() - started,
    )


def match_classes(data: Labelled, labels: tuple[str, ...]) -> tuple[list[int], Literal["name", "position"]]:
    """For each class of the set, the model's index of it: by name where the model knows every name, else by position.

    Raises DatasetError where the set has classes that the model cannot answer, or where it knows only some names.
    """
    names = data.class_names
    if names is not None and set(names) <= set(labels) and len(set(labels)) == len(labels):
        return [labels.index(name) for name in names], "name"
    largest = int(data.labels.max(initial=-1))
    partly = names is not None and not set(names).isdisjoint(labels)  # then position would mean another class
    if partly or (names is not None and len(names) != len(labels)) or largest >= len(labels):
        classes = len(names) if names is not None else largest + 1
        unknown = next(_unknown(names or (), labels), None)
        told = f" (it does not know {unknown!r}, for one)" if unknown else ""
        raise DatasetError(
            f"the set has {classes} classes and the model {len(labels)}{told}; "
            "name the set's classes as the model's labels.txt does, or evaluate the model that was trained on them"
        )
    return list(range(len(labels))), "position"


def _unknown(names: tuple[str, ...], labels: tuple[str, ...]) -> Iterator[str]:
    return (name for name in names if name not in labels)
