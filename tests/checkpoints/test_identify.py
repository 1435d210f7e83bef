from __future__ import annotations

import hashlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from anabranch.arch import ARCHITECTURES, Arch
from anabranch.catalogue.find import find
from anabranch.checkpoints import identify as module
from anabranch.checkpoints.identify import identify, published
from anabranch.errors import WeightsMismatch
from anabranch.images.preprocess import Preprocess
from anabranch.nets.dialects import DIALECTS
from anabranch.nets.load import About, Trained, save_trained
from anabranch.nets.net import build
from anabranch.nets.spelling import to_theirs


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
    met = published("7cdf4587" + 56 * "0"), published("e0fa3dd5" + 56 * "0")
    assert [each and each.architecture for each in met] == ["resnext50_32x4d", "resnext101_32x4d"]
    assert published(64 * "0") is None


def test_a_file_of_another_family_is_not_one_of_ours(tmp_path):
    path = tmp_path / "vit.pth"
    torch.save({"patch_embed.proj.weight": torch.zeros(8, 3, 16, 16), "head.weight": torch.zeros(10, 8)}, path)
    with pytest.raises(WeightsMismatch, match="not one of ours: no dialect here.*the first are patch_embed.proj"):
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


def test_our_own_spelling_is_one_of_the_dialects(tmp_path, small_net):
    torch.save(small_net("resnet18").state_dict(), tmp_path / "net.pth")
    (met,) = identify(str(tmp_path / "net.pth")).candidates
    assert (met.architecture, met.dialect) == ("resnet18", "anabranch")


@pytest.mark.parametrize(("name", "told"), [("resnet18", "timm"), ("resnet18d", "mmpretrain")])
def test_a_file_without_a_classifier_is_known_by_the_rest(tmp_path, spelled, name, told):
    heads = ("fc.", "head.fc.")
    torch.save({key: each for key, each in spelled(name, told).items() if not key.startswith(heads)}, tmp_path / "x")
    met = identify(tmp_path / "x")
    assert ([(each.architecture, each.dialect) for each in met.candidates], met.num_classes) == ([(name, told)], None)


def test_a_classifier_of_another_name_is_a_difference(tmp_path, spelled):
    theirs = {key.replace("fc.", "classifier."): each for key, each in spelled("resnet18", "timm").items()}
    torch.save(theirs, tmp_path / "x")
    with pytest.raises(WeightsMismatch, match=r"2 tensors missing \(fc.weight, fc.bias\); 2 tensors left over"):
        identify(tmp_path / "x")


def test_the_channels_of_the_pictures_are_the_files(tmp_path):
    net = build("resnet18", in_channels=1)
    torch.save(to_theirs(net.arch, net.state_dict(), DIALECTS["timm"]), tmp_path / "grey.pth")
    assert identify(tmp_path / "grey.pth").in_channels == 1


def test_how_much_of_a_hash_is_published_is_told_with_the_weights(saved, monkeypatch):
    path = saved("resnet18", "timm")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    weights = replace(find("resnet18.gluon_in1k").weights, sha256=digest[:8])
    monkeypatch.setattr(module, "index", lambda: SimpleNamespace(weights=(weights,)))
    met = identify(path)
    assert (met.weights, met.published_digits) == ("resnet18.gluon_in1k", 8)


def test_the_result_of_a_training_run_says_itself_what_it_is(tmp_path):
    spec = Arch(depths=(1, 1), width=8, stem=(8,), stem_stride=1, squeeze=4)
    trained = Trained(
        build(spec, num_classes=2),
        About(
            name="mine", licence="CC0-1.0", class_names=("cat", "dog"), preprocess=Preprocess(crop_px=32, resize_px=32)
        ),
    )
    save_trained(tmp_path / "mine.safetensors", trained)
    (met,) = identify(tmp_path / "mine.safetensors").candidates
    assert (met.spec, met.dialect) == (spec, "anabranch")
