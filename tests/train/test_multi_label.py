"""A run on pictures that show any number of classes each, from a CSV to the figures of its result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anabranch.errors import DatasetError, RecipeError
from anabranch.images.labelled import open_labelled
from anabranch.nets.load import load_trained
from anabranch.nets.store import read_tensors
from anabranch.train.augment import mixed
from anabranch.train.loop import train
from anabranch.train.recipe import read_recipe
from anabranch.train.rehearse import rehearse
from anabranch.train.score import answers, looked_at
from anabranch.train.sets import open_sets
from anabranch.train.tables import Augment
from anabranch.train.team import Team
from definitions import average_precision

STEADY = ["augment.mixup=0.0", "augment.erase=0.0", "net.dropout=0.0", "net.drop_path=0.0"]


@pytest.fixture
def several(tmp_path: Path) -> list[str]:
    """Overrides that name pictures which are bright on the left, on the right, on both sides or on none."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 70), ("test", 31)):
        lines = ["path,label"]
        for index, shown in enumerate(rng.integers(0, 2, (count, 2))):
            picture = rng.integers(0, 100, (12, 12), dtype=np.uint8)
            picture[:, :6] += 120 * shown[0].astype(np.uint8)
            picture[:, 6:] += 120 * shown[1].astype(np.uint8)
            Image.fromarray(picture).save(tmp_path / f"{part}{index}.png")
            lines.append(f"{part}{index}.png," + ";".join(np.array(["left", "right"])[shown > 0]))
        (tmp_path / f"{part}.csv").write_text("\n".join(lines) + "\n")
    sets = [f"data.{part}={{path='{tmp_path / part}.csv'}}" for part in ("train", "test")]
    return [*sets, "data.multi_label=true", "optimise.loss=binary", "optimise.lr=0.3"]


