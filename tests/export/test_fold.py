from __future__ import annotations

import copy

import pytest
import torch

from anabranch.arch import Arch, Quirk
from anabranch.export.fold import folded, folded_tensors, hollow
from anabranch.nets.net import build

BOTTLENECK = {"depths": (1, 1), "width": 8, "groups": 2, "group_width": 64}
RES2 = {"depths": (2, 1), "width": 8, "block": "res2", "splits": 4, "group_width": 16, "groups": 2}
BASIC = {"depths": (1, 1), "width": 8, "block": "basic"}

SPECS = {
    "plain": Arch(**BOTTLENECK),
    "squeezed, deep stem, pooled": Arch(**BOTTLENECK, squeeze=4, stem=(8, 8, 16), shortcut="pool"),
    "conv3x3 shortcut": Arch(**BOTTLENECK, shortcut="conv3x3"),
    "whole-picture stem": Arch(**RES2, stem=(8,), stem_stride=1),
    "halved reduce": Arch(**BOTTLENECK, quirks=frozenset({Quirk.HALVED_REDUCE})),
    "stride in reduce": Arch(**BOTTLENECK, quirks=frozenset({Quirk.STRIDE_IN_REDUCE})),
    "unpadded stem pool": Arch(**BOTTLENECK, quirks=frozenset({Quirk.UNPADDED_STEM_POOL})),
    "relu before squeeze": Arch(**BASIC, squeeze=4, quirks=frozenset({Quirk.RELU_BEFORE_SQUEEZE})),
    "squeeze in eights": Arch(**BASIC, squeeze=4, quirks=frozenset({Quirk.SQUEEZE_IN_EIGHTS})),
    "projected first shortcut": Arch(**BASIC, stem=(8,), quirks=frozenset({Quirk.PROJECTED_FIRST_SHORTCUT})),
    "splits reset on stride": Arch(**RES2, quirks=frozenset({Quirk.SPLITS_RESET_ON_STRIDE})),
    "mean skips padding": Arch(**RES2, quirks=frozenset({Quirk.MEAN_SKIPS_PADDING})),
}


def test_every_quirk_is_among_the_nets_folded_here():
    assert frozenset().union(*(spec.quirks for spec in SPECS.values())) == set(Quirk)


@pytest.mark.parametrize("name", SPECS)
def test_a_folded_net_computes_the_same_function(name, shake):
    torch.manual_seed(1)
    net = shake(build(SPECS[name], num_classes=7)).double()  # what is left is the fold's own error
    x = torch.randn(2, 3, 65, 67, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(folded(net)(x), net(x), rtol=1e-12, atol=1e-12)


def test_no_norm_is_left(shake):
    net = folded(shake(build(SPECS["plain"])))
    assert not [part for part in net.modules() if isinstance(part, torch.nn.BatchNorm2d)]


def test_folding_leaves_the_net_as_it_was(shake):
    net = shake(build(SPECS["squeezed, deep stem, pooled"])).train()
    before = copy.deepcopy(net.state_dict())
    folded(net)
    assert all(part.training for part in net.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_what_folding_does_not_change_is_not_copied(shake):
    net = shake(build(SPECS["plain"]))
    assert folded(net).head.weight.data_ptr() == net.head.weight.data_ptr()


def test_each_weight_is_rounded_once(shake):
    net = shake(build(SPECS["plain"]))
    part = net.stem.conv1
    exact = part.conv.weight.double() * (
        part.norm.weight.double() / (part.norm.running_var.double() + part.norm.eps).sqrt()
    ).reshape(-1, 1, 1, 1)
    assert torch.equal(folded(net).stem.conv1[0].weight, exact.float())


@pytest.mark.parametrize("name", SPECS)
def test_the_tensors_one_at_a_time_are_those_of_the_folded_net(name, shake):
    net = shake(build(SPECS[name], num_classes=7))
    wanted = folded(net).state_dict()
    met = {name: compute() for name, compute in folded_tensors(net)}
    assert set(met) == set(wanted)
    assert all(torch.equal(met[name], tensor) for name, tensor in wanted.items())


def test_a_hollow_net_has_every_shape_and_no_value():
    net = build(SPECS["squeezed, deep stem, pooled"])
    met, wanted = hollow(net).state_dict(), net.state_dict()
    assert {name: tensor.shape for name, tensor in met.items()} == {name: each.shape for name, each in wanted.items()}
    assert {tensor.device.type for tensor in met.values()} == {"meta"}
    assert {tensor.device.type for tensor in wanted.values()} == {"cpu"}
