"""How fast training goes: beside a plain loop over a DataLoader, and beside forward, backward and step alone.

    python benchmarks/training.py speed [ROUNDS] [RESULTS.jsonl]
    python benchmarks/training.py cost [ROUNDS] [RESULTS.jsonl]

speed: `anabranch train` and the plain loop take the same net through recipes/classic.toml on the same JPEGs:
random-resized bilinear crops and flips, a batch of 16 at 224 px, two workers, as many threads as there are cores. The
plain loop is what one writes with PyTorch and Pillow; as in timm, its loader hands over bytes, which are normalised a
batch at a time. "no net" is the pictures alone. Both take turns, round after round, each time in a process of its own.

cost: the loop's own, measured within one process: after each of its steps comes one of the same net on a batch that
lies there already. Its pictures are arrays in memory, so that no decoder counts. The median of the ratios counts, of
many steps, because on a shared machine two steps that follow one another differ by a tenth.

Printed and recorded: medians over all rounds, ranges, and the ratio of medians.
"""

from __future__ import annotations

import json
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from anabranch.images.labelled import LabelledFiles, open_labelled
from anabranch.images.preprocess import Preprocess
from anabranch.nets.net import build
from anabranch.record import record
from anabranch.train.data import Crops, batches, order
from anabranch.train.loop import train
from anabranch.train.optimise import optimiser
from anabranch.train.recipe import read_recipe
from anabranch.train.start import groups
from anabranch.train.tables import Augment, Recipe

ROOT = Path(__file__).parents[1]
NETS = ("resnext50_32x4d", "seresnext50_32x4d", "res2net50_26w_4s")
NO_NET = "no net"
LOOPS = {"the built-in model": "fashion-mnist", "resnext50_32x4d": "classic"}  # and its recipe
BATCH, SIDE_PX, CLASSES, WORKERS = 16, 224, 8, 2
STEPS, COST_STEPS, WARM_STEPS = 6, 24, 2
PHOTOS = (STEPS + WARM_STEPS) * BATCH * 5 // 4  # of which a fifth is held out
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


# ---- Pictures ------------------------------------------------------------------------------------------------------


def write_photos(folder: Path) -> None:
    """Class folders of JPEGs of 500 x 375 px, with detail at every scale and of some 100 kB, as photos have them."""
    rng = np.random.default_rng(0)
    for number in range(PHOTOS):
        picture = np.full((375, 500, 3), 128, np.float32)
        for cells in (2, 4, 8, 16, 32, 64, 128, 256):
            noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
            picture += (np.asarray(noise.resize((500, 375), Image.Resampling.BICUBIC), np.float32) - 128) / cells**0.5
        path = folder / f"class-{number % CLASSES}" / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path, quality=92)


