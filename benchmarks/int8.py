"""What INT8 costs every 50-layer net of the family, trained on Fashion-MNIST, on both engines.

    python benchmarks/int8.py RESULTS.jsonl [STEPS]

Each net learns by recipes/fashion-mnist.toml for STEPS batches, 300 of 128 pictures where nothing else is said, one
process for each core; is exported in f32 and INT8, calibrated by 300 pictures that it learnt from; and answers for all
10,000 test pictures. A line for each net: top-1 in f32 and in INT8, the share of answers that are the same, and the
layers whose own rounding costs most. What is recorded is not run again. Wants dataset-fashion-mnist.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from anabranch.agree import agreement, logits_of
from anabranch.arch import ARCHITECTURES
from anabranch.calibration import draw
from anabranch.images.labelled import Labelled, open_labelled
from anabranch.images.preprocess import Preprocess
from anabranch.pack import Pictures, pack_checkpoint
from anabranch.record import record
from anabranch.runtimes import open_model

ROOT = Path(__file__).parents[1]
PICTURES = "/usr/share/datasets/fashion-mnist"
NETS = [name for name, arch in ARCHITECTURES.items() if arch.depths == (3, 4, 6, 3) and arch.block != "basic"]
CORES = len(os.sched_getaffinity(0))
EPOCHS = 2
WORST = 3  # layers that are recorded


def train(arch: str, folder: Path, steps: int) -> Path:
    settings = (
        f"arch={arch}",
        f"optimise.epochs={EPOCHS}",
        f"optimise.steps_per_epoch={steps // EPOCHS}",
        "optimise.warmup_epochs=0.5",
        "optimise.ema_decay=0.0",
    )
    words = [word for each in settings for word in ("--set", each)]
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(CORES), "-m", "anabranch", "train"]
    done = subprocess.run(
        [sys.executable, *launch, "recipes/fashion-mnist.toml", *words, "--out", str(folder)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{arch} does not train:\n{done.stderr}")
    return folder / "model.safetensors"


def measure(arch: str, steps: int, learnt: Labelled, asked: Labelled) -> dict[str, Any]:
    def shown(preprocess: Preprocess, labels: tuple[str, ...]) -> Pictures:
        return draw(learnt, preprocess, labels, name="Fashion-MNIST, train").pictures

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "artefact"
        weights = train(arch, Path(place) / "run", steps)
        layers = Path(place) / "layers.csv"
        pack_checkpoint(weights, folder, precisions=["f32", "int8"], pictures=shown, max_flips=1.0, layers=layers)
        rows = list(csv.DictReader(layers.read_text(encoding="utf-8").splitlines()))
        card = open_model(folder).card
        pixels = np.stack([card.preprocess(asked.picture(index)) for index in range(len(asked))])
        wanted = logits_of(open_model(folder), pixels, batch=50)
        told: dict[str, Any] = {"top1_f32": top1(wanted, asked)}
        for engine in card.agreement:
            logits = logits_of(open_model(folder, engine=engine, precision="int8"), pixels, batch=50)
            same = agreement(logits, wanted)
            told[engine] = {
                "top1": top1(logits, asked),
                "same_answer": round(100 - 100 * same.top1_flips / same.num_pictures, 2),
                "max_abs": same.max_abs,
                "largest_logit": same.largest_logit,
            }
    worst = sorted(rows, key=lambda row: -float(row["own error"]))[:WORST]
    told["worst_layers"] = [[row["layer"], row["operation"], float(row["own error"])] for row in worst]
    told["error_at_the_end"] = float(rows[-1]["grown error"])
    return {"what": "int8", "arch": arch, "steps": steps, "tested": len(asked), **told}


def top1(logits: np.ndarray[Any, np.dtype[np.float32]], asked: Labelled) -> float:
    return round(100 * float((logits.argmax(1) == asked.labels).mean()), 2)


def main(results: Path, steps: int) -> None:
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    done = {line["arch"] for line in map(json.loads, lines)}
    learnt, asked = (open_labelled(PICTURES, split=split) for split in ("train", "test"))
    for arch in NETS:
        if arch not in done:
            line = record(results, measure(arch, steps, learnt, asked))
            both = ", ".join(
                f"{engine} {line[engine]['top1']:.2f} % ({line[engine]['same_answer']:.2f} % the same)"
                for engine in ("openvino", "onnxruntime")
            )
            print(f"{arch}: f32 {line['top1_f32']:.2f} %, int8 on {both}", flush=True)


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 300)
