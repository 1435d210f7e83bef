"""How much faster a probe is than one epoch of fine-tuning, of the same net on the same pictures, and how accurate.

    python benchmarks/probe.py [ROUNDS] [RESULTS.jsonl] [PHOTOS]

Fashion-MNIST is parted: a net with the spec of the built-in model learns five classes and has never seen the other
five, of which 300 pictures each, PNGs in class folders, are then learnt by a probe and by fine-tuning, and 300 each are
tested on. A ResNeXt-50 at 224 px, with random weights, does the same with PHOTOS in all, or 1,000, and tests 20 of
each class, for its time's sake: its accuracy says only how far one gets without any weights.

Fine-tuning is recipes/finetune.toml, in one process for each core. Its seconds are the run's own, without its start: of
the first epoch without its test; and of the second with the test of the first. A probe's are its features, in each
precision that the processor computes, and its head: with nothing kept, so that the backbone is exported first (in INT8
with its calibration); with that kept; and those with the test, whose pictures are looked at in f32. Each round runs
everything once, in turn; medians and ranges are printed and recorded. Wants Linux.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anabranch.images.labelled import open_labelled
from anabranch.record import record
from anabranch.runtimes.openvino import offered_precisions
from anabranch.train.recipe import read_recipe

ROOT = Path(__file__).parents[1]
PICTURES = "/usr/share/datasets/fashion-mnist"
BUILTIN = ROOT / "recipes/fashion-mnist.toml"
SEEN, NEW = (0, 1, 3, 5, 8), (2, 4, 6, 7, 9)  # T-shirt, trouser, dress, sandal, bag; pullover, coat, shirt, two shoes
PRECISIONS = offered_precisions()
CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Net:
    name: str
    pictures: Path
    settings: Sequence[str]  # of both recipes
    epochs: int  # of fine-tuning that are timed; from two on, a test is timed too
    figures: dict[str, list[float]] = field(default_factory=dict)  # seconds, one a round
    top1: dict[str, float] = field(default_factory=dict)  # percent, of the last round


def write_pictures(folder: Path, classes: Sequence[int], *, learnt: int, tested: int) -> Path:
    """The first of each class, as PNGs in class folders."""
    for split, part, count in (("train", "train", learnt), ("test", "val", tested)):
        data = open_labelled(PICTURES, split=split)
        for label in classes:
            place = folder / part / str(label)
            place.mkdir(parents=True)
            for index in np.flatnonzero(data.labels == label)[:count]:
                Image.fromarray(data.picture(index)).save(place / f"{index:05}.png")
    return folder


def train(recipe: Path, data: Path, scratch: Path, settings: Sequence[str], *, processes: int = 1) -> list[Any]:
    """The history of a run, whose folder is scratch/run."""
    shutil.rmtree(scratch / "run", ignore_errors=True)
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    command = [sys.executable, *launch, "-m", "anabranch", "train", str(recipe), "--data", str(data)]
    overrides = [word for each in settings for word in ("--set", each)]
    threads = {"OMP_NUM_THREADS": "1"} if processes > 1 else {}
    subprocess.run(
        [*command, *overrides, "--out", str(scratch / "run")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if processes > 1 else None,
        check=True,
        env=os.environ | {"ANABRANCH_CACHE": str(scratch / "cache")} | threads,
    )
    return [json.loads(line) for line in (scratch / "run/history.jsonl").read_text().splitlines()]


def probe(net: Net, scratch: Path, precision: str) -> Any:
    settings = [*net.settings, f"probe.precision={precision}"]
    return train(ROOT / "recipes/probe.toml", net.pictures, scratch, settings)[0]


def time_probe(net: Net, scratch: Path, precision: str) -> None:
    """With nothing kept, with the backbone's export kept, and with the features kept too."""
    name = f"probe in {precision}"
    shutil.rmtree(scratch / "cache", ignore_errors=True)
    met = probe(net, scratch, precision)
    note(net, f"{name}, exported first", met["features_seconds"] + met["head_seconds"])
    shutil.rmtree(scratch / "cache/probe/features")
    met, again = probe(net, scratch, precision), probe(net, scratch, precision)
    note(net, f"{name}: features", met["features_seconds"])
    note(net, f"{name}: head", met["head_seconds"])
    note(net, name, met["features_seconds"] + met["head_seconds"])
    note(net, f"{name}, and test", met["seconds"])
    note(net, f"{name}, features kept", again["seconds"])
    net.top1[name] = met["top1"]


