"""The pictures of an export: those that show INT8 its ranges, and others on which each engine is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anabranch.errors import DatasetError, ImageError
from anabranch.evaluate import doubtful_match, match_classes
from anabranch.images.labelled import Labelled
from anabranch.images.preprocess import Preprocess

_CALIBRATED = 300
MEASURED = 1000
_FEWEST = 32


class Pictures(NamedTuple):
    """As they go into a net: (N, S, S, 3) uint8."""

    name: str  # what a card says that its figures were measured on
    measured: NDArray[np.uint8]
    truth: NDArray[np.int64] | None = None  # (N,), their classes by the model's labels, where these are known
    calibration: NDArray[np.uint8] | None = None  # (M, S, S, 3), none of those that are measured on


class Drawn(NamedTuple):
    pictures: Pictures
    notes: tuple[str, ...]  # what a person should know of them, a line each


def draw(
    data: Labelled,
    preprocess: Preprocess,
    labels: tuple[str, ...],
    *,
    name: str,
    measured: int = MEASURED,
    calibrates: bool = True,
) -> Drawn:
    """Pictures of a set, the same ones each time: up to `measured`, and up to 300 others if one of these `calibrates`.

    Of few pictures half are for each. The set may do without labels, then -1. One in a hundred of these may be
    unreadable. Raises DatasetError where more are, or fewer than 32 are left.
    """
    drawn = np.random.default_rng(0).permutation(len(data))[: measured + (_CALIBRATED if calibrates else 0)].tolist()
    pixels = np.empty((len(drawn), preprocess.crop_px, preprocess.crop_px, 3), np.uint8)
    indices: list[int] = []
    unreadable: list[str] = []
    for index in drawn:
        try:
            pixels[len(indices)] = preprocess(data.picture(index))
            indices.append(index)
        except ImageError as error:
            unreadable.append(str(error))
    pixels = pixels[: len(indices)]
    if len(pixels) < _FEWEST or len(unreadable) > 0.01 * len(drawn):
        told = f", and {len(unreadable)} cannot be read: {unreadable[0]}" if unreadable else ""
        why = "calibrate by" if calibrates else "measure on"
        raise DatasetError(
            f"{name}: {len(pixels)} pictures are there to {why}{told}; {_FEWEST} at least are wanted, and at "
            "most one in a hundred that cannot be read"
        )
    first = min(_CALIBRATED, max(len(pixels) // 2, len(pixels) - measured)) if calibrates else 0
    truth, doubt = _truth(data, indices[first:], labels)
    notes = (*(f"left out: {each}" for each in unreadable), *([doubt] if doubt else []))
    told = f"{len(pixels) - first:,} pictures of {name}"
    if not calibrates:
        return Drawn(Pictures(told, pixels, truth), notes)
    told += f", others than the {first:,} it was calibrated by"
    return Drawn(Pictures(told, pixels[first:], truth, pixels[:first]), notes)


def _truth(
    data: Labelled, indices: Sequence[int], labels: tuple[str, ...]
) -> tuple[NDArray[np.int64] | None, str | None]:
    """The model's classes of these pictures, if they are known, and what is doubtful about them."""
    if (data.labels < 0).any():
        return None, None
    try:
        index_of, matched_by = match_classes(data, labels)
    except DatasetError as error:
        return None, f"no accuracy is measured: {error}"
    return np.array(index_of)[data.labels[indices]], doubtful_match(data.class_names, labels, matched_by)
