"""`python -m parity.page FILE` writes the results of the last recorded runs into the document."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from anabranch.report.zoo import filled
from parity.models import ROWS, SIZES_PX, Row, size_name

RESULTS = Path(__file__).parents[2] / "results" / "parity.jsonl"


def latest(path: Path = RESULTS) -> dict[tuple[str, str], Mapping[str, Any]]:
    """(publisher, model) -> what was measured last of it."""
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines()) if path.exists() else ()
    return {(line["peer"], line["model"]): line for line in lines}


def parity_table(results: Mapping[tuple[str, str], Mapping[str, Any]], rows: Iterable[Row] = ROWS) -> str:
    """A line a net, in the order of the table of nets."""
    sizes = [size_name(size) for size in SIZES_PX]
    titles = ["publisher's code", "its net", "ours", "dialect", *(f"at {size}" for size in sizes), "back again"]
    titles += ["switched off"]
    table = f"| {' | '.join(titles)} |\n|{'---|' * 4}{'--:|' * len(sizes)}---|---|\n"
    return table + "".join(_line(row, results.get((row.peer, row.model)), sizes) for row in rows)


def _line(row: Row, result: Mapping[str, Any] | None, sizes: list[str]) -> str:
    if result is None:
        cells = [row.peer, f"`{row.model}`", row.called, row.dialect, *("not run" for _ in sizes), "", ""]
        return f"| {' | '.join(cells)} |\n"
    off = [f"{name}: {_difference(met)}" for name, met in result["switched_off"].items()]
    cells = [
        f"{row.peer} {result['peer_version']}",
        f"`{row.model}`",
        row.called,
        row.dialect,
        *(_difference(result["difference"][size]) for size in sizes),
        "exact" if result["back_again"] == 0 else _difference(result["back_again"]),
        ", ".join(off),
    ]
    return f"| {' | '.join(cells)} |\n"


def _difference(met: float | None) -> str:
    return "does not load" if met is None else f"{met:.1e}"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        document = Path(name)
        text = filled(document.read_text(encoding="utf-8"), "parity", parity_table(latest()))
        document.write_text(text, encoding="utf-8")
        print(f"renewed {document}")