def finetune(net: Net, scratch: Path, *, epochs: int) -> list[Any]:
    settings = [*net.settings, f"optimise.epochs={epochs}"]
    return train(ROOT / "recipes/finetune.toml", net.pictures, scratch, settings, processes=CORES)


def time_epoch(net: Net, scratch: Path) -> None:
    """A line of the history says the seconds up to its epoch's last step, before its test."""
    lines = finetune(net, scratch, epochs=net.epochs)
    ends = [line["seconds"] for line in lines]
    note(net, "epoch", ends[0])
    if len(ends) > 1:
        note(net, "epoch, and test", ends[1] - ends[0])
    net.top1[f"fine-tuned, epoch {len(lines)} of {len(lines)}"] = lines[-1]["top1"]


def note(net: Net, figure: str, seconds: float) -> None:
    net.figures.setdefault(figure, []).append(round(seconds, 2))
    print(f"{net.name}, {figure}: {seconds:.2f} s", file=sys.stderr, flush=True)


def fashion(scratch: Path) -> Net:
    """The net that has learnt the other classes."""
    seen = write_pictures(scratch / "seen", SEEN, learnt=1200, tested=100)
    names = json.dumps([str(label) for label in SEEN])
    settings = [f"data.class_names={names}", "optimise.epochs=2", "optimise.ema_decay=0.0"]
    *_, last = train(BUILTIN, seen, scratch, settings, processes=CORES)
    print(f"backbone: top-1 {last['top1']:.2f} % on its own classes", flush=True)
    weights = shutil.copy(scratch / "run/model.safetensors", scratch / "backbone.safetensors")
    recipe = read_recipe(BUILTIN)
    spec = ", ".join(f"{key} = {json.dumps(value)}" for key, value in recipe.arch.items())
    given = {"crop_px": 28, "resize_px": 28, "mean": list(recipe.input.mean), "std": list(recipe.input.std)}
    sized = [f"input.{key}={value}" for key, value in given.items()]
    pictures = write_pictures(scratch / "new", NEW, learnt=300, tested=300)
    return Net("built-in's spec at 28 px", pictures, [f"arch={{{spec}}}", f"start.weights={weights}", *sized], epochs=2)


def resnext(scratch: Path, photos: int) -> Net:
    pictures = write_pictures(scratch / "few", NEW, learnt=photos // len(NEW), tested=20)
    return Net("resnext50_32x4d at 224 px", pictures, ["start.weights=random"], epochs=1)


def tell(net: Net) -> dict[str, Any]:
    """Print a net's figures, and give them as they are recorded."""
    figures = {
        name: {"median": statistics.median(each), "min": min(each), "max": max(each)}
        for name, each in net.figures.items()
    }
    learnt = sum(1 for _ in net.pictures.glob("train/*/*.png"))
    print(f"{net.name}, {learnt:,} pictures")
    for name, each in figures.items():
        print(f"  {name:32} {each['median']:8.2f} s ({each['min']:.2f} to {each['max']:.2f})")
    ratios = {}
    ways = [f"probe in {each}{more}" for each in PRECISIONS for more in ("", ", exported first", ", and test")]
    for name in ways:
        epoch = figures.get("epoch, and test" if name.endswith("test") else "epoch")
        if epoch:
            ratios[name] = ratio = round(epoch["median"] / figures[name]["median"], 2)
            print(f"  an epoch takes {ratio:.1f} times as long as the {name}")
    for name, top1 in net.top1.items():
        print(f"  top-1 {top1:6.2f} %  {name}")
    return {"net": net.name, "pictures": learnt, "seconds": figures, "epoch_over_probe": ratios, "top1": net.top1}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    photos = int(sys.argv[3]) if len(sys.argv) > 3 else 1000
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        nets = {scratch / "small": fashion(scratch), scratch / "large": resnext(scratch, photos)}
        for place in nets:
            place.mkdir()
        for _ in range(rounds):
            for place, net in nets.items():
                for precision in PRECISIONS:
                    time_probe(net, place, precision)
                time_epoch(net, place)
        small = nets[scratch / "small"]
        small.top1["fine-tuned, epoch 10 of 10"] = finetune(small, scratch, epochs=10)[-1]["top1"]
        told = [tell(net) for net in nets.values()]
    if len(sys.argv) > 2:
        record(Path(sys.argv[2]), {"what": "probe against an epoch", "rounds": rounds, "nets": told})


if __name__ == "__main__":
    main()
