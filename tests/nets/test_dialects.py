from __future__ import annotations

import pytest

from anabranch.arch import ARCHITECTURES, Arch
from anabranch.errors import UnknownName
from anabranch.nets.dialects import DIALECTS, dialect

# What each publisher's own code can build, where two nets have the same tensors and other functions.
COMPUTED_BY = {
    "res2net50_26w_4s": {"timm", "mmpretrain"},
    "res2net50_26w_4s_paddle": {"paddleclas"},
    "res2net50d_26w_4s": {"timm", "mmpretrain"},
    "res2net50d_26w_4s_paddle": {"paddleclas"},
    "res2next50_4w_4s_8c": {"timm"},
    "seresnet50": {"timm", "mmpretrain", "paddleclas"},
    "legacy_seresnet50": {"legacy"},
    "seresnet18": {"timm"},
    "legacy_seresnet18": {"legacy"},
    "seresnet18d_paddle": {"paddleclas"},
    "senet154": {"timm"},
    "legacy_senet154": {"legacy"},
    "seresnext50_32x4d": {"timm", "mmpretrain", "paddleclas"},
    "legacy_seresnext50_32x4d": {"legacy"},
    "seresnext50e_32x4d": {"timm", "mmpretrain", "paddleclas"},
    "resnext50_32x4d": {"timm", "mmpretrain", "paddleclas"},
    "resnext101_32x48d": {"timm", "mmpretrain", "paddleclas"},
    "resnet18": {"timm", "mmpretrain"},
    "resnet18_paddle": {"paddleclas"},
    "resnet50": {"timm", "mmpretrain", "paddleclas"},
    "resnet50c": {"timm", "mmpretrain", "paddleclas"},
    "resnet50d": {"timm", "mmpretrain", "paddleclas"},
    "resnet50s": {"timm", "mmpretrain"},
    "resnext29_8x64d": set(),
}


@pytest.mark.parametrize(("name", "wanted"), COMPUTED_BY.items())
def test_a_dialect_takes_the_nets_that_its_code_computes_and_refuses_the_others(name, wanted):
    able = {each.name for each in DIALECTS.values() if each.refuses(ARCHITECTURES[name]) is None}
    assert able == wanted | {"anabranch"}  # which computes them all


@pytest.mark.parametrize("name", [name for name, spec in ARCHITECTURES.items() if spec.stem_stride == 4])
def test_every_imagenet_net_has_a_dialect_beside_ours(name):
    assert any(each.refuses(ARCHITECTURES[name]) is None for each in DIALECTS.values() if each.name != "anabranch")


@pytest.mark.parametrize(
    ("name", "told", "reason"),
    [
        ("res2net50_26w_4s", "paddleclas", "chains splits in other blocks"),
        ("res2net50_26w_4s_paddle", "timm", "mean_skips_padding, splits_reset_on_stride"),
        ("resnet18", "paddleclas", "basic blocks project the first shortcut"),
        ("resnet50s", "paddleclas", "no deep stem but of 32, 32 and 64 channels"),
        ("resnet50", "legacy", "all have a squeeze"),
        ("seresnet50", "legacy", "pools without padding"),
        ("legacy_seresnet50", "timm", "stride_in_reduce, unpadded_stem_pool"),
        ("senet154", "mmpretrain", "halved_reduce"),
        ("resnext29_8x64d", "timm", "small pictures"),
    ],
)
def test_a_refusal_says_why(name, told, reason):
    assert reason in (DIALECTS[told].refuses(ARCHITECTURES[name]) or "")


def test_a_squeeze_that_timm_would_round_to_another_width_is_not_timms():
    narrow = Arch(depths=(1, 1), block="basic", width=64, squeeze=16)
    assert "multiple of 8" in (DIALECTS["timm"].refuses(narrow) or "")


@pytest.mark.parametrize(
    ("name", "meant"), [("torchvision", "timm"), ("fixres", "timm"), ("cadene", "legacy"), ("paddleclas", "paddleclas")]
)
def test_who_spells_alike_names_the_same_dialect(name, meant):
    assert dialect(name).name == meant


def test_an_unknown_dialect_is_answered_with_the_nearest_and_all():
    with pytest.raises(UnknownName, match=r"'paddle'; the nearest are paddleclas.*There are timm, torchvision"):
        dialect("paddle")
