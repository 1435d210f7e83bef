from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from anabranch.arch import Arch, Quirk
from anabranch.errors import CheckpointError
from anabranch.images.preprocess import Preprocess
from anabranch.nets.load import About, Trained, load_strictly, load_trained, save_trained
from anabranch.nets.net import build
from anabranch.nets.store import read_tensors, write_tensors

ARCH = Arch(depths=(1, 1), width=8, squeeze=4, quirks=frozenset({Quirk.UNPADDED_STEM_POOL}))
INPUT = Preprocess(
    crop_px=32,
    resize_px=40,
    fit="shorter-side",
    resampler="pillow-bicubic",
    rounding="torchvision",
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
)


@pytest.fixture
def trained() -> Trained:
    net = build(ARCH, num_classes=3).eval()
    return Trained(net, About(name="mine", licence="MIT", class_names=("a", "b", "ü"), preprocess=INPUT))


def test_a_trained_net_comes_back_whole(trained: Trained, tmp_path: Path) -> None:
    save_trained(tmp_path / "m.safetensors", trained)
    again = load_trained(tmp_path / "m.safetensors")
    assert again.about == About(name="mine", licence="MIT", class_names=("a", "b", "ü"), preprocess=INPUT)
    assert again.net.arch == ARCH
    assert not again.net.training
    x = torch.randn(2, 3, 40, 36)
    assert torch.equal(again.net(x), trained.net(x))


def test_a_net_of_several_labels_a_picture_says_so_in_its_file(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_trained(path, trained)
    assert not load_trained(path).about.multi_label
    save_trained(path, trained._replace(about=replace(trained.about, multi_label=True)))
    assert load_trained(path).about.multi_label
    tensors, about = read_tensors(path)
    write_tensors(path, tensors, {**about, "multi_label": "yes"})
    with pytest.raises(CheckpointError, match="yes is neither true nor false"):
        load_trained(path)


def test_every_tensor_that_does_not_fit_is_listed(trained: Trained) -> None:
    state = dict(trained.net.state_dict())
    state["fc.weight"] = state.pop("head.weight")
    state["head.bias"] = torch.zeros(4)
    with pytest.raises(CheckpointError) as caught:
        load_strictly(trained.net, state, where="model.pth")
    said = str(caught.value)
    assert "model.pth" in said
    assert "1 tensor missing (head.weight)" in said
    assert "1 tensor left over (fc.weight)" in said
    assert "1 tensor misshapen (head.bias (4,) for (3,))" in said


def test_a_file_that_is_no_trained_net_is_told_apart(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write_tensors(path, {}, {"kind": "training run"})
    with pytest.raises(CheckpointError, match="holds a training run, not a trained net"):
        load_trained(path)
    save_trained(path, trained)
    tensors, about = read_tensors(path)
    for key in ("arch", "class_names", "preprocess", "licence"):
        write_tensors(path, tensors, {k: v for k, v in about.items() if k != key})
        with pytest.raises(CheckpointError, match="is not understood"):
            load_trained(path)


FORGED: dict[str, dict[str, Any]] = {
    "an architecture of text": {"arch": "resnet18"},
    "an architecture that is a list": {"arch": ["depths"]},
    "no architecture": {"arch": None},
    "an unknown block": {"arch": {"depths": [1, 1], "block": "inverted"}},
    "a width beyond counting": {"arch": {"depths": [1, 1], "width": 1 << 62}},
    "depths beyond building": {"arch": {"depths": [100_000_000, 1]}},
    "groups that do not divide": {"arch": {"depths": [1, 1], "width": 0}},
    "a name that is none": {"name": 3},
    "classes that are text": {"class_names": "abc"},
    "classes that are numbers": {"class_names": [1, 2, 3]},
    "preprocessing that is none": {"preprocess": 3},
    "preprocessing that lacks most": {"preprocess": {"crop_px": 32}},
}


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED)
def test_what_a_file_says_is_not_believed(trained: Trained, tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "m.safetensors"
    save_trained(path, trained)
    tensors, about = read_tensors(path)
    write_tensors(path, tensors, {**about, **change})
    with pytest.raises(CheckpointError, match=r"m\.safetensors: what it says of its net is not understood"):
        load_trained(path)


def test_a_net_of_more_blocks_than_there_are_tensors_is_not_built(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_trained(path, trained)
    tensors, about = read_tensors(path)
    write_tensors(path, tensors, {**about, "arch": {"depths": [1000, 1000]}})
    with pytest.raises(CheckpointError, match="tensors are too few for a net of 2000 blocks"):
        load_trained(path)


def test_weights_that_are_whole_numbers_are_refused(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_trained(path, trained, {name: tensor.to(torch.int8) for name, tensor in trained.net.state_dict().items()})
    with pytest.raises(CheckpointError, match="holds int8 values, and a net has floating-point weights"):
        load_trained(path)


def test_a_trained_net_outlives_its_file(trained: Trained, tmp_path: Path) -> None:
    save_trained(tmp_path / "m.safetensors", trained)
    again = load_trained(tmp_path / "m.safetensors")
    with (tmp_path / "m.safetensors").open("r+b") as file:
        file.truncate(10)
    for name, tensor in trained.net.state_dict().items():
        assert torch.equal(again.net.state_dict()[name], tensor)
