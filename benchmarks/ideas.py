"""What the family's ideas are worth at equal cost, and what a teacher is worth: recipes/ideas.toml over nets and seeds.

    python benchmarks/ideas.py RESULTS.jsonl [RUNS_AT_ONCE]

Each run is a process of its own, and a line once it has ended: its last epoch on all the test pictures. What is
recorded is not run again, and what was interrupted goes on where it was.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from anabranch.arch import arch_to_json
from anabranch.nets.count import count
from anabranch.record import record
from anabranch.report.ideas import latest
from anabranch.train.recipe import read_recipe
from anabranch.train.tables import Recipe

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes/ideas.toml"
PICTURES = 60_000  # of an epoch
SEEDS = 3  # of each net
MORE_SEEDS = {"ResNet": 6, "SE-ResNet": 6}  # SE-ResNet's spread is the widest: three left squeeze's worth open
TAUGHT = (
    "distil.teacher=src/anabranch/builtin/fashion-mnist",
    "distil.loss=kl",
    "distil.temperature=4.0",  # with a tenth of the labels: Hinton et al. 2015, section 2, leaves both to be tried
    "distil.labels=0.1",
)
NETS = {  # -> what each sets otherwise than the recipe; widths inside the blocks are what equal cost leaves
    "ResNet": (),
    "ResNeXt": ("arch.groups=8", "arch.group_width=32"),
    "SE-ResNet": ("arch.squeeze=8",),
    "Res2Net": ("arch.block=res2", "arch.splits=4", "arch.group_width=60"),
    "SE-Res2NeXt": ("arch.block=res2", "arch.splits=4", "arch.groups=2", "arch.group_width=36", "arch.squeeze=8"),
    "ResNet, taught": TAUGHT,
}


RUNS = [(net, seed) for net in NETS for seed in range(MORE_SEEDS.get(net, SEEDS))]


def recipe(net: str, seed: int) -> Recipe:
    return read_recipe(RECIPE, overrides=[*NETS[net], f"run.seed={seed}"])


def run(net: str, seed: int) -> dict[str, Any]:
    """Train to the end, and give what is to be recorded of it."""
    folder = ROOT / "runs/ideas" / f"{net.lower().replace(', ', '-')}-{seed}"
    overrides = [word for each in (*NETS[net], f"run.seed={seed}") for word in ("--set", each)]
    command = [sys.executable, "-m", "anabranch", "train", str(RECIPE), "--out", str(folder), "--resume", "--json"]
    subprocess.run([*command, *overrides], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    return measured(net, seed, history)


def measured(net: str, seed: int, history: list[dict[str, Any]]) -> dict[str, Any]:
    read, last = recipe(net, seed), history[-1]
    side_px = read.input.crop_px
    counted = count(read.spec(), height=side_px, width=side_px, num_classes=10)
    return {
        "what": "ideas",
        "net": net,
        "seed": seed,
        "arch": arch_to_json(read.spec()),
        "distil": read.distil and read.distil.model_dump(mode="json"),
        "params": counted.params,
        "macs": counted.macs,
        "input_px": side_px,
        "epochs": last["epoch"],
        "top1": last["top1"],
        "tested": last["pictures"],
        "seconds": last["seconds"],  # of all steps, and of the test after each epoch but the last
        "pictures_per_s": round(last["epoch"] * PICTURES / last["seconds"], 1),
    }


def main(results: Path, at_once: int) -> None:
    done = latest(results)
    missing = [each for each in RUNS if each not in done]
    pool = ThreadPoolExecutor(at_once)
    try:
        for ended in as_completed([pool.submit(run, *each) for each in missing]):
            line = record(results, {**ended.result(), "runs_at_once": at_once})
            print(f"{line['net']}, seed {line['seed']}: {line['top1']:.2f} % in {line['seconds']:.0f} s", flush=True)
    finally:
        pool.shutdown(cancel_futures=True)


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 1)
