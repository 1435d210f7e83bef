"""`python -m anabranch.report.measured RESULTS ROOT`: what benchmarks measured, as tables of the documents.

RESULTS is the folder of measurements, a file for each table: engines.jsonl by benchmarks/engines.py, and so on. A table
shows the last line of its file; that of INT8 all of them, one for each net.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from anabranch.report.zoo import filled

NOTHING = "Nothing is recorded.\n"


Runs = Sequence[Mapping[str, Any]]


def told(results: Path, what: str, table: Callable[[Runs], str]) -> str:
    """The table of a file of measurements."""
    path = results / f"{what}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return table([json.loads(line) for line in lines]) if lines else NOTHING


def formats_table(runs: Runs) -> str:
    """A line a net and engine; of one that did not answer, for it wants a GPU, the size."""
    run = runs[-1]
    threads = [f"ms, threads {count}" for count in run["threads"]]
    titles = ["net", "engine", "files, MB", "difference / largest logit", *threads]
    empty = ["", *("" for _ in threads)]
    rows = [
        [
            net["arch"],
            name,
            f"{row['mb']:.1f}",
            *([f"{row['relative']:.1e}", *(_spread(row[each]) for each in threads)] if "relative" in row else empty),
        ]
        for net in run["nets"]
        for name, row in net["engines"].items()
    ]
    return _table(titles, rows, texts=2) + _where(run)


def engines_table(runs: Runs) -> str:
    """A line a net and contender: milliseconds a batch, and at batch 1 the share of the machine's peak.

    Of other machines the ratios alone, as they were met last.
    """
    run = runs[-1]
    rows = []
    batches: list[str] = []
    for net in run["nets"]:
        measured = net["milliseconds"]
        for name, row in measured.items():
            if "gmacs_per_s" in row:
                continue
            batches = [key for key in row if key.startswith("batch ")]
            share = f"{row['share_of_peak']['batch 1']:.0%}"
            rows.append([net["arch"], name, *(_spread(row[batch]) for batch in batches), share])
    peaks = {
        name: [net["milliseconds"][name]["gmacs_per_s"] for net in run["nets"]]
        for name in run["nets"][0]["milliseconds"]
        if name.startswith("peak ")
    }
    told_peaks = "; ".join(f"{name} {min(each):.0f} to {max(each):.0f} GMAC/s" for name, each in peaks.items())
    titles = ["net", "contender", *(f"ms, {batch}" for batch in batches), "of the peak"]
    means = f"\nGeometric means at batch 1: {_ratios(run)}. {told_peaks}.\n"
    return _table(titles, rows, texts=2) + means + _where(run) + _elsewhere(runs, _ratios)


def speed_table(runs: Runs) -> str:
    """A line a net: median milliseconds for one picture, of the contenders that a user would choose among."""
    run = runs[-1]
    names = ["timm eager", "timm onnxruntime", "PaddleClas", "anabranch f32", "anabranch bf16", "anabranch int8"]
    met = [name for name in names if any(name in net["milliseconds"] for net in run["nets"])]

    def cell(row: Mapping[str, Any] | None) -> str:
        return "" if row is None else f"{row['batch 1']['median']:.1f}"

    rows = [[net["arch"], *(cell(net["milliseconds"].get(name)) for name in met)] for net in run["nets"]]
    return _table(["net", *met], rows, texts=1) + _where(run, told="Median milliseconds for one picture")


def _ratios(run: Mapping[str, Any]) -> str:
    return "; ".join(f"{name} {ratio:.2f}x" for name, ratio in run["ratios"].items())


def layers_table(runs: Runs) -> str:
    """A line a net and precision: milliseconds of each kind of layer, and its share of the machine's peak."""
    run = runs[-1]
    kinds = list(
        dict.fromkeys(kind for net in run["nets"] for met in net["precisions"].values() for kind in met["kinds"])
    )

    def cell(met: Mapping[str, Any]) -> str:
        return f"{met['milliseconds']:.1f}" + (f" ({met['share_of_peak']:.0%})" if met["share_of_peak"] else "")

    rows = [
        [
            net["arch"],
            precision,
            cell(met),
            *(cell(met["kinds"][kind]) if kind in met["kinds"] else "" for kind in kinds),
        ]
        for net in run["nets"]
        for precision, met in net["precisions"].items()
    ]
    return _table(["net", "precision", "ms", *kinds], rows, texts=2) + _where(run, told="Medians")


