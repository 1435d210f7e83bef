"""What a run learns from and what it is tested on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anabranch.errors import DatasetError
from anabranch.errors import shown as plain
from anabranch.images.labelled import Labelled, LabelledFiles, open_labelled
from anabranch.images.lists import CLASSES_FILE
from anabranch.images.split import parts
from anabranch.train.tables import Data, Source


class Sets(NamedTuple):
    """Both in the classes of `class_names`."""

    shown: Labelled
    tested: Labelled
    class_names: tuple[str, ...]


def open_sets(data: Data) -> Sets:
    """Raises DatasetError where the two sets, or the recipe's names and a set's own, do not fit together."""
    if data.test:
        shown, tested = (_open(source, multi_label=data.multi_label) for source in (data.train, data.test))
    else:
        shown, tested = _held_out(data)
    test_path = data.test.path if data.test else data.train.path
    for other, path in ((tested.class_names, test_path), (data.class_names, "data.class_names")):
        if shown.class_names is not None and other is not None and shown.class_names != other:
            raise DatasetError(
                f"{path}: its classes {_some(other)} are not those of {data.train.path}, {_some(shown.class_names)}: "
                f"{_difference(other, shown.class_names)}. Make both the same; a {CLASSES_FILE} beside a list "
                "names its classes"
            )
    names = shown.class_names or tested.class_names or data.class_names
    if names is None:
        raise DatasetError(f"{data.train.path}: its classes have no names; give data.class_names in the recipe")
    shown, tested = (
        _fitted(labelled, len(names), path) for labelled, path in ((shown, data.train.path), (tested, test_path))
    )
    return Sets(shown, tested, tuple(names))


def _fitted(labelled: Labelled, num_classes: int, path: str) -> Labelled:
    """The set, its targets as wide as there are classes, of which the last may be shown in the other set alone."""
    if len(labelled) == 0:
        raise DatasetError(f"{path}: holds no pictures")
    targets = labelled.targets
    largest = int(labelled.labels.max()) if targets is None else targets.shape[1] - 1
    if largest >= num_classes:
        of_it = labelled.labels == largest if targets is None else targets[:, largest] > 0
        raise DatasetError(
            f"{path}: holds label {largest}, but there are {num_classes} class names; mend the label of "
            f"{labelled.names[int(of_it.argmax())]}, or name every class"
        )
    if targets is None:
        return labelled
    assert isinstance(labelled, LabelledFiles)
    return replace(labelled, targets=np.pad(targets, [(0, 0), (0, num_classes - targets.shape[1])]))


def truth(data: Labelled) -> NDArray[np.integer]:
    """(N,) the class of each picture, or (N, K) 1 for each class that it shows, where that may be any number."""
    return data.labels if data.targets is None else data.targets


def _held_out(data: Data) -> tuple[Labelled, Labelled]:
    """The training pictures without those that are tested on, and these: by their names, class by class."""
    whole = _open(data.train)
    if not isinstance(whole, LabelledFiles):
        raise DatasetError(
            f"{data.train.path}: only pictures in files of their own can be held out; "
            "'anabranch split' parts any set, and data.test names the other part"
        )
    part = parts(whole, [1 - data.hold_out, data.hold_out], seed=0)
    shown, tested = (np.flatnonzero(part == which).tolist() for which in (0, 1))
    return tuple(  # type: ignore[return-value]
        replace(whole, names=[whole.names[index] for index in those], labels=whole.labels[those])
        for those in (shown, tested)
    )


def _open(source: Source, *, multi_label: bool = False) -> Labelled:
    labels = Path(source.labels) if source.labels else None
    return open_labelled(Path(source.path), split=source.split, labels=labels, multi_label=multi_label)


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(plain, names[:5])) + (", ..." if len(names) > 5 else "")


def _difference(names: Sequence[str], wanted: Sequence[str]) -> str:
    if missing := [name for name in wanted if name not in names]:
        return f"missing are {_some(missing)}"
    if unknown := [name for name in names if name not in wanted]:
        return f"left over are {_some(unknown)}"
    return "they stand in another order"
