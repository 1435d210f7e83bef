from __future__ import annotations

import json
import runpy
import statistics
from pathlib import Path
from typing import Any

import pytest

from anabranch.arch import arch_from_json, arch_to_json
from anabranch.nets.count import count
from anabranch.report.ideas import TABLES, ideas_table, latest, teacher_table
from anabranch.report.zoo import filled

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results/ideas.jsonl"
BENCHMARK = runpy.run_path(str(ROOT / "benchmarks/ideas.py"))
NETS, RUNS, recipe = BENCHMARK["NETS"], BENCHMARK["RUNS"], BENCHMARK["recipe"]


def lines(net: str, *top1: float, distil: Any = None, **arch: Any) -> list[dict[str, Any]]:
    told = {"groups": 1, "splits": 1, "squeeze": 0, **arch}
    line = {"net": net, "arch": told, "distil": distil, "params": 1234, "macs": 5678, "seconds": 60.0}
    return [{**line, "seed": seed, "top1": each} for seed, each in enumerate(top1)]


PLAIN = lines("Plain", 90.0, 91.0, 92.0)
SCALED = lines("Scaled", 93.0, 93.0, 93.0, splits=4)
BOTH = lines("Both", 93.0, 94.0, 95.0, groups=2, squeeze=8)
TAUGHT = lines("Plain, taught", 94.0, 94.0, 94.0, distil={"labels": 0.25, "temperature": 2.0})


@pytest.mark.parametrize("place", TABLES)
def test_the_document_of_ideas_is_fresh(place: str) -> None:
    text = (ROOT / "docs/ideas.md").read_text(encoding="utf-8")
    assert text == filled(text, place, TABLES[place](latest(RESULTS).values())), "stale: run make docs"


def test_every_net_is_recorded_with_every_seed_as_the_recipe_stands_now() -> None:
    recorded = latest(RESULTS)
    assert recorded.keys() == set(RUNS), "run make ideas"
    for (net, seed), run in recorded.items():
        wanted = recipe(net, seed)
        assert run["arch"] == arch_to_json(wanted.spec())
        distil = wanted.distil and wanted.distil.model_dump(mode="json")
        assert distil == (distil and distil | run["distil"])  # a key that came later is as it was without
        assert (run["epochs"], run["tested"]) == (wanted.optimise.epochs, 10_000)


def test_the_recorded_costs_are_those_of_the_recorded_nets() -> None:
    recorded = latest(RESULTS).values()
    assert recorded, "run make ideas"
    for run in recorded:
        side_px = run["input_px"]
        counted = count(arch_from_json(run["arch"]), height=side_px, width=side_px, num_classes=10)
        assert (run["params"], run["macs"]) == counted


def test_the_recipe_expects_what_its_net_scored() -> None:
    top1 = [run["top1"] for (net, _), run in latest(RESULTS).items() if net == "ResNet"]
    measured = f"{statistics.mean(top1):.2f} ± {statistics.stdev(top1):.2f} % top-1"
    assert recipe("ResNet", 0).expect.startswith(measured)


def test_the_nets_cost_the_same_and_share_everything_but_their_arch() -> None:
    alone = {net: recipe(net, 0) for net in NETS if net != "ResNet, taught"}
    plain = alone["ResNet"]
    wanted = count(plain.spec(), height=28, width=28, num_classes=10).macs
    for read in alone.values():
        assert count(read.spec(), height=28, width=28, num_classes=10).macs == pytest.approx(wanted, rel=0.01)
        assert read.model_copy(update={"arch": plain.arch}) == plain
    assert recipe("ResNet, taught", 0).model_copy(update={"distil": None}) == plain


def test_a_line_holds_the_mean_the_spread_and_what_an_idea_adds_to_the_plain_net() -> None:
    first, second, third = ideas_table([*BOTH, *SCALED, *PLAIN, *TAUGHT]).splitlines()[2:]
    assert first == "| Plain |  | 1,234 | 5,678 | 3 | 91.00 ± 1.00 |  | 60 |"
    assert second == "| Scaled | scale 4 | 1,234 | 5,678 | 3 | 93.00 ± 0.00 | +2.00 ± 0.58 | 60 |"  # 1 / sqrt(3)
    assert third == (
        "| Both | cardinality 2, squeeze 8 | 1,234 | 5,678 | 3 | 94.00 ± 1.00 | +3.00 ± 0.82 | 60 |"  # sqrt(2 / 3)
    )


def test_a_taught_net_stands_beside_the_same_net_alone() -> None:
    alone, taught = teacher_table([*SCALED, *TAUGHT, *PLAIN]).splitlines()[2:]
    assert alone.startswith("| Plain | labels |")
    assert (
        "| 25% labels, the rest the teacher at temperature 2 | 1,234 | 5,678 | 3 | 94.00 ± 0.00 | +3.00 ± 0.58 |"
        in taught
    )


@pytest.mark.parametrize("place", TABLES)
def test_of_no_run_the_tables_say_so(place: str) -> None:
    assert TABLES[place]([]) == "No run is recorded.\n"


def test_of_two_runs_of_a_net_with_a_seed_the_last_one_counts(tmp_path: Path) -> None:
    file = tmp_path / "ideas.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in [*PLAIN, {**PLAIN[1], "top1": 50.0}]))
    assert latest(file)["Plain", 1]["top1"] == 50.0
    assert len(latest(file)) == 3