def folder_table(runs: Runs) -> str:
    """A line a precision, predictor and folder: pictures a second, share of the engine's own, memory; a cold start.

    Of other machines the shares alone, as they were met last.
    """
    run = runs[-1]
    rows = [
        [
            row["precision"],
            row["predictor"],
            row["pictures"],
            _spread(row["per_s"]),
            _spread(row["engine_alone_per_s"]),
            f"{row['share']:.0%}",
            f"{row['peak_mb']}",
            _spread(row["cold_start_s"], 2) if row["cold_start_s"] else "",
        ]
        for row in run["figures"]
    ]
    titles = ["precision", "predictor", "JPEGs", "pictures/s", "engine alone", "share", "peak MB", "one photo, cold, s"]
    levels = run["scaled_levels"]
    scaled = (
        "\n`--scaled-decode` changes the engine's pixels of the 12-megapixel photos by "
        f"{levels['mean']:.2f} grey levels in the mean and {levels['max']} at most.\n"
    )
    return _table(titles, rows, texts=3) + scaled + _where(run) + _elsewhere(runs, _shares)


def _shares(run: Mapping[str, Any]) -> str:
    each: dict[str, list[str]] = {}
    for row in run["figures"]:
        each.setdefault(f"{row['precision']} {row['predictor']}", []).append(f"{row['share']:.0%} ({row['pictures']})")
    return "; ".join(f"{name} {', '.join(shares)}" for name, shares in each.items())


def int8_table(runs: Runs) -> str:
    """A line a net: top-1 in f32 and in INT8 on each engine, how many answers are the same, and where it loses most.

    Of a net that was measured several times the last time counts.
    """
    engines = ("openvino", "onnxruntime")
    rows = []
    runs = list({net["arch"]: net for net in runs}.values())
    for net in runs:
        each = [cell for name in engines for cell in (f"{net[name]['top1']:.2f}", _same_answer(net[name]))]
        layer, operation, own = net["worst_layers"][0]
        place = f"{layer} ({operation}), {own:.1%}"
        rows.append([net["arch"], f"{net['top1_f32']:.2f}", *each, place, net["commit"][:7]])
    lost = max(net["top1_f32"] - net[name]["top1"] for net in runs for name in engines)
    same = min(net[name]["same_answer"] for net in runs for name in engines)
    columns = [title for name in engines for title in (f"int8, {name}", "the same answer")]
    titles = ["net", "f32", *columns, "worst layer", "at"]
    places = dict.fromkeys(f"{_processor(net['machine'])}, {net['date'][:10]}, at {net['commit'][:7]}" for net in runs)
    summary = (
        f"\nTop-1 in percent of {runs[-1]['tested']:,} pictures, after {runs[-1]['steps']} steps of training. INT8 "
        f"loses at most {lost:.2f} points, and gives at least {same:.2f} % of the pictures the same answer. Behind a "
        "layer: its own error over the length of its output. With *: with sums between blocks rounded, more answers "
        "than `export` allows were others, so that they are in f32. "
        f"{'; '.join(places)}.\n"
    )
    return _table(titles, rows, texts=1) + summary


def _same_answer(met: Mapping[str, Any]) -> str:
    """In percent, marked where the sums between blocks are not rounded. Older lines know of no such thing."""
    return f"{met['same_answer']:.2f}{'*' if met.get('float_sums') else ''}"


def probe_table(runs: Runs) -> str:
    """A line a net and way to train: seconds, how often they fit into an epoch of all of the net, and top-1."""
    run = runs[-1]
    rows = []
    for net in run["nets"]:
        seconds, title = net["seconds"], f"{net['net']}, {net['pictures']:,} photos"
        for name, ratio in _without_test(net):
            top1 = f"{net['top1'][name]:.1f} %" if name in net["top1"] else ""  # the same whatever was kept
            rows.append([title, name, _spread(seconds[name]), f"{ratio:.1f}x faster", top1])
        tuned = {name: top1 for name, top1 in net["top1"].items() if name not in net["epoch_over_probe"]}
        top1s = "; ".join(f"{top1:.1f} % ({name.removeprefix('fine-tuned, ')})" for name, top1 in tuned.items())
        rows.append([title, "an epoch of fine-tuning", _spread(seconds["epoch"]), "", top1s])
    titles = ["net and photos", "way", "seconds", "than an epoch", "top-1 on the test photos"]
    return _table(titles, rows, texts=2) + _where(run) + _elsewhere(runs, _faster_than_an_epoch)


