from __future__ import annotations

import pytest
import torch

from anabranch.arch import ARCHITECTURES, Arch
from anabranch.errors import WeightsMismatch
from anabranch.nets.dialects import DIALECTS
from anabranch.nets.net import build
from anabranch.nets.spelling import spellings, to_ours, to_theirs

# Read off the publishers' files and code, not off ours.
THEIRS = [
    ("timm", "resnext50_32x4d", "stem.conv1.conv.weight", "conv1.weight"),
    ("timm", "resnext50_32x4d", "stem.conv1.norm.running_mean", "bn1.running_mean"),
    ("timm", "resnext50_32x4d", "stages.0.0.branch.reduce.conv.weight", "layer1.0.conv1.weight"),
    ("timm", "resnext50_32x4d", "stages.3.2.branch.expand.norm.bias", "layer4.2.bn3.bias"),
    ("timm", "resnext50_32x4d", "stages.1.0.shortcut.project.conv.weight", "layer2.0.downsample.0.weight"),
    ("timm", "resnext50_32x4d", "stages.1.0.shortcut.project.norm.weight", "layer2.0.downsample.1.weight"),
    ("timm", "resnext50_32x4d", "head.bias", "fc.bias"),
    ("timm", "resnet18", "stages.0.1.branch.leave.conv.weight", "layer1.1.conv2.weight"),
    ("timm", "resnext50d_32x4d", "stem.conv1.conv.weight", "conv1.0.weight"),
    ("timm", "resnext50d_32x4d", "stem.conv2.norm.weight", "conv1.4.weight"),
    ("timm", "resnext50d_32x4d", "stem.conv3.conv.weight", "conv1.6.weight"),
    ("timm", "resnext50d_32x4d", "stem.conv3.norm.weight", "bn1.weight"),
    ("timm", "resnext50d_32x4d", "stages.0.0.shortcut.project.conv.weight", "layer1.0.downsample.1.weight"),
    ("timm", "resnext50d_32x4d", "stages.2.0.shortcut.project.norm.weight", "layer3.0.downsample.2.weight"),
    ("timm", "seresnext50_32x4d", "stages.0.1.squeeze.reduce.weight", "layer1.1.se.fc1.weight"),
    ("timm", "seresnext50_32x4d", "stages.0.1.squeeze.expand.bias", "layer1.1.se.fc2.bias"),
    ("timm", "res2net50_26w_4s", "stages.2.5.branch.splits.convs.2.conv.weight", "layer3.5.convs.2.weight"),
    ("timm", "res2net50_26w_4s", "stages.2.5.branch.splits.convs.0.norm.bias", "layer3.5.bns.0.bias"),
    ("timm", "res2net50_26w_4s", "stages.2.5.branch.expand.conv.weight", "layer3.5.conv3.weight"),
    ("legacy", "legacy_senet154", "stem.conv2.norm.weight", "layer0.bn2.weight"),
    ("legacy", "legacy_seresnet50", "stem.conv1.conv.weight", "layer0.conv1.weight"),
    ("legacy", "legacy_seresnet50", "stages.3.0.squeeze.expand.weight", "layer4.0.se_module.fc2.weight"),
    ("legacy", "legacy_seresnet50", "head.weight", "last_linear.weight"),
    ("mmpretrain", "resnext50_32x4d", "stem.conv1.conv.weight", "backbone.conv1.weight"),
    ("mmpretrain", "resnext50_32x4d", "head.weight", "head.fc.weight"),
    ("mmpretrain", "resnet50d", "stem.conv2.norm.bias", "backbone.stem.1.bn.bias"),
    ("mmpretrain", "resnet50d", "stages.0.0.shortcut.project.conv.weight", "backbone.layer1.0.downsample.0.weight"),
    ("mmpretrain", "resnet50d", "stages.0.0.shortcut.project.norm.weight", "backbone.layer1.0.downsample.1.weight"),
    ("mmpretrain", "resnet50d", "stages.1.0.shortcut.project.conv.weight", "backbone.layer2.0.downsample.1.weight"),
    ("mmpretrain", "resnet50d", "stages.1.0.shortcut.project.norm.weight", "backbone.layer2.0.downsample.2.weight"),
    ("mmpretrain", "res2net50d_26w_4s", "stages.0.0.shortcut.project.conv.weight",
     "backbone.layer1.0.downsample.1.weight"),
    ("mmpretrain", "seresnet50", "stages.0.0.squeeze.reduce.bias", "backbone.layer1.0.se_layer.conv1.conv.bias"),
    ("paddleclas", "resnext50_32x4d", "stem.conv1.conv.weight", "conv._conv.weight"),
    ("paddleclas", "resnext50_32x4d", "stem.conv1.norm.running_var", "conv._batch_norm._variance"),
    ("paddleclas", "resnext50_32x4d", "stages.1.3.branch.spatial.conv.weight", "bb_1_3.conv1._conv.weight"),
    ("paddleclas", "resnext50_32x4d", "head.weight", "out.weight"),
    ("paddleclas", "resnext50d_32x4d", "stem.conv2.norm.running_mean", "conv1_2._batch_norm._mean"),
    ("paddleclas", "resnext50d_32x4d", "stages.2.0.shortcut.project.conv.weight", "bb_2_0.short._conv.weight"),
    ("paddleclas", "seresnext50_32x4d", "stem.conv1.conv.weight", "conv._conv.weight"),
    ("paddleclas", "seresnet18d_paddle", "stages.0.0.shortcut.project.norm.weight", "bb_0_0.short._batch_norm.weight"),
    ("paddleclas", "seresnext50_32x4d", "stages.0.1.squeeze.expand.weight", "bb_0_1.scale.excitation.weight"),
    ("paddleclas", "res2net50_26w_4s_paddle", "stem.conv1.conv.weight", "conv1._conv.weight"),
    ("paddleclas", "res2net50_26w_4s_paddle", "stages.2.5.branch.splits.convs.2.conv.weight",
     "bb_2_5.res4f_branch2b_3._conv.weight"),
    ("paddleclas", "res2net50_26w_4s_paddle", "stages.2.5.branch.expand.conv.weight", "bb_2_5.conv2._conv.weight"),
    ("paddleclas", "res2net101d_26w_4s_paddle", "stages.2.5.branch.splits.convs.2.conv.weight",
     "bb_2_5.res4b5_branch2b_3._conv.weight"),
    ("paddleclas", "res2net101d_26w_4s_paddle", "stages.2.0.branch.splits.convs.0.conv.weight",
     "bb_2_0.res4a_branch2b_1._conv.weight"),
    ("paddleclas", "res2net200d_26w_4s_paddle", "stages.1.11.branch.splits.convs.0.norm.weight",
     "bb_1_11.res3l_branch2b_1._batch_norm.weight"),
    ("paddleclas", "resnet50", "stem.conv1.conv.weight", "stem.0.conv.weight"),
    ("paddleclas", "resnet50", "stages.2.5.branch.expand.norm.running_var", "blocks.12.conv2.bn._variance"),
    ("paddleclas", "resnet50d", "stem.conv3.norm.weight", "stem.2.bn.weight"),
    ("paddleclas", "resnet50d", "stages.1.0.shortcut.project.conv.weight", "blocks.3.short.conv.weight"),
    ("paddleclas", "resnet34d_paddle", "stages.3.2.branch.leave.conv.weight", "blocks.15.conv1.conv.weight"),
    ("paddleclas", "resnet18_paddle", "stages.0.0.shortcut.project.conv.weight", "blocks.0.short.conv.weight"),
    ("paddleclas", "resnet50c", "stem.conv1.conv.weight", "conv1_1._conv.weight"),
    ("paddleclas", "resnet50c", "stages.0.0.shortcut.project.conv.weight", "bb_0_0.short._conv.weight"),
    ("paddleclas", "resnext101_32x8d", "stem.conv1.norm.running_mean", "_conv_stem._bn._mean"),
    ("paddleclas", "resnext101_32x8d", "stages.0.1.branch.reduce.conv.weight", "_conv1_1._conv0._conv.weight"),
    ("paddleclas", "resnext101_32x48d", "stages.3.0.shortcut.project.norm.bias", "_conv4_0._short._conv._bn.bias"),
    ("paddleclas", "resnext101_32x48d", "head.bias", "_out.bias"),
]  # fmt: skip