def write_arrays(folder: Path) -> None:
    """The IDX files of as many grey pictures, of which the same few are tested on."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for prefix, count in (("train", (COST_STEPS + WARM_STEPS) * BATCH), ("t10k", BATCH)):
        pictures = rng.integers(0, 256, (count, SIDE_PX, SIDE_PX), np.uint8)
        head = struct.pack(">IIII", 0x803, *pictures.shape)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(head + pictures.tobytes())
        labels = (np.arange(count) % 10).astype(np.uint8)
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels.tobytes())


# ---- Against a plain loop ------------------------------------------------------------------------------------------


class Photos(Dataset[tuple[np.ndarray, int]]):
    """What a person writes: open, crop, flip, hand over."""

    def __init__(self, folder: Path):
        data = open_labelled(folder)
        assert isinstance(data, LabelledFiles)
        self.paths = [folder / name for name in data.names]
        self.labels = data.labels.tolist()
        self.augment = Augment()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        picture = Image.open(self.paths[index]).convert("RGB")
        picture = picture.crop(self._box(*picture.size)).resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR)
        if torch.rand(()) < self.augment.flip:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(picture).transpose(2, 0, 1).copy(), self.labels[index]

    def _box(self, width: int, height: int) -> tuple[int, int, int, int]:
        for _ in range(10):
            area = width * height * torch.empty(()).uniform_(*self.augment.scale).item()
            low, high = (np.log(ratio) for ratio in self.augment.aspect)
            aspect = float(np.exp(torch.empty(()).uniform_(low, high).item()))
            w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
            if 0 < w <= width and 0 < h <= height:
                left, top = int(torch.randint(width - w + 1, ())), int(torch.randint(height - h + 1, ()))
                return left, top, left + w, top + h
        side = min(width, height)
        return (width - side) // 2, (height - side) // 2, (width + side) // 2, (height + side) // 2


def plain_loop(net_name: str, photos: Path) -> Iterator[int]:
    """Yields the number of pictures after each step."""
    loader = DataLoader(Photos(photos), BATCH, shuffle=True, num_workers=WORKERS, drop_last=True)
    if net_name == NO_NET:
        yield from (len(pixels) for _ in range(3) for pixels, _ in loader)
        return
    net = build(net_name, num_classes=CLASSES).train()
    steps = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    mean, std = (torch.tensor(of).view(3, 1, 1) for of in (MEAN, STD))
    for pixels, labels in loader:
        x = (pixels.float() / 255 - mean) / std
        steps.zero_grad()
        loss = F.cross_entropy(net(x), labels)
        loss.backward()
        steps.step()
        loss.item()
        yield len(labels)


def our_loop(net_name: str, photos: Path) -> Iterator[int]:
    """The pictures alone, as the loop has them read; yields as `plain_loop`."""
    crops = Crops(open_labelled(photos), Preprocess(crop_px=SIDE_PX, resize_px=256, mean=MEAN, std=STD), Augment())
    for epoch in range(3):
        drawn = order(0, epoch, crops.data)
        drawn = drawn[: len(drawn) // BATCH * BATCH]
        for share in batches(crops, drawn, BATCH, first=0, rank=0, processes=1, workers=WORKERS):
            yield len(share.labels)


def pictures_per_s(ends: list[float], pictures: int) -> float:
    """From when the steps ended, without the first few."""
    spent = ends[-1] - ends[WARM_STEPS - 1]
    return pictures * (len(ends) - WARM_STEPS) / spent


def side_by_side(side: str, net_name: str, photos: Path, scratch: Path) -> float:
    """Pictures a second of one of the two loops, in this process."""
    ends: list[float] = []
    if side == "anabranch" and net_name != NO_NET:
        wanted = [f"arch={net_name}", f"optimise.batch={BATCH}", "optimise.epochs=1", f"run.workers={WORKERS}"]
        wanted.append(f"run.test_pictures={CLASSES}")
        recipe = read_recipe(ROOT / "recipes/classic.toml", pictures=photos, overrides=wanted)
        train(recipe, scratch, report=lambda told: ends.append(time.perf_counter()) if "step" in told else None)
    else:
        loop = our_loop if side == "anabranch" else plain_loop
        ends.extend(time.perf_counter() for _ in loop(net_name, photos))
    return pictures_per_s(ends, BATCH)


# ---- Beside the bare step ------------------------------------------------------------------------------------------


class Bare:
    """Forward, backward and step of a recipe's net, on one batch that lies there."""

    def __init__(self, recipe: Recipe, batch: int):
        self.net = build(recipe.spec(), num_classes=10).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = optimiser(groups(self.net, recipe.steps, 1.0), recipe.steps)
        side = recipe.input.crop_px
        self.x = torch.randn(batch, 3, side, side).contiguous(memory_format=torch.channels_last)
        self.labels = torch.arange(batch) % 10

    def step(self) -> None:
        self.optimiser.zero_grad()
        F.cross_entropy(self.net(self.x), self.labels, label_smoothing=0.1).backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()


