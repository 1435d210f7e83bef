from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from anabranch.arch import arch_to_json
from anabranch.errors import RecipeError
from anabranch.images.labelled import open_labelled
from anabranch.images.preprocess import Preprocess
from anabranch.nets.load import About, Trained, load_trained, save_trained
from anabranch.runtimes.openvino import offered_precisions
from anabranch.train.features import pace
from anabranch.train.probe import probe, train_probe
from anabranch.train.recipe import read_recipe
from anabranch.train.sets import Sets, open_sets
from anabranch.train.tables import Data, Input, Optimise, Probe, Recipe, Run, Source
from anabranch.verbs.train import run

INPUT = Preprocess(crop_px=24, resize_px=24, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3))
CPU_HAS_BF16 = "bf16" in offered_precisions()
COUNT = 20  # of the pictures of a set


def test_a_probe_gives_a_net_whose_answers_are_the_score_it_says(net, coloured, write_coloured, tmp_path, kept) -> None:
    tested = open_labelled(write_coloured(tmp_path / "tested", seed=9))
    nowhere = Source(path="nowhere")
    recipe = Recipe(
        name="red-or-blue",
        expect="nothing",
        licence="CC0-1.0",
        arch="resnext50_32x4d",
        data=Data(train=nowhere, test=nowhere),
        input=Input(crop_px=24, resize_px=24, mean=INPUT.mean, std=INPUT.std),
        optimise=Optimise(epochs=1, batch=4, lr=0.1),
        run=Run(seed=1),
    )
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    sets = Sets(open_labelled(coloured), tested, ("blue", "red"))
    done: list[int] = []
    probed = probe(recipe, Probe(weight_decay=(1e-3, 1e-2)), net, sets, cache=kept, report=done.append)

    save_trained(tmp_path / "model.safetensors", probed.trained)
    trained, about = load_trained(tmp_path / "model.safetensors")
    assert (about.name, about.licence, about.class_names) == ("red-or-blue", "CC0-1.0", ("blue", "red"))
    assert about.preprocess == INPUT
    pixels = np.stack([INPUT(tested.picture(i)) for i in range(COUNT)])  # the oracle: plain arithmetic in torch
    x = torch.from_numpy(((pixels / 255 - INPUT.mean) / INPUT.std).transpose(0, 3, 1, 2).astype(np.float32))
    with torch.inference_mode():
        right = int((trained(x).argmax(1).numpy() == tested.labels).sum())
    assert probed.score.top1_right == right
    assert right > 0.9 * COUNT
    assert (probed.score.num_pictures, probed.score.top5_right) == (COUNT, COUNT)
    assert probed.score.top1_interval[0] < probed.score.top1
    assert probed.head.weight_decay in (1e-3, 1e-2)
    assert done == sorted(done)
    assert done[-1] == 2 * COUNT
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert net.num_classes == 7


@pytest.fixture
def recipe(net, coloured, write_coloured, tmp_path) -> Path:
    """The path of a recipe that begins from weights for seven other classes."""
    trained = Trained(net, About(name="seven", licence="CC0-1.0", class_names=tuple("abcdefg"), preprocess=INPUT))
    save_trained(tmp_path / "seven.safetensors", trained)
    tested = write_coloured(tmp_path / "tested", seed=9)
    spec = "".join(f"{key} = {json.dumps(value)}\n" for key, value in arch_to_json(net.arch).items())
    path = tmp_path / "probe.toml"
    path.write_text(
        f"""
name = "red-or-blue"
expect = "nothing"
start = {{ weights = "{tmp_path / "seven.safetensors"}" }}
probe = {{ weight_decay = [0.1, 0.01] }}
data = {{ train = {{ path = "{coloured}" }}, test = {{ path = "{tested}" }}, unreadable = 0.1 }}
input = {{ crop_px = 24, resize_px = 24, mean = [0.5, 0.4, 0.3], std = [0.25, 0.2, 0.3] }}

[arch]
{spec}"""
    )
    return path