SPOKEN = [
    (name, told.name)
    for name, spec in ARCHITECTURES.items()
    for told in DIALECTS.values()
    if told.refuses(spec) is None
]
# cardinality, squeeze and pool together, as PaddleClas spells them; no two widths alike, so that a swap shows
SMALL = Arch(depths=(1, 2), width=8, groups=4, group_width=16, stem=(6, 10, 12), shortcut="pool", squeeze=16)


@pytest.mark.parametrize(("told", "name", "ours", "theirs"), THEIRS, ids=lambda each: each)
def test_a_tensor_is_called_as_its_publisher_calls_it(told, name, ours, theirs):
    assert spellings(ARCHITECTURES[name], DIALECTS[told])[ours].name == theirs


@pytest.mark.parametrize(("name", "told"), SPOKEN)
def test_no_two_tensors_of_a_net_are_spelled_alike(name, told):
    names = [theirs.name for theirs in spellings(ARCHITECTURES[name], DIALECTS[told]).values()]
    assert len(set(names)) == len(names)


def test_paddle_keeps_five_tensors_a_convolution_four_a_squeeze_and_two_a_head():
    assert len(spellings(ARCHITECTURES["resnext50_32x4d"], DIALECTS["paddleclas"])) == 53 * 5 + 2
    assert len(spellings(ARCHITECTURES["seresnext50_32x4d"], DIALECTS["paddleclas"])) == 53 * 5 + 16 * 4 + 2