def history(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def test_the_net_learns_every_class_and_its_figures_are_those_of_the_definitions(
    tiny: Path, tmp_path: Path, several: list[str]
) -> None:
    recipe = read_recipe(tiny, overrides=[*several, *STEADY, "optimise.epochs=12"])
    trained = load_trained(train(recipe, tmp_path / "run"))
    data = open_labelled(tmp_path / "test.csv", multi_label=True)
    pixels = torch.stack([torch.from_numpy(data.picture(i).copy()) for i in range(len(data))])
    with torch.inference_mode():
        logits = trained.net((pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25).numpy()
    last, shown = history(tmp_path / "run")[-1], data.targets
    by_class = [average_precision(logits[:, k].tolist(), shown[:, k].tolist()) for k in (0, 1)]
    assert last["map"] == pytest.approx(100 * sum(by_class) / 2)
    hits = int(((logits > 0) & (shown > 0)).sum())
    precision, recall = hits / (logits > 0).sum(), hits / shown.sum()
    assert last["f1"] == pytest.approx(100 * 2 * precision * recall / (precision + recall))
    assert last["pictures"] == 31
    assert last["map"] > 95
    assert "top1" not in last
    assert (trained.about.class_names, trained.about.multi_label) == (("left", "right"), True)
    with np.load(tmp_path / "run/answers.npz") as held:
        assert np.array_equal(held["labels"], shown)
        np.testing.assert_allclose(held["logits"], logits, rtol=1e-4, atol=1e-4)


class Unheard(Team):
    """A process among several that hears nothing of the others."""

    def __init__(self, rank: int, processes: int):
        self.rank, self.processes, self.device = rank, processes, torch.device("cpu")

    def union(self, lines: list[str]) -> list[str]:
        return lines

    def total(self, values: torch.Tensor) -> torch.Tensor:
        return values


def test_each_picture_is_answered_by_one_process_alone(tiny: Path, tmp_path: Path, several: list[str]) -> None:
    recipe = read_recipe(tiny, smoke=True, overrides=several)
    told = (load_trained(train(recipe, tmp_path / "run")).net.eval(), recipe, open_sets(recipe.data))
    alone = answers(*told, Unheard(0, 1))
    shares = [answers(*told, Unheard(rank, 3)) for rank in range(3)]
    indices = np.concatenate([share.indices for share in shares])
    assert sorted(indices) == list(range(31))
    for name in ("logits", "labels"):
        met = np.concatenate([getattr(share, name) for share in shares])[np.argsort(indices)]
        np.testing.assert_allclose(met, getattr(alone, name), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_two_processes_score_what_one_scores(tiny: Path, tmp_path: Path, several: list[str]) -> None:
    quiet = ["net.dropout=0.0", "net.drop_path=0.0", "net.sync_norms=true", "augment.mixup=0.0", "optimise.lr=0.005"]
    words = [word for key in [*several, *quiet] for word in ("--set", key)]
    alone, torchrun = [sys.executable], [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    for name, launch in {"one": alone, "two": [*torchrun, "--nproc-per-node=2"]}.items():
        command = [*launch, "-m", "anabranch", "train", str(tiny), "--out", str(tmp_path / name), *words]
        subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}, check=True)
    for one, two in zip(history(tmp_path / "one"), history(tmp_path / "two"), strict=True):
        assert two["pictures"] == one["pictures"] == 31
        assert two["test_loss"] == pytest.approx(one["test_loss"], rel=1e-4)
        assert (two["map"], two["f1"]) == pytest.approx((one["map"], one["f1"]))


def test_a_run_stopped_within_an_epoch_goes_on_to_the_same_bits(tiny: Path, tmp_path: Path, several: list[str]) -> None:
    def stop(told: object) -> None:
        if isinstance(told, dict) and told.get("step") == 7:
            raise KeyboardInterrupt

    recipe = read_recipe(tiny, overrides=several)
    whole = read_tensors(train(recipe, tmp_path / "whole"))[0]
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "halves", report=stop)
    halves = read_tensors(train(recipe, tmp_path / "halves", resume=True))[0]
    assert all(torch.equal(value, halves[name]) for name, value in whole.items())


def test_the_best_epoch_is_that_of_the_best_mean_average_precision(
    tiny: Path, tmp_path: Path, several: list[str]
) -> None:
    wild = ["run.result=best", "optimise.ema_decay=0.0", "optimise.epochs=6", "run.keep=6"]
    result = train(read_recipe(tiny, overrides=[*several, *wild]), tmp_path / "run")
    scores = [line["map"] for line in history(tmp_path / "run")]
    assert len(set(scores)) > 1
    best = tmp_path / f"run/epoch-{1 + scores.index(max(scores)):04d}.safetensors"
    assert torch.equal(read_tensors(result)[0]["head.weight"], read_tensors(best)[0]["head.weight"])


def test_a_rehearsal_needs_no_class_of_each_picture(tiny: Path, tmp_path: Path, several: list[str]) -> None:
    assert rehearse(read_recipe(tiny, overrides=several), tmp_path / "run").plan.num_classes == 2


@pytest.mark.parametrize("way", [{"mixup": 1.0}, {"cutmix": 1.0}])
def test_mixed_pictures_show_each_class_as_much_as_their_targets_say(way: dict[str, float]) -> None:
    torch.manual_seed(0)
    targets = torch.tensor([[1.0, 1, 0], [0, 0, 0], [0, 1, 1], [1, 0, 0]])
    pictures = targets[:, :, None, None].expand(4, 3, 16, 16)  # each class lights one channel
    x, mix = mixed(pictures, targets, Augment(**way))
    assert not torch.equal(mix, targets)
    torch.testing.assert_close(x.mean((2, 3)), mix)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimise.loss=cross-entropy", 'optimise.loss = "cross-entropy" gives each picture one class'),
        ("data.balanced=true", r"data\.hold_out and data\.balanced go by the one class"),
        ("distil={teacher='random'}", r"goes with neither \[probe\] nor \[distil\]"),
    ],
)
def test_what_knows_one_class_a_picture_is_refused(tiny: Path, several: list[str], override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_recipe(tiny, overrides=[*several, override])


def test_nothing_is_held_out_of_such_a_set(tiny: Path, tmp_path: Path, several: list[str]) -> None:
    text = tiny.read_text().splitlines()
    (tmp_path / "one.toml").write_text("\n".join(line for line in text if not line.startswith("test =")))
    overrides = [each for each in several if not each.startswith("data.test")]
    with pytest.raises(RecipeError, match=r"name a test set in data\.test"):
        read_recipe(tmp_path / "one.toml", overrides=[*overrides, "data.hold_out=0.2"])


def test_a_teacher_of_several_classes_a_picture_teaches_no_single_one(
    tiny: Path, tmp_path: Path, several: list[str]
) -> None:
    teacher = train(read_recipe(tiny, smoke=True, overrides=several), tmp_path / "teacher")
    with pytest.raises(RecipeError, match="gives a picture any number of classes"):
        train(read_recipe(tiny, overrides=[f"distil.teacher='{teacher}'", "distil.labels=0.5"]), tmp_path / "run")


def test_test_pictures_without_any_class_are_told_before_the_first_step(
    tiny: Path, tmp_path: Path, several: list[str]
) -> None:
    recipe = read_recipe(tiny, overrides=[*several, "run.test_pictures=3"])
    few = looked_at(recipe, open_sets(recipe.data))
    lines = (tmp_path / "test.csv").read_text().splitlines()
    for index in few:
        lines[index + 1] = lines[index + 1].split(",")[0] + ","
    (tmp_path / "test.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DatasetError, match="none of 3 test pictures shows any class"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run/last.safetensors").exists()


def test_numbered_classes_that_the_test_pictures_lack_are_counted_all_the_same(tiny: Path, tmp_path: Path) -> None:
    Image.new("RGB", (12, 12)).save(tmp_path / "a.png")
    (tmp_path / "learnt.csv").write_text("path,label\n" + "a.png,0;2\n" * 16)
    (tmp_path / "met.csv").write_text("path,label\na.png,1\n")
    sets = [f"data.train={{path='{tmp_path}/learnt.csv'}}", f"data.test={{path='{tmp_path}/met.csv'}}"]
    told = [*sets, "data.multi_label=true", "optimise.loss=binary"]
    sets = open_sets(read_recipe(tiny, overrides=[*told, 'data.class_names=["a", "b", "c"]']).data)
    assert sets.tested.targets.tolist() == [[0, 1, 0]]
    with pytest.raises(DatasetError, match=r"holds label 2, but there are 2 class names; mend the label of a\.png"):
        open_sets(read_recipe(tiny, overrides=told).data)


@pytest.mark.parametrize("loss", ["cross-entropy", "binary"])
def test_the_test_pictures_loss_is_the_recipes_own(tiny: Path, tmp_path: Path, loss: str) -> None:
    quiet = ["augment.mixup=0.0", "optimise.epochs=2", f"optimise.loss={loss}", "optimise.label_smoothing=0.0"]
    train(read_recipe(tiny, overrides=quiet), tmp_path / "run")
    with np.load(tmp_path / "run/answers.npz") as held:
        logits, shown = held["logits"].astype(float), np.eye(2)[held["labels"]]
    if loss == "binary":  # the mean of two questions of yes or no
        wanted = np.where(shown > 0, np.log1p(np.exp(-logits)), np.log1p(np.exp(logits))).mean()
    else:
        wanted = (np.log(np.exp(logits).sum(1)) - (logits * shown).sum(1)).mean()
    assert history(tmp_path / "run")[-1]["test_loss"] == pytest.approx(wanted, rel=1e-4)
