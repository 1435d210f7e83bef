from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anabranch.arch import Arch, arch_to_json
from anabranch.images.labelled import open_labelled
from anabranch.images.preprocess import Preprocess
from anabranch.nets.load import Trained, load_trained, save_trained
from anabranch.nets.net import Net, build
from anabranch.train.data import Sets
from anabranch.train.probe import probe
from anabranch.train.tables import Data, Input, Optimise, Recipe, Run, Source
from anabranch.verbs.train import run

INPUT = Preprocess(crop_px=24, resize_px=24, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3))
COUNT = 20  # more than one batch, and no multiple of one


@pytest.fixture(scope="module")
def net(shake) -> Net:
    torch.manual_seed(0)
    spec = Arch(depths=(1, 1), width=8, groups=2, group_width=32, stem=(8,), squeeze=4)
    return shake(build(spec, num_classes=7))


def write_pictures(folder: Path, *, seed: int = 0) -> Path:
    """Class folders: noise that is redder in the one, bluer in the other."""
    rng = np.random.default_rng(seed)
    for index in range(COUNT):
        name, channel = (("red", 0), ("blue", 2))[index % 2]
        pixels = rng.integers(0, 180, (30, 26, 3), dtype=np.uint8)
        pixels[..., channel] += 75
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name / f"{index:02}.png")
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pictures")


@pytest.fixture(scope="module")
def backbones(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("backbones")


@pytest.fixture
def kept(tmp_path: Path, backbones: Path) -> Path:
    """A cache without features, but with the backbones that have been exported before, which takes seconds."""
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "backbones").symlink_to(backbones)
    return folder


def test_a_probe_gives_a_net_whose_answers_are_the_score_it_says(net, pictures, tmp_path, kept) -> None:
    tested = open_labelled(write_pictures(tmp_path / "tested", seed=9))
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
    sets = Sets(open_labelled(pictures), tested, ("blue", "red"))
    done: list[int] = []
    probed = probe(recipe, net, sets, weight_decay=[1e-3, 1e-2], cache=kept, report=done.append)

    save_trained(tmp_path / "model.safetensors", probed.trained)
    trained = load_trained(tmp_path / "model.safetensors")
    assert (trained.name, trained.licence, trained.class_names) == ("red-or-blue", "CC0-1.0", ("blue", "red"))
    assert trained.preprocess == INPUT
    pixels = np.stack([INPUT(tested.picture(i)) for i in range(COUNT)])  # the oracle: plain arithmetic in torch
    x = torch.from_numpy(((pixels / 255 - INPUT.mean) / INPUT.std).transpose(0, 3, 1, 2).astype(np.float32))
    with torch.inference_mode():
        right = int((trained.net(x).argmax(1).numpy() == tested.labels).sum())
    assert probed.score.top1_right == right
    assert right > 0.9 * COUNT
    assert (probed.score.num_pictures, probed.score.top5_right) == (COUNT, COUNT)
    assert probed.score.top1_interval[0] < probed.score.top1
    assert probed.head.weight_decay in (1e-3, 1e-2)
    assert done == sorted(done)
    assert done[-1] == 2 * COUNT
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert net.num_classes == 7


def test_a_recipe_with_a_probe_begins_from_weights_and_leaves_a_run(
    net, pictures, tmp_path, monkeypatch, capsys
) -> None:
    trained = Trained(net=net, name="seven", licence="CC0-1.0", class_names=tuple("abcdefg"), preprocess=INPUT)
    save_trained(tmp_path / "seven.safetensors", trained)
    spec = "".join(f"{key} = {json.dumps(value)}\n" for key, value in arch_to_json(net.arch).items())
    (tmp_path / "probe.toml").write_text(
        f"""
name = "red-or-blue"
expect = "nothing"
start = {{ weights = "{tmp_path / "seven.safetensors"}" }}
probe = {{ weight_decay = [0.01] }}
data = {{ train = {{ path = "{pictures}" }}, test = {{ path = "{pictures}" }} }}
input = {{ crop_px = 24, resize_px = 24, mean = [0.5, 0.4, 0.3], std = [0.25, 0.2, 0.3] }}

[arch]
{spec}"""
    )
    monkeypatch.setenv("ANABRANCH_CACHE", str(tmp_path / "cache"))
    words = {"overrides": [], "smoke": False, "resume": False, "dry_run": False, "json": False}
    assert run(str(tmp_path / "probe.toml"), out=str(tmp_path / "run"), **words) == 0
    assert load_trained(tmp_path / "run/model.safetensors").class_names == ("blue", "red")
    told = capsys.readouterr().out
    history = json.loads((tmp_path / "run/history.jsonl").read_text())
    assert f"top-1 {history['top1']:6.2f} %" in told
    assert "a weight decay of 0.01 was best" in told
