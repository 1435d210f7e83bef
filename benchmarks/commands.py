"""How long the commands that a person waits for take, from a cold start.

    python benchmarks/commands.py [ROUNDS] [RESULTS.jsonl]

Each round runs every command once, in turn, so that a change of the machine's speed meets all of them. `python -c pass`
stands among them, for what the interpreter alone takes, and `classify` stands twice: with the compiled graph that its
first run kept, and with nothing kept. Printed and recorded: medians and ranges of wall and of processor time.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from anabranch.record import record

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "src/anabranch/builtin/samples/trouser.png"
ANABRANCH = str(Path(sys.executable).with_name("anabranch"))

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "anabranch list": [ANABRANCH, "list"],
    "anabranch classify, one sample": [ANABRANCH, "classify", str(SAMPLE)],
    "the same, nothing kept": [ANABRANCH, "classify", str(SAMPLE)],
}


def run(name: str, cache: Path) -> tuple[float, float]:
    """Wall and processor seconds of one run."""
    if name == "the same, nothing kept":
        cache = cache / str(time.monotonic_ns())
    before, started = os.times(), time.perf_counter()
    subprocess.run(
        COMMANDS[name], stdout=subprocess.DEVNULL, check=True, env=os.environ | {"ANABRANCH_CACHE": str(cache)}
    )
    wall, after = time.perf_counter() - started, os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as cache:
        for name in COMMANDS:  # files into the system's memory
            run(name, Path(cache))
        for _ in range(rounds):
            for name in COMMANDS:
                seconds[name].append(run(name, Path(cache)))
    figures = {}
    for name, runs in seconds.items():
        wall, cpu = ([round(each, 4) for each in sorted(column)] for column in zip(*runs, strict=True))
        figures[name] = {
            "wall_s": {"median": statistics.median(wall), "min": wall[0], "max": wall[-1]},
            "cpu_s": {"median": statistics.median(cpu), "min": cpu[0], "max": cpu[-1]},
        }
        print(f"{name:32} wall {statistics.median(wall):.3f} s ({wall[0]:.3f} to {wall[-1]:.3f})", end="   ")
        print(f"cpu {statistics.median(cpu):.3f} s ({cpu[0]:.3f} to {cpu[-1]:.3f})")
    if len(sys.argv) > 2:
        record(Path(sys.argv[2]), {"what": "commands, cold", "rounds": rounds, "commands": figures})


if __name__ == "__main__":
    main()
