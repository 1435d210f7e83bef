"""The shipped recipes: what they say of themselves, what their publishers say of them, and that each of them runs."""

from __future__ import annotations

import json
import math
import re
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import ANY

import numpy as np
import pytest
from PIL import Image

from anabranch.arch import ARCHITECTURES
from anabranch.catalogue.find import find, weights_of
from anabranch.nets.load import load_trained
from anabranch.train.optimise import scaled_lr
from anabranch.train.recipe import read_recipe
from anabranch.verbs import train

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
BY_NAME = {path.stem: path for path in RECIPES}


class Published(NamedTuple):
    epochs: int
    batch: int
    lr: float  # at that batch, at its highest
    weight_decay: float
    arch: str
    top1: float
    weights: str | None  # that have it, where the catalogue knows them


PUBLISHED = {
    # torchvision references/classification/README.md: the script's defaults but for the epochs, 8 x 32
    "classic": Published(100, 256, 0.1, 1e-4, "resnext50_32x4d", 77.62, "resnext50_32x4d.tv_in1k"),
    # PaddleClas ppcls/configs/ImageNet: 4 x 64
    "paddleclas-plain": Published(120, 256, 0.1, 1e-4, "resnext50_32x4d", 77.75, "resnext50_32x4d.paddle_in1k"),
    "paddleclas-vd": Published(200, 256, 0.1, 1e-4, "resnext50d_32x4d", 79.56, "resnext50d_32x4d.paddle_in1k"),
    # DeepLearningExamples PyTorch/Classification/ConvNets/configs.yml, resnext101-32x4d
    "nvidia": Published(90, 1024, 1.024, 6.103515625e-05, "resnext101_32x4d", 79.4, None),
    # pytorch/vision issue 3995, "new recipe", which the weights name as theirs: 8 x 128
    "torchvision-600": Published(600, 1024, 0.5, 2e-5, "resnext50_32x4d", 81.198, "resnext50_32x4d.tv2_in1k"),
    # Wightman et al. 2021, table 2
    "rsb-a1": Published(600, 2048, 5e-3, 0.01, "resnext50_32x4d", 80.53, "resnext50_32x4d.a1_in1k"),
    "rsb-a2": Published(300, 2048, 5e-3, 0.02, "resnext50_32x4d", 80.44, "resnext50_32x4d.a2_in1k"),
    "rsb-a3": Published(100, 2048, 8e-3, 0.02, "resnext50_32x4d", 79.26, "resnext50_32x4d.a3_in1k"),
    # PaddleClas, "knowledge distillation", the rows of the two stages; the second one's epochs are another student's
    "ssld-stage1": Published(360, 1024, 0.4, 4e-5, "res2net200d_26w_4s_paddle", 84.82, None),
    "ssld-stage2": Published(
        30, 1024, 0.004, 4e-5, "res2net200d_26w_4s_paddle", 85.13, "res2net200d_26w_4s_paddle.ssld_in1k"
    ),
    # FixRes README.md, 8 x 64, and imnet_finetune/train.py, which makes 8e-3 of the command's 1e-3
    "fixres": Published(56, 512, 8e-3, 1e-4, "resnet50", 79.0, "resnet50.fb_fixres_in1k"),
    # Xie et al. 2017, section 5.3 and table 7: 100 - 17.77
    "cifar100": Published(300, 128, 0.1, 5e-4, "resnext29_8x64d", 82.23, None),
}