def _faster_than_an_epoch(run: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{net['net']}, {net['pictures']:,} photos: "
        + ", ".join(f"{name} {ratio:.1f}x" for name, ratio in _without_test(net))
        for net in run["nets"]
    )


def _without_test(net: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Ways to probe, and how many of them fit into an epoch."""
    return [(name, ratio) for name, ratio in net["epoch_over_probe"].items() if not name.endswith(", and test")]


def training_table(runs: Runs) -> str:
    """A line a net: pictures a second of the loop and of a plain one."""
    run = runs[-1]
    rows = [
        [name, _spread(row["anabranch"], 2), _spread(row["plain"], 2), f"{row['ratio']:.2f}x"]
        for name, row in run["pictures_per_s"].items()
    ]
    titles = ["net", "`anabranch train`, pictures/s", "plain loop, pictures/s", "ratio"]
    return _table(titles, rows, texts=1) + _where(run)


def training_cost_table(runs: Runs) -> str:
    """A line a net: what the loop adds to forward, backward and step."""
    run = runs[-1]
    rows = [
        [name, _spread(row["loop_s"], 3), _spread(row["bare_s"], 3), f"{row['own_cost']:.1%}", f"{row['steps']}"]
        for name, row in run["loop_over_bare"].items()
    ]
    titles = ["net", "a step of the loop, s", "forward, backward and step alone, s", "the loop's own", "steps"]
    return _table(titles, rows, texts=1) + _where(run)


def _spread(figure: Mapping[str, float], digits: int = 1) -> str:
    median, least, most = (f"{figure[name]:.{digits}f}" for name in ("median", "min", "max"))
    return f"{median} ({least} to {most})"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int) -> str:
    head = f"| {' | '.join(titles)} |\n|{'---|' * texts}{'--:|' * (len(titles) - texts)}\n"
    return head + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _where(run: Mapping[str, Any], *, told: str = "Medians and ranges") -> str:
    machine = run["machine"]
    rounds = f"{run['rounds']} round{'' if run['rounds'] == 1 else 's'}"
    return (
        f"\n{told} of {rounds} on {machine['cores']} cores of {_processor(machine)}, "
        f"{run['date'][:10]}, at {run['commit']}.\n"
    )


def _elsewhere(runs: Runs, tell: Callable[[Mapping[str, Any]], str]) -> str:
    """A line for each other kind of machine than the last run's, of the last run there."""
    others = {_processor(run["machine"]): run for run in runs}
    del others[_processor(runs[-1]["machine"])]
    return "".join(
        f"\nOn {processor}, {run['date'][:10]}, at {run['commit']}: {tell(run)}.\n" for processor, run in others.items()
    )


def _processor(machine: Mapping[str, Any]) -> str:
    """Its name and, of those instructions on which speed depends, what it has; lines before 2026-11-26 do not say."""
    return " with ".join(
        [machine["processor"], *([", ".join(found)] if (found := machine.get("instructions")) else [])]
    )


TABLES = {  # of each document, under the name of its file of measurements
    "README.md": {"engines": speed_table},
    "docs/deployment.md": {
        "engines": engines_table,
        "layers": layers_table,
        "formats": formats_table,
        "int8": int8_table,
        "folder": folder_table,
    },
    "docs/training.md": {"probe": probe_table, "training-speed": training_table, "training-cost": training_cost_table},
}


if __name__ == "__main__":
    results, root = map(Path, sys.argv[1:])
    for name, tables in TABLES.items():
        document = root / name
        text = document.read_text(encoding="utf-8")
        for place, table in tables.items():
            text = filled(text, place, told(results, place, table))
        document.write_text(text, encoding="utf-8")
        print(f"renewed {document}")
