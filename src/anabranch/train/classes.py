"""The classes of one net among those of another, by their names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from anabranch.catalogue.classes import imagenet_1k
from anabranch.errors import DatasetError


def columns(theirs: Sequence[str], wanted: Sequence[str], *, whose: str, otherwise: str) -> NDArray[np.int64]:
    """For each class that is wanted, their index of it; ImageNet's identifiers and words are the same names.

    Raises DatasetError, with what to do `otherwise`, where they are not the same classes in whatever order.
    """
    if len(theirs) != len(wanted):
        raise DatasetError(f"{whose} knows {len(theirs)} classes and {len(wanted)} are to be learnt; {otherwise}")
    words = dict(imagenet_1k())
    theirs, wanted = ([words.get(name, name) for name in names] for names in (theirs, wanted))
    if theirs == wanted:  # before looking each up: of names that occur twice only the order can tell
        return np.arange(len(wanted))
    unknown = [name for name in wanted if name not in theirs]
    if unknown or len(set(wanted)) != len(wanted):
        told = f"it does not know {unknown[0]!r}, for one" if unknown else "some names occur twice"
        raise DatasetError(
            f"{whose} has not the classes that are to be learnt: {told}, and its first is {theirs[0]!r}; name the "
            f"classes alike, or {otherwise}"
        )
    index_of = {name: index for index, name in enumerate(theirs)}
    return np.array([index_of[name] for name in wanted])
