"""What each format of an export costs: its size, how far it is from the net, and how long a picture takes.

    python benchmarks/formats.py [ROUNDS] [RESULTS.jsonl]

Wants all the engines in one environment, .venv-edge, which make test-edge makes. Random weights,
224 px, one picture at a time, one thread and all cores. The engines answer in turn, round after round, in an order
that rotates; medians and ranges of the rounds are printed and recorded. Of what runs on a GPU alone, the size.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from random_net import export

from anabranch.record import record
from anabranch.runtimes import ENGINES, Predictor, open_model

ARCHS = ("resnext50_32x4d", "seresnext50_32x4d", "res2net50_26w_4s")
THREADS = sorted({1, len(os.sched_getaffinity(0))})
TIMES = 3  # answers of a turn, of which the median counts


def take_turns(predictors: Mapping[str, Predictor], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of an answer, one a round."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    met: dict[str, list[float]] = {name: [] for name in predictors}
    names = list(predictors)
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            seconds = []
            for _ in range(TIMES):
                start = perf_counter()
                predictors[name].predict(pixels)
                seconds.append(perf_counter() - start)
            if number:  # the first round warms up
                met[name].append(1000 * statistics.median(seconds))
    return met


def measure(arch: str, folder: Path, rounds: int) -> dict[str, Any]:
    card = export(arch, folder, formats=[engine.format for engine in ENGINES.values()])
    rows: dict[str, Any] = {}
    for name in (name for name, engine in ENGINES.items() if engine.has_files):
        files = card.graphs[ENGINES[name].format]["f32"].files.values()
        rows[name] = {"mb": round(sum(file.size_bytes for file in files) / 1e6, 2)}
        if name in card.agreement:
            rows[name]["relative"] = card.agreement[name]["f32"].relative
    for threads in THREADS:
        predictors = {name: open_model(folder, engine=name, threads=threads) for name in card.agreement}
        for name, each in take_turns(predictors, rounds).items():
            told = {"median": statistics.median(each), "min": min(each), "max": max(each)}
            rows[name][f"ms, threads {threads}"] = {figure: round(value, 1) for figure, value in told.items()}
    for name in card.agreement:
        row = rows[name]
        latencies = "  ".join(f"{row[f'ms, threads {threads}']['median']:7.1f} ms" for threads in THREADS)
        print(f"{arch:20} {name:12} {row['mb']:7.1f} MB  {row['relative']:.1e}  {latencies}", flush=True)
    return {"arch": arch, "engines": rows}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    with tempfile.TemporaryDirectory() as folder:
        told = [measure(arch, Path(folder) / arch, rounds) for arch in ARCHS]
    if len(sys.argv) > 2:
        record(Path(sys.argv[2]), {"what": "formats", "rounds": rounds, "threads": THREADS, "nets": told})


if __name__ == "__main__":
    main()
