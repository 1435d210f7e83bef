"""The zoo as a Markdown table, and the places in documents where generated tables stand."""

from __future__ import annotations

import re
from collections.abc import Iterable

from anabranch.arch import ARCHITECTURES
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


def filled(text: str, name: str, table: str) -> str:
    """`text` with `table` between its lines `<!-- NAME -->` and `<!-- /NAME -->`. Raises UsageError without these."""
    place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if len(place.findall(text)) != 1:
        raise UsageError(f"the document wants one pair of lines <!-- {name} --> and <!-- /{name} -->")
    return place.sub(lambda found: found[1] + table + found[2], text)
