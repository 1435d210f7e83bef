from __future__ import annotations

import hashlib

import pytest
import torch

from anabranch.arch import ARCHITECTURES, Arch
from anabranch.checkpoints import identify as module
from anabranch.checkpoints.identify import identify, published
from anabranch.errors import WeightsMismatch
from anabranch.images.preprocess import Preprocess
from anabranch.nets.load import Trained, save_trained
from anabranch.nets.net import build


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("resnet18", "timm"),
        ("resnet18d", "mmpretrain"),
        ("seresnet18", "timm"),
        ("legacy_seresnet18", "legacy"),
        ("seresnet18d_paddle", "paddleclas"),
    ],
)
def test_a_file_is_known_by_its_names_and_shapes(name, told, saved):
    met = identify(saved(name, told))
    assert [(each.architecture, each.dialect) for each in met.candidates] == [(name, told)]


def test_the_number_of_classes_is_the_files(saved):
    met = identify(saved("seresnet18d_paddle", "paddleclas", 7))
    assert (met.candidates[0].architecture, met.num_classes) == ("seresnet18d_paddle", 7)


def test_what_wrapped_the_tensors_is_told(saved):
    assert identify(saved("resnet18d", "mmpretrain")).unwrapped == ("state_dict",)


def test_the_hash_is_that_of_the_file(saved):
    path = saved("resnet18", "timm")
    assert identify(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert identify(path).weights is None


def test_published_weights_are_known_by_the_hash_in_the_name_of_their_file():
    # resnext50_32x4d-7cdf4587.pth, resnext101_32x4d_b32x8_imagenet_20210506-e0fa3dd5.pth
    assert published("7cdf4587" + 56 * "0") == "resnext50_32x4d.tv_in1k"
    assert (published("e0fa3dd5" + 56 * "0") or "").startswith("resnext101_32x4d.")
    assert published(64 * "0") is None


def test_a_file_of_another_family_is_not_one_of_ours(tmp_path):
    path = tmp_path / "vit.pth"
    torch.save({"patch_embed.proj.weight": torch.zeros(8, 3, 16, 16), "head.weight": torch.zeros(10, 8)}, path)
    with pytest.raises(WeightsMismatch, match="not one of ours: no dialect here.*first tensors are patch_embed.proj"):
        identify(path)


def test_a_near_relation_is_told_from_ours_by_what_differs(tmp_path, spelled):
    path = tmp_path / "eca_resnet18.pth"
    torch.save(spelled("resnet18", "timm") | {"layer1.0.eca.conv.weight": torch.zeros(1, 1, 3)}, path)
    with pytest.raises(
        WeightsMismatch,
        match=r"nearest is resnet18 as timm spells it.*1 tensor left over \(layer1.0.eca.conv.weight\)",
    ):
        identify(path)


def test_two_nets_of_the_same_tensors_are_both_named(saved, monkeypatch):
    path = saved("resnet18", "timm")
    monkeypatch.setitem(ARCHITECTURES, "twin", ARCHITECTURES["resnet18"])
    monkeypatch.setattr(module, "counts", lambda counts=module.counts: counts() | {"twin": counts()["resnet18"]})
    assert [each.architecture for each in identify(path).candidates] == ["resnet18", "twin"]


def test_the_result_of_a_training_run_says_itself_what_it_is(tmp_path):
    spec = Arch(depths=(1, 1), width=8, stem=(8,), stem_stride=1, squeeze=4)
    trained = Trained(
        net=build(spec, num_classes=2),
        name="mine",
        licence="CC0-1.0",
        class_names=("cat", "dog"),
        preprocess=Preprocess(crop_px=32, resize_px=32),
    )
    save_trained(tmp_path / "mine.safetensors", trained)
    (met,) = identify(tmp_path / "mine.safetensors").candidates
    assert (met.spec, met.dialect) == (spec, "anabranch")
