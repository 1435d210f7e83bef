"""`anabranch split`: a set parted in train and val, or others, by lists."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from anabranch.errors import UsageError
from anabranch.images.duplicates import alike_groups
from anabranch.images.labelled import Labelled, open_labelled
from anabranch.images.split import split as write_lists
from anabranch.screen import print_json
from anabranch.verbs.progress import progress_bar


def run(
    data: str, *, out: str, shares: Sequence[str], labels: str | None, seed: int, together: bool, json: bool
) -> int:
    """`shares`: NAME=SHARE each. `together`: near-duplicates go to one part, for which every picture is decoded."""
    wanted = _shares(shares)
    pictures = open_labelled(Path(data), labels=Path(labels) if labels else None)
    groups = None
    if together:
        with progress_bar("comparing", len(pictures)) if sys.stderr.isatty() else nullcontext(lambda: None) as advance:
            groups = alike_groups(pictures, report=advance)
    lists = write_lists(pictures, Path(out), shares=wanted, seed=seed, together=groups)
    counts = {name: len(open_labelled(file)) for name, file in lists.items()}
    if json:
        parts = {name: {"list": str(file), "pictures": counts[name]} for name, file in lists.items()}
        print_json({"parts": parts, "seed": seed, "groups": None if groups is None else len(set(groups.tolist()))})
        return 0
    for name, file in lists.items():
        share = 100 * counts[name] / len(pictures)
        print(f"{file}: {counts[name]} pictures, {share:.1f} % where {100 * wanted[name]:g} % were wanted")
    if groups is not None:
        print(f"  near-duplicates kept together: {_kept_together(pictures, groups.tolist())}")
    return 0


def _shares(given: Sequence[str]) -> dict[str, float]:
    shares: dict[str, float] = {}
    for text in given:
        name, _, share = text.partition("=")
        try:
            number = float(share)
        except ValueError:
            raise UsageError(f"--share {text}: wanted NAME=SHARE, for instance --share val=0.2") from None
        if name in shares:
            raise UsageError(f"--share {text}: {name} has a share already")
        shares[name] = number
    return shares


def _kept_together(pictures: Labelled, groups: list[int]) -> str:
    distinct = len(set(groups))
    if distinct == len(pictures):
        return "there are none"
    return f"{len(pictures)} pictures are {distinct} that differ"