NONE: dict[str, Any] = {  # what a recipe has that says nothing of it
    "augment.flip": 0.5,
    "augment.mixup": 0.0,
    "augment.cutmix": 0.0,
    "augment.erase": 0.0,
    "augment.policy": "none",
    "augment.side_px": (),
    "data.repeats": 1,
    "input.crop_px": 224,
    "net.drop_path": 0.0,
    "optimise.decay_norms": True,
    "optimise.ema_decay": 0.0,
    "optimise.label_smoothing": 0.0,
    "optimise.loss": "cross-entropy",
    "optimise.momentum": 0.9,
    "optimise.nesterov": False,
    "optimise.optimiser": "sgd",
    "optimise.schedule": "cosine",
    "optimise.warmup_epochs": 0.0,
}
STEPS = {"optimise.schedule": "step", "optimise.step_epochs": (30, 60, 90)}
RSB = {
    "augment.cutmix": 1.0,
    "augment.policy": "randaugment",
    "augment.policy_ops": 2,
    "augment.policy_probability": 0.5,
    "augment.policy_spread": 0.5,
    "input.resize_px": 235,  # 224 / 0.95, rounded down
    "optimise.decay_norms": False,
    "optimise.loss": "binary",
    "optimise.momentum": ANY,  # LAMB has none
    "optimise.nesterov": ANY,
    "optimise.optimiser": "lamb",
    "optimise.warmup_epochs": 5.0,
}
SSLD = {"distil.loss": "js", "distil.teacher_norms": "batch", "distil.labels": 0.0, "optimise.warmup_epochs": 5.0}
SETTINGS: dict[str, dict[str, Any]] = {  # the same publishers' other ones, where they are not NONE
    "classic": STEPS,
    "paddleclas-plain": STEPS,
    "paddleclas-vd": {"augment.mixup": 0.2, "optimise.label_smoothing": 0.1},
    "nvidia": {
        "optimise.decay_norms": False,
        "optimise.label_smoothing": 0.1,
        "optimise.momentum": 0.875,
        "optimise.warmup_epochs": 8.0,
    },
    "torchvision-600": {
        "augment.cutmix": 1.0,
        "augment.erase": 0.1,
        "augment.mixup": 0.2,
        "augment.policy": "trivialaugment",
        "input.resize_px": 232,
        "optimise.decay_norms": False,
        "optimise.ema_decay": pytest.approx(1 - (1 - 0.99998) * 1024 * 32 / 600, abs=1e-6),
        "optimise.label_smoothing": 0.1,
        "optimise.warmup_epochs": 5.0,
    },
    "rsb-a1": {
        **RSB,
        "augment.mixup": 0.2,
        "augment.policy_magnitude": 7.0,
        "data.repeats": 3,
        "net.drop_path": 0.05,
        "optimise.label_smoothing": 0.1,
    },
    "rsb-a2": {
        **RSB,
        "augment.mixup": 0.1,
        "augment.policy_magnitude": 7.0,
        "data.repeats": 3,
        "net.drop_path": 0.05,
    },
    "rsb-a3": {**RSB, "augment.mixup": 0.1, "augment.policy_magnitude": 6.0, "augment.side_px": ((0, 160),)},
    "ssld-stage1": SSLD,
    "ssld-stage2": SSLD,
    "fixres": {
        "augment.crop": "tested",
        "augment.flip": 0.0,
        "input.crop_px": 384,
        "optimise.schedule": "step",
        "optimise.step_epochs": (30,),
    },
    "cifar100": {
        "input.crop_px": 32,
        "optimise.nesterov": True,  # facebook/fb.resnet.torch, train.lua
        "optimise.schedule": "step",
        "optimise.step_epochs": (150, 225),
    },
}


