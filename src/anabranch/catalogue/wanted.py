"""What a person wants of weights or of their net, and the rows that have it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from anabranch.catalogue.facts import Weights
from anabranch.catalogue.index import index
from anabranch.catalogue.summary import Row
from anabranch.errors import UnknownName, UsageError, nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """`None` and `False` ask nothing. Names mind no case and may hold wildcards."""

    licence: str | None = None  # SPDX
    commercial: bool = False  # only what a known licence allows to use commercially
    source: str | None = None  # who published the weights
    max_params: float | None = None  # millions
    max_macs: float | None = None  # 10^9, at the size of counts.csv
    min_top1: float | None = None  # percent, by any published claim


class _Filter(NamedTuple):
    asked: str  # as it is asked on the command line
    passes: Callable[[Row, Weights | None], bool]  # None: an architecture without weights


def narrowed(rows: list[Row], wanted: Wanted) -> list[Row]:
    """The rows that pass, each with those of its weights that do.

    Raises UnknownName for a licence or publisher that nothing here has, UsageError where nothing passes.
    """
    filters = _filters(wanted)
    kept = _passing(rows, filters)
    if kept:
        return kept
    hints = []
    for each in filters:
        others = [other for other in filters if other is not each]
        hints.append(f"{len(_passing(rows, others))} without {each.asked}")
    asked = " ".join(each.asked for each in filters)
    raise UsageError(f"none of {len(rows)} passes {asked}; there would be {', '.join(hints)}")


def _passing(rows: list[Row], filters: list[_Filter]) -> list[Row]:
    kept = []
    for row in rows:
        candidates: list[Weights | None] = [*row.weights] or [None]
        passing = [each for each in candidates if all(wants.passes(row, each) for wants in filters)]
        if passing:
            kept.append(row._replace(weights=[each for each in passing if each]))
    return kept


def _filters(wanted: Wanted) -> list[_Filter]:
    filters = []
    if wanted.licence is not None:
        fits = _one_of(wanted.licence, {entry.licence for entry in index().weights}, "licence")
        filters.append(
            _Filter(f"--licence {wanted.licence}", lambda _, entry: entry is not None and fits(entry.licence))
        )
    if wanted.commercial:
        filters.append(_Filter("--commercial", lambda _, entry: entry is not None and _commercial(entry)))
    if wanted.source is not None:
        by = _one_of(wanted.source, {entry.publisher for entry in index().weights}, "source")
        filters.append(_Filter(f"--source {wanted.source}", lambda _, entry: entry is not None and by(entry.publisher)))
    filters += _limits(wanted.max_params, wanted.max_macs, wanted.min_top1)
    return filters


def _commercial(entry: Weights) -> bool:
    return not entry.non_commercial and entry.licence != "LicenseRef-unknown"


def _limits(max_params: float | None, max_macs: float | None, min_top1: float | None) -> list[_Filter]:
    filters = []
    if max_params is not None:
        filters.append(_Filter(f"--max-params {max_params:g}", lambda row, _: row.counted.params <= max_params * 1e6))
    if max_macs is not None:
        filters.append(_Filter(f"--max-macs {max_macs:g}", lambda row, _: row.counted.macs <= max_macs * 1e9))
    if min_top1 is not None:
        filters.append(
            _Filter(
                f"--min-top1 {min_top1:g}",
                lambda _, entry: entry is not None and any((claim.top1 or 0) >= min_top1 for claim in entry.claims),
            )
        )
    return filters


def _one_of(pattern: str, known: set[str], what: str) -> Callable[[str], bool]:
    """Whether a name fits the pattern. Raises UnknownName where none of those known does."""

    def fits(name: str) -> bool:
        return fnmatchcase(name.lower(), pattern.lower())

    if not any(map(fits, known)):
        close = ", ".join(nearest(pattern, sorted(known), count=len(known)))
        raise UnknownName(f"no weights have the {what} {pattern!r}; there are {close}")
    return fits
