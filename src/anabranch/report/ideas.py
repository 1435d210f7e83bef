"""`python -m anabranch.report.ideas RESULTS.jsonl FILE`: what the family's ideas and a teacher are worth, as tables.

The results are those of benchmarks/ideas.py: a line a run.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anabranch.report.zoo import filled


@dataclass(frozen=True)
class Net:
    """A net's recorded runs, which differ in nothing but the seed."""

    name: str
    runs: tuple[Mapping[str, Any], ...]

    @property
    def ideas(self) -> list[str]:
        arch = self.runs[0]["arch"]
        said = {"cardinality": (arch["groups"], 1), "scale": (arch["splits"], 1), "squeeze": (arch["squeeze"], 0)}
        return [f"{idea} {number}" for idea, (number, none) in said.items() if number != none]

    @property
    def taught(self) -> bool:
        return self.runs[0]["distil"] is not None

    @property
    def learns_from(self) -> str:
        distil = self.runs[0]["distil"]
        if distil is None:
            return "labels"
        return f"{distil['labels']:.0%} labels, the rest the teacher at temperature {distil['temperature']:g}"

    @property
    def top1(self) -> list[float]:
        return [run["top1"] for run in self.runs]

    @property
    def seconds(self) -> float:
        return statistics.mean(float(run["seconds"]) for run in self.runs)

    @property
    def spread(self) -> float:
        """The runs' sample standard deviation; of one run it is not known."""
        return statistics.stdev(self.top1) if len(self.runs) > 1 else math.nan

    def above(self, other: Net) -> str:
        """The difference of the means, and its standard error."""
        error = math.hypot(*(net.spread / math.sqrt(len(net.runs)) for net in (self, other)))
        return f"{statistics.mean(self.top1) - statistics.mean(other.top1):+.2f} ± {error:.2f}"


def latest(results: Path) -> dict[tuple[str, int], Mapping[str, Any]]:
    """(net, seed) -> its run that was recorded last."""
    lines = map(json.loads, results.read_text(encoding="utf-8").splitlines()) if results.exists() else ()
    return {(line["net"], line["seed"]): line for line in lines}


def nets(runs: Collection[Mapping[str, Any]]) -> list[Net]:
    """Untaught nets first, the plain one at their head, and those of several ideas after those of one."""
    names = {run["net"] for run in runs}
    found = [Net(name, tuple(run for run in runs if run["net"] == name)) for name in names]
    return sorted(found, key=lambda net: (net.taught, len(net.ideas), net.ideas))


def ideas_table(runs: Collection[Mapping[str, Any]]) -> str:
    """A line a net; what it gained is against the net of no idea."""
    return _table(["idea"], [net for net in nets(runs) if not net.taught], lambda net: [", ".join(net.ideas)])


def teacher_table(runs: Collection[Mapping[str, Any]]) -> str:
    """The net that was taught, alone and taught."""
    found = nets(runs)
    archs = [net.runs[0]["arch"] for net in found if net.taught]
    pair = [net for net in found if net.runs[0]["arch"] in archs]
    return _table(["learns from"], pair, lambda net: [net.learns_from])


def _table(titles: list[str], found: list[Net], cells: Callable[[Net], list[str]]) -> str:
    if not found:
        return "No run is recorded.\n"
    titles = ["net", *titles, "parameters", "MACs", "runs", "top-1", "against the first", "seconds a run"]
    table = f"| {' | '.join(titles)} |\n|---|---|{'--:|' * (len(titles) - 2)}\n"
    for net in found:
        line = [
            net.name,
            *cells(net),
            f"{net.runs[0]['params']:,}",
            f"{net.runs[0]['macs']:,}",
            str(len(net.runs)),
            f"{statistics.mean(net.top1):.2f} ± {net.spread:.2f}",
            "" if net is found[0] else net.above(found[0]),
            f"{net.seconds:.0f}",
        ]
        table += f"| {' | '.join(line)} |\n"
    return table


TABLES = {"ideas": ideas_table, "teacher": teacher_table}


if __name__ == "__main__":
    results, document = map(Path, sys.argv[1:])
    text = document.read_text(encoding="utf-8")
    for place, table in TABLES.items():
        text = filled(text, place, table(latest(results).values()))
    document.write_text(text, encoding="utf-8")
    print(f"renewed {document}")