def opening(path: Path) -> list[str]:
    """The lines of the comment that a recipe opens with, without their signs, and those that go on joined."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines[: lines.index("")])
    return re.sub(r"\\\n\s*", "", comment).splitlines()


def overrides(line: str) -> list[str]:
    """What a line of such a comment gives to --set."""
    found = re.findall(r"--set ('[^']*'|\S+)", line)
    return [each.strip("'").rstrip(".,:)") for each in found]


def claimed_top1(weights_name: str) -> set[float]:
    weights = find(weights_name).weights
    assert weights is not None
    return {claim.top1 for claim in weights.claims if claim.top1 is not None}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_is_and_how_it_is_run(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.name == path.stem
    assert isinstance(recipe.arch, dict) or recipe.arch in ARCHITECTURES
    assert recipe.expect
    assert recipe.licence != "unknown"
    assert any(f"anabranch train recipes/{path.name}" in line for line in opening(path))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_override_that_a_comment_shows_is_one_that_the_recipe_takes(path: Path) -> None:
    read_recipe(path, smoke=True)
    for line in opening(path):
        read_recipe(path, overrides=overrides(line))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_has_the_settings_that_were_published(name: str) -> None:
    recipe, published = read_recipe(BY_NAME[name]), PUBLISHED[name]
    assert recipe.optimise is not None
    assert recipe.arch == published.arch
    assert (recipe.optimise.epochs, recipe.optimise.batch) == (published.epochs, published.batch)
    assert scaled_lr(recipe.optimise) == pytest.approx(published.lr)
    assert recipe.optimise.weight_decay == pytest.approx(published.weight_decay)
    for key, wanted in (NONE | SETTINGS[name]).items():
        assert reduce(getattr, key.split("."), recipe) == wanted, key


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_expects_what_its_publisher_claims(name: str) -> None:
    expect, published = read_recipe(BY_NAME[name]).expect, PUBLISHED[name]
    assert expect.startswith(f"{published.top1} % top-1")
    assert "; published by " in expect
    assert expect.endswith(", not measured here")
    if published.weights is not None:
        assert round(published.top1, 2) in {round(top1, 2) for top1 in claimed_top1(published.weights)}


@pytest.mark.parametrize("name", ["paddleclas-plain", "paddleclas-vd"])
def test_what_paddleclas_prints_for_the_other_nets_is_what_the_catalogue_claims(name: str) -> None:
    lines = [line for line in opening(BY_NAME[name]) if line.endswith(" %") and "--set arch=" in line]
    assert len(lines) >= 5
    for line in lines:
        arch = read_recipe(BY_NAME[name], overrides=overrides(line)).arch
        assert isinstance(arch, str)
        claimed = {top1 for weights in weights_of(arch) for top1 in claimed_top1(weights.name)}
        assert float(line.split()[-2]) in claimed, line


@pytest.mark.parametrize("name", BY_NAME)
def test_the_table_of_the_documents_has_the_recipe_and_its_published_figure(name: str) -> None:
    rows = (ROOT / "docs/training.md").read_text(encoding="utf-8").splitlines()
    row = next(row for row in rows if row.startswith(f"| [{name}](../recipes/{name}.toml) |"))
    published = row.split("|")[3].strip()
    assert published == (f"{PUBLISHED[name].top1} %" if name in PUBLISHED else "")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders in splits of every usual name: noise that is redder, greener or bluer."""
    folder: Path = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3), ("test", 3)):
        for channel, name in enumerate(("red", "green", "blue")):
            (folder / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 150, (70, 90, 3), dtype=np.uint8)
                pixels[..., channel] += 100
                Image.fromarray(pixels).save(folder / split / name / f"{index}.jpg")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_NAME)
def test_the_smoke_run_of_a_recipe_runs_on_any_class_folders_without_a_download(
    name: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = train.run(
        str(BY_NAME[name]),
        data=str(photos),
        out=str(tmp_path / name),
        overrides=[],
        smoke=True,
        resume=False,
        dry_run=False,
        json=True,
    )
    assert status == 0
    told = json.loads(capsys.readouterr().out)
    history = [json.loads(line) for line in Path(told["history"]).read_text().splitlines()]
    assert history[-1]["epoch"] == (1 if name == "probe" else 2)
    assert history[-1]["pictures"] == 9
    assert all(math.isfinite(line.get("loss", 0.0)) for line in history)
    assert load_trained(Path(told["checkpoint"])).about.class_names == ("blue", "green", "red")
