"""The zoo as Markdown tables, and the places in documents where generated tables stand."""

from __future__ import annotations

import re
from collections.abc import Iterable

from anabranch.arch import ARCHITECTURES
from anabranch.catalogue.facts import Weights
from anabranch.catalogue.index import index
from anabranch.catalogue.summary import Row, row
from anabranch.errors import UsageError


def zoo_table(names: Iterable[str] = ARCHITECTURES) -> str:
    """A line an architecture: what was counted here beside what was published elsewhere."""
    titles = "| architecture | parameters | MACs | at px | published top-1 | weights of the highest |\n"
    return titles + "|---|--:|--:|--:|--:|---|\n" + "".join(_line(row(name)) for name in names)


def _line(each: Row) -> str:
    counted, claimed = each.counted, each.claimed()
    cells = [
        f"`{each.name}`",
        f"{counted.params:,}",
        f"{counted.macs:,}",
        str(counted.input_px),
        "" if not claimed else f"{claimed[-1][0]:.2f}",
        "" if not claimed else f"`{claimed[-1][1].tag}`",
    ]
    return f"| {' | '.join(cells)} |\n"


def weights_table(names: Iterable[str] = ARCHITECTURES) -> str:
    """A line a set of weights: who published it under which licence, and what was claimed of it."""
    titles = "| weights | publisher | licence | input px | published top-1 | at px | in | file's SHA-256 |\n"
    lines = (_weights_line(entry) for name in names for entry in row(name).weights)
    return titles + "|---|---|---|--:|--:|--:|---|---|\n" + "".join(lines)


def _weights_line(entry: Weights) -> str:
    claims = [claim for claim in entry.claims if claim.top1]
    best = max(claims, key=lambda claim: claim.top1 or 0.0) if claims else None
    cells = [
        f"`{entry.name}`",
        entry.publisher,
        f"**{entry.licence}**" if entry.non_commercial else entry.licence,
        str(entry.input.crop_px),
        f"{best.top1:.2f}" if best else "",
        str(best.input_px) if best else "",
        str(index().documents[best.document]) if best else "",
        f"`{entry.sha256}`" if entry.sha256 else "",
    ]
    return f"| {' | '.join(cells)} |\n"


TABLES = {"zoo": zoo_table, "weights": weights_table}  # name of a document's place -> what stands there


def filled(text: str, name: str, table: str) -> str:
    """`text` with `table` between its lines `<!-- NAME -->` and `<!-- /NAME -->`. Raises UsageError without these."""
    place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if len(place.findall(text)) != 1:
        raise UsageError(f"the document wants one pair of lines <!-- {name} --> and <!-- /{name} -->")
    return place.sub(lambda found: found[1] + table + found[2], text)
