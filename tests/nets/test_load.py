from __future__ import annotations

from pathlib import Path

import pytest
import torch

from anabranch.arch import Arch, Quirk
from anabranch.errors import CheckpointError
from anabranch.images.preprocess import Preprocess
from anabranch.nets.load import Trained, load_strictly, load_trained, save_trained
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
    return Trained(net=net, name="mine", licence="MIT", class_names=("a", "b", "ü"), preprocess=INPUT)


def test_a_trained_net_comes_back_whole(trained: Trained, tmp_path: Path) -> None:
    save_trained(tmp_path / "m.safetensors", trained)
    again = load_trained(tmp_path / "m.safetensors")
    assert (again.name, again.licence, again.class_names, again.preprocess) == ("mine", "MIT", ("a", "b", "ü"), INPUT)
    assert again.net.arch == ARCH
    assert not again.net.training
    x = torch.randn(2, 3, 40, 36)
    assert torch.equal(again.net(x), trained.net(x))


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
