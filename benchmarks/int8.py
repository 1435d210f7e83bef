"""What INT8 costs every 50-layer net of the family, trained on Fashion-MNIST, on both engines.

    python benchmarks/int8.py RESULTS.jsonl [NET...]

Each net, or those that are named, learns by recipes/fashion-mnist.toml for 300 batches of 128 pictures, by AdamW and
without what helps in long runs alone; is exported in f32 and INT8, as `anabranch export` does it, calibrated by 300
pictures that it learnt from, and held to 1 % of other answers on 5,000 more; and answers for all 10,000 test pictures.
A line for each: top-1 in f32 and in INT8, the share of answers that are the same, and the layers whose own rounding
costs most. A net whose export is refused is told and left out. What is recorded is not run again. With
OMP_NUM_THREADS=1 two halves of the nets run at once, into a file each. Wants dataset-fashion-mnist.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anabranch.agree import agreement, logits_of
from anabranch.arch import ARCHITECTURES
from anabranch.calibration import Pictures, draw
from anabranch.errors import ExportError
from anabranch.images.labelled import Labelled, open_labelled
from anabranch.images.preprocess import Preprocess
from anabranch.pack import pack_checkpoint
from anabranch.record import record
from anabranch.runtimes import open_model
from anabranch.runtimes.open import ENGINES

ROOT = Path(__file__).parents[1]
PICTURES = "/usr/share/datasets/fashion-mnist"
NETS = [name for name, arch in ARCHITECTURES.items() if arch.depths == (3, 4, 6, 3) and arch.block != "basic"]
STEPS = 300
MEASURED = 5000  # of 1,000 a net may have three in a thousand too many by chance
WORST = 3  # layers that are recorded


def train(arch: str, folder: Path) -> Path:
    settings = (
        f"arch={arch}",
        f"optimise.steps_per_epoch={STEPS}",
        "optimise.epochs=1",
        "optimise.warmup_epochs=0.2",
        "optimise.ema_decay=0.0",
        "optimise.label_smoothing=0.0",
        "optimise.optimiser=adamw",
        "optimise.nesterov=false",
        "optimise.lr=0.001",
        "optimise.weight_decay=0.02",
        "augment.crop=tested",
        "augment.pad_px=0",
        "augment.flip=0.0",
        "augment.erase=0.0",
    )
    words = [word for each in settings for word in ("--set", each)]
    done = subprocess.run(
        [sys.executable, "-m", "anabranch", "train", "recipes/fashion-mnist.toml", *words, "--out", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{arch} does not train:\n{done.stderr}")
    return folder / "model.safetensors"


def measure(arch: str, learnt: Labelled, asked: Labelled) -> dict[str, Any]:
    def shown(preprocess: Preprocess, labels: tuple[str, ...]) -> Pictures:
        return draw(learnt, preprocess, labels, name="Fashion-MNIST, train", measured=MEASURED).pictures

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "artefact"
        weights = train(arch, Path(place) / "run")
        layers = Path(place) / "layers.csv"
        pack_checkpoint(weights, folder, precisions=["f32", "int8"], pictures=shown, layers=layers)
        rows = list(csv.DictReader(layers.read_text(encoding="utf-8").splitlines()))
        card = open_model(folder).card
        pixels = np.stack([card.preprocess(asked.picture(index)) for index in range(len(asked))])
        wanted = logits_of(open_model(folder), pixels, batch=50)
        told: dict[str, Any] = {"top1_f32": top1(wanted, asked)}
        for engine in card.agreement:
            logits = logits_of(open_model(folder, engine=engine, precision="int8"), pixels, batch=50)
            same = agreement(logits, wanted)
            told[engine] = {
                "float_sums": card.graphs[ENGINES[engine].format]["int8"].float_sums,
                "top1": top1(logits, asked),
                "same_answer": round(100 - 100 * same.top1_flips / same.num_pictures, 2),
                "max_abs": same.max_abs,
                "largest_logit": same.largest_logit,
            }
    worst = sorted(rows, key=lambda row: -float(row["own error"]))[:WORST]
    told["worst_layers"] = [[row["layer"], row["operation"], float(row["own error"])] for row in worst]
    told["error_at_the_end"] = float(rows[-1]["grown error"])
    return {"what": "int8", "arch": arch, "steps": STEPS, "tested": len(asked), **told}


def top1(logits: np.ndarray[Any, np.dtype[np.float32]], asked: Labelled) -> float:
    return round(100 * float((logits.argmax(1) == asked.labels).mean()), 2)


def main(results: Path, nets: Sequence[str]) -> None:
    if unknown := set(nets) - set(NETS):
        sys.exit(f"{', '.join(unknown)}: not among {', '.join(NETS)}")
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    done = {line["arch"] for line in map(json.loads, lines)}
    learnt, asked = (open_labelled(PICTURES, split=split) for split in ("train", "test"))
    for arch in nets or NETS:
        if arch in done:
            continue
        try:
            line = record(results, measure(arch, learnt, asked))
        except ExportError as error:
            print(f"{arch}: not recorded: {error}", flush=True)
            continue
        both = ", ".join(
            f"{engine} {line[engine]['top1']:.2f} % ({line[engine]['same_answer']:.2f} % the same)"
            for engine in ("openvino", "onnxruntime")
        )
        print(f"{arch}: f32 {line['top1_f32']:.2f} %, int8 on {both}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