def test_paddles_linear_layers_are_turned_over():
    net = build(SMALL, num_classes=7)
    theirs = to_theirs(SMALL, net.state_dict(), DIALECTS["paddleclas"])
    pooled = torch.rand(2, 64)
    torch.testing.assert_close(pooled @ theirs["out.weight"] + theirs["out.bias"], net.head(pooled))
    means = torch.rand(2, 64)
    reduced = means @ theirs["bb_1_0.scale.squeeze.weight"] + theirs["bb_1_0.scale.squeeze.bias"]
    torch.testing.assert_close(reduced, net.stages[1][0].squeeze.reduce(means[:, :, None, None])[:, :, 0, 0])


@pytest.mark.parametrize("told", ["timm", "mmpretrain", "paddleclas"])
def test_there_and_back_again_gives_the_same_tensors(told):
    spec = Arch(depths=(1, 2), width=32, groups=4, group_width=16, stem=(6, 10, 12), shortcut="pool", squeeze=16)
    state = build(spec, num_classes=7).state_dict()
    back = to_ours(spec, to_theirs(spec, state, DIALECTS[told]), DIALECTS[told], where="memory")
    assert back.keys() == state.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(back[name], tensor, rtol=0, atol=0)


def test_all_that_does_not_fit_is_listed_by_their_names():
    spec = ARCHITECTURES["resnet18"]
    theirs = to_theirs(spec, build(spec).state_dict(), DIALECTS["timm"])
    theirs["\x1b[31m"] = torch.zeros(1)
    theirs["layer1.0.conv1.weight"] = torch.zeros(64, 64, 1, 1)
    del theirs["bn1.weight"], theirs["layer4.1.bn2.bias"]
    with pytest.raises(WeightsMismatch) as met:
        to_ours(spec, theirs, DIALECTS["timm"], where="drawer.pth")
    assert str(met.value) == (
        "drawer.pth: does not fit resnet18 as timm spells it: 2 tensors missing (bn1.weight, layer4.1.bn2.bias); "
        r"1 tensor left over (\x1b[31m); 1 tensor misshapen (layer1.0.conv1.weight (64, 64, 1, 1) for (64, 64, 3, 3))"
    )


def test_counts_of_batches_that_an_old_file_lacks_are_zero():
    spec = ARCHITECTURES["resnet18"]
    theirs = to_theirs(spec, build(spec).state_dict(), DIALECTS["timm"])
    old = {name: tensor for name, tensor in theirs.items() if "num_batches" not in name}
    assert to_ours(spec, old, DIALECTS["timm"], where="memory")["stem.conv1.norm.num_batches_tracked"] == 0


def test_a_count_of_batches_may_have_a_dimension():
    spec = ARCHITECTURES["resnet18"]
    theirs = to_theirs(spec, build(spec).state_dict(), DIALECTS["timm"])
    theirs["bn1.num_batches_tracked"] = torch.tensor([7])
    met = to_ours(spec, theirs, DIALECTS["timm"], where="memory")["stem.conv1.norm.num_batches_tracked"]
    assert (met.tolist(), met.shape) == (7, ())


@pytest.mark.parametrize("told", ["timm", "paddleclas"])
def test_without_its_head_all_but_the_classifier_is_given_whether_there_is_one_or_not(told):
    spec = ARCHITECTURES["resnext50_32x4d"]
    state = build(spec).state_dict()
    theirs = to_theirs(spec, state, DIALECTS[told])
    headless = {name: tensor for name, tensor in theirs.items() if not name.startswith(("fc.", "out."))}
    for tensors in (theirs, headless):
        ours = to_ours(spec, tensors, DIALECTS[told], where="memory", headless=True)
        assert state.keys() - ours.keys() == {"head.weight", "head.bias"}
    assert len(headless) == len(theirs) - 2


def test_our_own_names_are_a_dialect_in_which_nothing_is_renamed():
    state = build(SMALL, num_classes=7).state_dict()
    theirs = to_theirs(SMALL, state, DIALECTS["anabranch"])
    assert theirs.keys() == state.keys()
    assert all(theirs[name] is state[name] for name in state)


@pytest.mark.parametrize("told", ["timm", "paddleclas"])
def test_the_heads_classes_and_the_stems_channels_are_the_files(told):
    spec = ARCHITECTURES["resnext50_32x4d"]
    theirs = to_theirs(spec, build(spec, num_classes=3, in_channels=4).state_dict(), DIALECTS[told])
    ours = to_ours(spec, theirs, DIALECTS[told], where="memory")
    assert (ours["head.weight"].shape, ours["stem.conv1.conv.weight"].shape) == ((3, 2048), (64, 4, 7, 7))


def test_a_net_of_another_function_is_refused_though_its_tensors_fit():
    spec = ARCHITECTURES["res2net50_26w_4s"]
    with pytest.raises(WeightsMismatch, match="paddleclas does not compute res2net50_26w_4s: its Res2Net chains"):
        to_theirs(spec, {}, DIALECTS["paddleclas"])
