"""A set of pictures parted in several, such as train and val, by lists: no picture is copied.

A picture's part is a function of (seed, its name), so that pictures added later move none of the others, and each class
is parted on its own. A class's shares are therefore met as chance has it, within about the square root of its size. A
class of so few pictures that chance leaves it out of a part gets one there, from where it has more: that one alone may
go back where more pictures of the class are added.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anabranch.disk import is_text
from anabranch.errors import DatasetError, UsageError, shown
from anabranch.images.labelled import Labelled, LabelledFiles
from anabranch.images.lists import CLASSES_FILE, classes_text
from anabranch.images.staging import new_folder


def split(
    data: Labelled,
    out: Path,
    *,
    shares: Mapping[str, float],
    seed: int = 0,
    together: NDArray[np.int64] | None = None,
) -> dict[str, Path]:
    """Write OUT/NAME.txt for each part, lists as `open_labelled` reads them, with the classes' names beside them.

    shares: of the pictures, by the part's name; their sum is 1. together: (N,) a number for each picture; those of one
    number go to one part, as near-duplicates must. `out` must not exist or be empty, and is whole or not there. Gives
    each part's list. Raises UsageError, and DatasetError for a class that cannot be in more than one part, and for a
    part that would be empty.
    """
    _check_shares(shares)
    if not isinstance(data, LabelledFiles):
        raise DatasetError(f"{out}: lists name files, and these pictures lie in none of their own; part them at origin")
    if data.targets is not None:
        raise DatasetError(f"{out}: pictures of several labels each are not parted here: no class would be whole")
    part_of = parts(data, list(shares.values()), seed=seed, together=together)
    for name, count in zip(shares, np.bincount(part_of, minlength=len(shares)).tolist(), strict=True):
        if not count:
            raise DatasetError(f"no picture would be in {name}: each class is too small for so many parts; name fewer")
    place = os.path.realpath(out)
    with new_folder(out) as staging:
        for number, name in enumerate(shares):
            lines = [_line(data, index, place) for index in np.flatnonzero(part_of == number).tolist()]
            (staging / f"{name}.txt").write_text("".join(lines), encoding="utf-8", newline="\n")
        if data.class_names is not None:
            (staging / CLASSES_FILE).write_text(classes_text(data.class_names), encoding="utf-8")
    return {name: out / f"{name}.txt" for name in shares}


def parts(
    data: Labelled, shares: Sequence[float], *, seed: int, together: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """(N,) the part of each picture. Raises DatasetError naming a class that has a single picture, or group of them."""
    unit_of = np.arange(len(data)) if together is None else np.unique(together, return_inverse=True)[1]
    names: dict[int, str] = {}  # of a unit, the first of its pictures' names
    classes: defaultdict[int, set[int]] = defaultdict(set)
    for unit, name, label in zip(unit_of.tolist(), data.names, data.labels.tolist(), strict=True):
        names[unit] = min(name, names.get(unit, name))
        classes[unit].add(label)
    chance = np.array([_chance(seed, names[unit]) for unit in range(len(names))])
    edges = np.concatenate([[0.0], np.cumsum(shares)])
    part = np.minimum(np.searchsorted(edges, chance, side="right") - 1, len(shares) - 1)
    _fill(part, chance, edges, classes, data)
    return part[unit_of]


def _fill(
    part: NDArray[np.int64],
    chance: NDArray[np.float64],
    edges: NDArray[np.float64],
    classes: Mapping[int, set[int]],
    data: Labelled,
) -> None:
    """Give each class a unit in every part, or in the largest ones where it has fewer units than there are parts."""
    num_parts = len(edges) - 1
    by_size = np.argsort(-np.diff(edges), kind="stable").tolist()
    units: defaultdict[int, list[int]] = defaultdict(list)
    counts: defaultdict[int, list[int]] = defaultdict(lambda: [0] * num_parts)
    for unit, held in classes.items():
        for label in held:
            units[label].append(unit)
            counts[label][part[unit]] += 1
    needed = {label: set(by_size[: len(held)]) for label, held in units.items()}
    for label in sorted(units):
        if len(units[label]) == 1 < num_parts:
            raise DatasetError(_single(data, label))
        for wanting in sorted(needed[label]):
            if counts[label][wanting]:
                continue
            spare = [
                unit
                for unit in units[label]
                if all(counts[each][part[unit]] > (part[unit] in needed[each]) for each in classes[unit])
            ]
            if not spare:
                raise DatasetError(
                    f"class {_called(data, label)}: its pictures are alike to those of other classes in a way that "
                    "leaves none for one of the parts; part the set without keeping near-duplicates together"
                )
            low, high = edges[wanting], edges[wanting + 1]
            moved = min(spare, key=lambda unit: (max(low - chance[unit], chance[unit] - high), unit))
            for each in classes[moved]:
                counts[each][part[moved]] -= 1
                counts[each][wanting] += 1
            part[moved] = wanting


def _chance(seed: int, name: str) -> float:
    """From 0 up to 1, the same for a name on every machine."""
    digest = hashlib.sha256(f"{seed} {name}".encode(errors="surrogateescape")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / (1 << 53)


def _check_shares(shares: Mapping[str, float]) -> None:
    for name, share in shares.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise UsageError(f"part {name!r} does not fit: letters, digits, '.', '_' and '-' make the name of its list")
        if not 0 < share < 1:
            raise UsageError(f"the share of {name} is {share}: more than 0 and less than 1 is wanted")
    if len(shares) < 2 or abs(sum(shares.values()) - 1) > 1e-6:
        told = " + ".join(f"{share:g}" for share in shares.values()) or "none"
        raise UsageError(f"the shares are {told}: two or more are wanted whose sum is 1, as train=0.8 and val=0.2")


def _single(data: Labelled, label: int) -> str:
    index = int(np.flatnonzero(data.labels == label)[0])
    many = int((data.labels == label).sum())
    met = "one picture" if many == 1 else f"{many} pictures that are all alike"
    return (
        f"class {_called(data, label)} has {met}, {shown(data.names[index])}, which cannot be in two parts; "
        "add pictures to the class, or take it out"
    )


def _called(data: Labelled, label: int) -> str:
    return str(label) if data.class_names is None else repr(shown(data.class_names[label]))


def _line(data: LabelledFiles, index: int, place: str) -> str:
    """`path label`, the path as seen from the folder of the list."""
    path = os.path.relpath(os.path.abspath(os.path.join(data.folder, data.names[index])), place)
    if path != path.strip() or "\n" in path or "\r" in path or not is_text(path):
        raise DatasetError(f"{data.names[index]!a}: this name cannot stand in a list of lines; rename the file")
    return f"{path} {int(data.labels[index])}\n"
