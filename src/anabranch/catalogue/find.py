"""From any name that any zoo prints to what it means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from anabranch.arch import ARCHITECTURES
from anabranch.catalogue.facts import Weights
from anabranch.catalogue.index import index
from anabranch.errors import UnknownName, nearest

_TIMMS = re.compile(r"^(hf[_-]hub:)?timm/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    name: str  # as asked
    architecture: str  # canonical
    weights: Weights | None  # where the name means one set of weights and not the architecture alone
    homonyms: tuple[Weights, ...]  # weights of another meaning that are printed under this very name


def find(name: str) -> Found:
    """What a name means, its case as printed: an architecture's, weights', or an alias of either.

    timm's users say whose it is, too: timm/NAME, hf_hub:timm/NAME. A canonical name always means its architecture,
    whoever else prints it. Raises UnknownName with the nearest three.
    """
    asked, name = name, _TIMMS.sub("", name)
    homonyms = tuple(entry for entry in index().weights if name in entry.homonyms)
    canonical = name if name in ARCHITECTURES else index().architectures.get(name)
    if canonical is not None:
        return Found(name=name, architecture=canonical, weights=None, homonyms=homonyms)
    for entry in index().weights:
        if name == entry.name or name in entry.aliases:
            return Found(name=name, architecture=entry.architecture, weights=entry, homonyms=homonyms)
    raise _unknown(asked)


def weights_of(architecture: str) -> list[Weights]:
    return [entry for entry in index().weights if entry.architecture == architecture]


def names_of(architecture: str) -> list[str]:
    """Every name that leads to this architecture, itself first, weights and their aliases last."""
    names = [architecture]
    names += [alias for alias, canonical in index().architectures.items() if canonical == architecture]
    for entry in weights_of(architecture):
        names += [entry.name, *entry.aliases]
    return names


def matching(pattern: str | None) -> dict[str, list[str]]:
    """Architectures with a name that fits the wildcard, in the table's order -> those of their names that fit.

    Case does not matter; a pattern without wildcards may stand anywhere in a name. Raises UnknownName where none fits.
    """
    if pattern is None:
        return {name: [name] for name in ARCHITECTURES}
    wildcard = pattern.lower() if any(sign in pattern for sign in "*?[") else f"*{pattern.lower()}*"
    fitting = {
        architecture: [name for name in names_of(architecture) if fnmatchcase(name.lower(), wildcard)]
        for architecture in ARCHITECTURES
    }
    found = {architecture: names for architecture, names in fitting.items() if names}
    if not found:
        raise _unknown(pattern)
    return found


def _unknown(name: str) -> UnknownName:
    known = [*(name for entry in index().weights for name in (*entry.aliases, entry.name)), *index().architectures]
    close = ", ".join(nearest(name, [*known, *ARCHITECTURES]))
    return UnknownName(f"nothing here is called {name!r}; the nearest are {close}. 'anabranch list' shows them all")