def loop_and_bare(recipe_name: str, arrays: Path, scratch: Path) -> tuple[list[float], list[float]]:
    """Seconds of each step of the loop, and of each bare step that followed one."""
    photos = recipe_name == "classic"
    wanted = ["optimise.epochs=1", f"run.test_pictures={BATCH}"]
    if photos:
        wanted += ["data.test.split=test", f"input.resize_px={SIDE_PX}", "augment.crop=tested", "run.workers=0"]
        wanted.append(f"optimise.batch={BATCH}")
        wanted.append('data.class_names=["0","1","2","3","4","5","6","7","8","9"]')
    else:
        wanted.append(f"optimise.steps_per_epoch={COST_STEPS + WARM_STEPS}")
    recipe = read_recipe(ROOT / f"recipes/{recipe_name}.toml", pictures=arrays if photos else None, overrides=wanted)
    bare = Bare(recipe, recipe.steps.batch)
    seconds: tuple[list[float], list[float]] = ([], [])
    started = time.perf_counter()

    def after(told: Mapping[str, Any]) -> None:
        nonlocal started
        if "step" not in told:
            return
        ended = time.perf_counter()
        bare.step()
        seconds[0].append(ended - started)
        seconds[1].append(time.perf_counter() - ended)
        started = time.perf_counter()

    train(recipe, scratch, report=after)
    return seconds[0][WARM_STEPS:], seconds[1][WARM_STEPS:]


# ---- The table -----------------------------------------------------------------------------------------------------


def in_a_process_of_its_own(*call: str) -> Any:
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, str(Path(__file__)), "measure", *call, f"{scratch}/run"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def spread(figures: list[float], digits: int) -> dict[str, float]:
    return {
        "median": round(statistics.median(figures), digits),
        "min": round(min(figures), digits),
        "max": round(max(figures), digits),
    }


def speed_table(rounds: int, photos: Path) -> dict[str, Any]:
    write_photos(photos)
    speeds: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for net_name in (*NETS, NO_NET):
            for side in ("anabranch", "plain"):
                speed = in_a_process_of_its_own("speed", side, net_name, str(photos))
                speeds.setdefault((net_name, side), []).append(speed)
                print(f"{net_name}, {side}: {speed:.2f} pictures/s", file=sys.stderr, flush=True)
    told: dict[str, Any] = {}
    for net_name in (*NETS, NO_NET):
        ours, plain = (speeds[net_name, side] for side in ("anabranch", "plain"))
        middle, plainly = statistics.median(ours), statistics.median(plain)
        row = {"anabranch": spread(ours, 2), "plain": spread(plain, 2), "ratio": round(middle / plainly, 3)}
        told[net_name] = row
        print(f"{net_name:20} {middle:8.2f} pictures/s, plain {plainly:8.2f}: {middle / plainly:.2f}x")
    return {"what": "training speed", "pictures_per_s": told}


def cost_table(rounds: int, arrays: Path) -> dict[str, Any]:
    write_arrays(arrays)
    costs: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in LOOPS}
    for _ in range(rounds):
        for name, recipe_name in LOOPS.items():
            met = in_a_process_of_its_own("cost", recipe_name, str(arrays))
            for kept, seconds in zip(costs[name], met, strict=True):
                kept.extend(seconds)
    told: dict[str, Any] = {}
    for name, (loop, bare) in costs.items():
        own = statistics.median(a / b for a, b in zip(loop, bare, strict=True)) - 1
        row = {"loop_s": spread(loop, 4), "bare_s": spread(bare, 4), "own_cost": round(own, 4), "steps": len(loop)}
        told[name] = row
        print(f"{name:20} {statistics.median(loop):8.4f} s a step, bare {statistics.median(bare):.4f}: {own:+.1%}")
    return {"what": "training loop's own cost", "loop_over_bare": told}


def main() -> None:
    match sys.argv[1:]:
        case ["measure", "speed", side, net_name, photos, scratch]:
            print(json.dumps(side_by_side(side, net_name, Path(photos), Path(scratch))))
        case ["measure", "cost", recipe_name, arrays, scratch]:
            print(json.dumps(loop_and_bare(recipe_name, Path(arrays), Path(scratch))))
        case ["speed" | "cost" as what, *arguments]:
            rounds = int(arguments[0]) if arguments else 3
            with tempfile.TemporaryDirectory() as folder:
                told = (speed_table if what == "speed" else cost_table)(rounds, Path(folder) / "pictures")
            if len(arguments) > 1:
                settings = {"batch": BATCH, "size_px": SIDE_PX, "threads": torch.get_num_threads(), "workers": WORKERS}
                record(Path(arguments[1]), {**told, "rounds": rounds, **settings})
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