def test_a_recipe_with_a_probe_begins_from_weights_and_leaves_a_run(recipe, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("ANABRANCH_CACHE", str(tmp_path / "cache"))
    words = {"overrides": [], "smoke": False, "resume": False, "dry_run": False, "json": False}
    assert run(str(recipe), out=str(tmp_path / "run"), **words) == 0
    assert load_trained(tmp_path / "run/model.safetensors").about.class_names == ("blue", "red")
    told = capsys.readouterr().out
    (history,) = map(json.loads, (tmp_path / "run/history.jsonl").read_text().splitlines())
    assert f"top-1 {history['top1']:6.2f} %" in told
    assert history["precision"] == ("bf16" if CPU_HAS_BF16 else "f32")
    assert f" s, looked at in {history['precision']}; a weight decay of {history['weight_decay']:g} was best" in told
    assert [each["weight_decay"] for each in history["tried"]] == [0.1, 0.01]
    with np.load(tmp_path / "run/answers.npz") as answers:
        right = answers["logits"].argmax(1) == answers["labels"]
        assert 100 * right.mean() == pytest.approx(history["top1"])
        assert [name.split("/")[0] for name in answers["names"]] == answers["class_names"][answers["labels"]].tolist()


@pytest.mark.parametrize("json_wanted", [False, True])
def test_a_dry_run_says_how_long_looking_takes_and_keeps_the_backbone_alone(
    recipe, tmp_path, monkeypatch, capsys, json_wanted
) -> None:
    monkeypatch.setenv("ANABRANCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("anabranch.train.probe.pace", partial(pace, seconds=0.05))
    words = {"overrides": [], "smoke": False, "resume": False, "json": json_wanted}
    assert run(str(recipe), out=str(tmp_path / "run"), dry_run=True, **words) == 0
    told = capsys.readouterr().out
    precision = "bf16" if CPU_HAS_BF16 else "f32"
    if json_wanted:
        found = json.loads(told)
        assert found["precision"] == precision
        wanted = COUNT * (found["picture_seconds"] + found["tested_seconds"])
        assert found["run_seconds"] == pytest.approx(wanted)
        assert found["picture_seconds"] > 0
    else:
        assert f"  training  20 pictures in {precision}, " in told
        assert "  test      20 pictures in f32, " in told
    assert not (tmp_path / "run").exists()
    exported = set((tmp_path / "cache/probe/backbones").iterdir())
    assert run(str(recipe), out=str(tmp_path / "run"), dry_run=False, **words) == 0
    assert set((tmp_path / "cache/probe/backbones").iterdir()) == exported
    assert [each.name for each in (tmp_path / "cache/probe").iterdir() if each.name != "backbones"] == ["features"]


def test_pictures_that_cannot_be_read_are_left_out_and_listed(recipe, coloured, tmp_path, kept) -> None:
    bad = [coloured / "red/00.png", tmp_path / "tested/blue/01.png"]
    bad[0].write_bytes(b"no picture")
    bad[1].write_bytes(b"")
    (tmp_path / "run").mkdir()
    read = read_recipe(recipe)
    met = train_probe(read, open_sets(read.data), tmp_path / "run", cache=kept)
    assert met.score.num_pictures == COUNT - 1
    listed = (tmp_path / "run/unreadable.txt").read_text().splitlines()
    assert [str(path) in line for path, line in zip(bad, listed, strict=True)] == [True, True]
    assert json.loads((tmp_path / "run/history.jsonl").read_text())["unreadable"] == 2
    with np.load(tmp_path / "run/answers.npz") as answers:
        assert "blue/01.png" not in answers["names"]
        assert len(answers["names"]) == len(answers["logits"]) == len(answers["labels"]) == COUNT - 1


def test_a_picture_that_cannot_be_read_may_have_a_name_that_is_not_utf_8(recipe, coloured, tmp_path, kept) -> None:
    Path(os.fsdecode(os.fsencode(coloured) + b"/red/\xe9t\xe9.png")).write_bytes(b"no picture")
    (tmp_path / "run").mkdir()
    read = read_recipe(recipe)
    train_probe(read, open_sets(read.data), tmp_path / "run", cache=kept)
    [line] = (tmp_path / "run/unreadable.txt").read_text(encoding="utf-8").splitlines()
    assert f"{coloured}/red/\\udce9t\\udce9.png" in line


def test_a_folder_that_holds_a_training_run_is_left_as_it_is(recipe, tmp_path, kept) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/last.safetensors").write_bytes(b"weeks of work")
    read = read_recipe(recipe)
    with pytest.raises(RecipeError, match="run: already holds a training run; give another folder with --out"):
        train_probe(read, open_sets(read.data), tmp_path / "run", cache=kept)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["last.safetensors"]


def test_a_probe_of_another_set_is_left_as_it_is_and_one_of_the_same_gives_way(recipe, tmp_path, kept) -> None:
    read, folder = read_recipe(recipe), tmp_path / "run"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"of a while ago")
    held = read.model_dump(mode="json")
    for before in (json.dumps({**held, "data": {**held["data"], "seed": 5}}), "no JSON", "[]"):
        (folder / "recipe.json").write_text(before)
        with pytest.raises(RecipeError, match="run: already holds the probe of another set; give another folder with"):
            train_probe(read, open_sets(read.data), folder, cache=kept)
    assert (folder / "model.safetensors").read_bytes() == b"of a while ago"
    (folder / "recipe.json").write_text(json.dumps(held))
    train_probe(read, open_sets(read.data), folder, cache=kept)
    assert (folder / "model.safetensors").read_bytes() != b"of a while ago"
