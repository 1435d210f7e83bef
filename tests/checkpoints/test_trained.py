from __future__ import annotations

import pytest
import torch

from anabranch.arch import Arch
from anabranch.checkpoints.trained import open_trained
from anabranch.errors import CheckpointError, UsageError, WeightsMismatch
from anabranch.images.preprocess import Preprocess
from anabranch.nets.dialects import DIALECTS
from anabranch.nets.load import About, Trained, save_trained
from anabranch.nets.net import build
from anabranch.nets.spelling import to_theirs


@pytest.fixture
def own(tmp_path):
    preprocess = Preprocess(crop_px=32, resize_px=32)
    about = About(name="mine", licence="CC0-1.0", class_names=("cat", "dog"), preprocess=preprocess)
    trained = Trained(build(Arch(depths=(1, 1), width=8), num_classes=2), about)
    save_trained(tmp_path / "mine.safetensors", trained)
    return tmp_path / "mine.safetensors"


def test_a_file_of_ours_brings_its_own_classes_and_licence(own):
    _, met = open_trained(own)
    assert (met.name, met.licence, met.class_names) == ("mine", "CC0-1.0", ("cat", "dog"))


@pytest.mark.parametrize(
    ("asked", "error", "told"),
    [
        ({"like": "nonsense"}, UsageError, "is like nothing but itself"),
        ({"architecture": "resnet18"}, WeightsMismatch, "resnet18 was asked for"),
        ({"told": "paddleclas"}, WeightsMismatch, "paddleclas's spelling was asked for"),
        ({"ema": True}, CheckpointError, "holds no averaged weights"),
    ],
)
def test_what_does_not_go_with_a_file_of_ours_is_not_passed_over(own, asked, error, told):
    with pytest.raises(error, match=told):
        open_trained(own, **asked)


def test_a_file_may_be_like_weights_that_are_spelled_in_another_way(saved):
    path = saved("resnext50_32x4d", "timm")
    assert open_trained(path, like="resnext50_32x4d.paddle_in1k").about.preprocess.rounding == "paddleclas"


def test_a_file_of_unknown_weights_is_told_which_command_says_what_they_are_like(saved):
    with pytest.raises(UsageError, match="'anabranch export FILE -o FOLDER --like resnext50_32x4d.tv_in1k'"):
        open_trained(saved("resnet18", "timm"))


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({"num_classes": 21}, "knows 21 classes, .* the 1000 of ImageNet-1k; from Python, anabranch.pack.pack"),
        ({"in_channels": 1}, "takes pictures of 1 channels"),
    ],
)
def test_a_net_that_is_not_for_the_pictures_and_classes_of_the_weights_is_refused(tmp_path, sizes, told):
    net = build("resnet18", **sizes)
    torch.save(to_theirs(net.arch, net.state_dict(), DIALECTS["timm"]), tmp_path / "x.pth")
    with pytest.raises(UsageError, match=told):
        open_trained(tmp_path / "x.pth", like="resnet18.gluon_in1k")


def test_the_architecture_asked_for_must_be_that_of_the_weights_that_a_file_is_like(saved):
    with pytest.raises(WeightsMismatch, match="resnet18.gluon_in1k is resnet18, and resnet34 was asked for"):
        open_trained(saved("resnet18", "timm"), like="resnet18.gluon_in1k", architecture="resnet34")
