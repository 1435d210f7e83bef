"""What a run learns from and what it is tested on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anabranch.catalogue.classes import imagenet_1k
from anabranch.errors import DatasetError
from anabranch.errors import shown as plain
from anabranch.images.files import told_ignored
from anabranch.images.labelled import Labelled, LabelledFiles, open_labelled, open_unlabelled
from anabranch.images.lists import CLASSES_FILE, want_names
from anabranch.images.shards import SPLITS
from anabranch.images.split import parts
from anabranch.train.tables import Data, Source

_UNLABELLED = -1


class Sets(NamedTuple):
    """Both in the classes of `class_names`."""

    shown: Labelled
    tested: Labelled
    class_names: tuple[str, ...]


def open_sets(data: Data) -> Sets:
    """Raises DatasetError where the two sets, or the recipe's names and a set's own, do not fit together.

    The same where there is one class, and a picture shows one.
    """
    if data.test and data.unlabelled:
        shown, tested = open_unlabelled(data.train.path, split=data.train.split), _open(data.test)
    elif data.test:
        shown, tested = (_open(source, multi_label=data.multi_label) for source in (data.train, data.test))
    else:
        shown, tested = _held_out(data)
    _want_equal_classes(data, shown, tested)
    names = shown.class_names or tested.class_names or _given(data, tested if data.unlabelled else shown)
    if names is None:
        raise DatasetError(f"{data.train.path}: its classes have no names; give data.class_names in the recipe")
    want_names(names, _where(data.train) if shown.class_names or tested.class_names else "data.class_names")
    shown, tested = (
        _fitted(labelled, len(names), source.path)
        for labelled, source in ((shown, data.train), (tested, data.test or data.train))
    )
    if len(names) < 2 and not data.multi_label:
        raise DatasetError(_one_class(_where(data.train), shown, names[0]))
    return Sets(shown, tested, tuple(names))


def _given(data: Data, shown: Labelled) -> tuple[str, ...] | None:
    """The recipe's names for classes that are mere numbers."""
    if data.class_names != "imagenet-1k":
        return data.class_names
    numbers, names = np.unique(truth(shown)), tuple(wordnet_id for wordnet_id, _ in imagenet_1k())
    if shown.targets is None and len(numbers) == len(names) == numbers[-1] + 1:
        return names
    raise DatasetError(
        f"{data.train.path}: its classes have no names, and {len(numbers)} numbers up to {numbers.max(initial=0)} are "
        f"not ImageNet-1k's 0 to {len(names) - 1}; give data.class_names, or a {CLASSES_FILE} beside the list or shards"
    )


def doubts(sets: Sets) -> tuple[str, ...]:
    """What a person may not have meant, a line each: files that are not read as pictures, classes without a picture."""
    files = (each for each in (sets.shown, sets.tested) if isinstance(each, LabelledFiles) and each.ignored)
    lines = [f"{each.folder}: {told_ignored(each.ignored)}" for each in files]
    met = truth(sets.shown)
    shown = set((np.unique(met) if met.ndim == 1 else np.flatnonzero(met.any(0))).tolist())
    if shown == {_UNLABELLED}:
        return tuple(lines)
    if absent := [name for index, name in enumerate(sets.class_names) if index not in shown]:
        lines.append(f"{len(absent)} of {len(sets.class_names)} classes have no picture to learn from: {_some(absent)}")
    return tuple(lines)


def _want_equal_classes(data: Data, shown: Labelled, tested: Labelled) -> None:
    train, test = _where(data.train), _where(data.test or data.train)
    wanted = shown.class_names
    given = None if data.class_names == "imagenet-1k" else data.class_names  # which is for those that have no names
    for names, where in ((tested.class_names, test), (given, "data.class_names")):
        if wanted is None or names is None or names == wanted:
            continue
        in_folders = Path(train, wanted[0]).is_dir() and Path(test, (tested.class_names or wanted)[0]).is_dir()
        beside = "" if in_folders else f"; a {CLASSES_FILE} beside lists or shards names their classes"
        raise DatasetError(
            f"{where}: its classes {_some(names)} are not those of {train}, {_some(wanted)}: "
            f"{_difference(names, wanted)}. Make both the same{beside}"
        )


def _one_class(where: str, shown: Labelled, name: str) -> str:
    """What is said of a set of one class, which is often a folder too high up."""
    told = f"{where}: holds one class, {name!r}, and there is nothing to tell apart"
    paths = [Path(file).parts for file in shown.names]
    inner = sorted({parts[1] for parts in paths if parts[0] == name and len(parts) > 2})
    if not inner:
        return f"{told}; add pictures of another"
    kind = "splits" if SPLITS.issuperset(map(str.lower, inner)) else "classes"
    return f"{told}. It holds the folders {_some(inner)}; if these are the {kind}, give {Path(where, name)}"


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


def want_few(unreadable: Sequence[str], total: int, share: float, *, kind: str, place: str = "") -> None:
    """Raises DatasetError where more of `total` pictures cannot be read, a line each, than the recipe bears.

    place: what stands before each line.
    """
    if len(unreadable) > share * total:
        raise DatasetError(
            f"{len(unreadable)} of {total} {kind} pictures cannot be read, more than the share data.unreadable = "
            f"{share:g}; the first: {place}{unreadable[0]}. Repair or remove them, or allow a larger share"
        )


def _held_out(data: Data) -> tuple[Labelled, Labelled]:
    """The training pictures without those that are tested on, and these: by their names, class by class."""
    whole = _open(data.train)
    if not isinstance(whole, LabelledFiles):
        raise DatasetError(
            f"{data.train.path}: only pictures in files of their own can be held out; name others in data.test. "
            "'anabranch split' parts a set in files, before 'anabranch shards' packs each part"
        )
    part = parts(whole, [1 - data.hold_out, data.hold_out], seed=0)
    shown, tested = (np.flatnonzero(part == which).tolist() for which in (0, 1))
    learnt, held_out = (
        replace(whole, names=[whole.names[index] for index in those], labels=whole.labels[those])
        for those in (shown, tested)
    )
    return learnt, replace(held_out, ignored={})  # told once of the whole


def _open(source: Source, *, multi_label: bool = False) -> Labelled:
    labels = Path(source.labels) if source.labels else None
    return open_labelled(Path(source.path), split=source.split, labels=labels, multi_label=multi_label)


def _where(source: Source) -> str:
    folder = Path(source.path, source.split or "")
    return str(folder) if folder.exists() else source.path


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(plain, names[:5])) + (", ..." if len(names) > 5 else "")


def _difference(names: Sequence[str], wanted: Sequence[str]) -> str:
    if missing := [name for name in wanted if name not in names]:
        return f"missing are {_some(missing)}"
    if unknown := [name for name in names if name not in wanted]:
        return f"left over are {_some(unknown)}"
    return "they stand in another order"
