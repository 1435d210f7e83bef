from __future__ import annotations

import pytest
import torch
from torch import nn

from anabranch.arch import ARCHITECTURES, Arch, Quirk
from anabranch.catalogue.index import counts
from anabranch.errors import ArchError, UnknownName
from anabranch.nets.blocks import Residual
from anabranch.nets.net import Net, build

TINY = Arch(depths=(2, 1, 1, 1), width=8, groups=2, group_width=32, stem=(8, 8, 8), shortcut="pool", squeeze=4)
SMALL = [name for name, counted in counts().items() if counted.params <= 100e6]
LARGE = [name for name in ARCHITECTURES if name not in SMALL]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_every_net_answers_pictures_of_odd_size(name: str) -> None:
    size = (1, 3, 29, 33) if counts()[name].input_px == 32 else (1, 3, 201, 239)
    with torch.inference_mode():
        logits = build(name).eval()(torch.randn(size))
    assert logits.shape == (1, 1000)
    assert logits.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SMALL if counts()[name].params <= 30e6])
def test_nets_of_50_layers_answer_two_pictures_of_the_usual_size(name: str) -> None:
    side = counts()[name].input_px
    with torch.inference_mode():
        logits = build(name).eval()(torch.randn(2, 3, side, side))
    assert logits.shape == (2, 1000)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", LARGE)
def test_nets_over_100_million_parameters_answer_on_the_meta_device(name: str) -> None:
    with torch.device("meta"), torch.inference_mode():
        net = Net(ARCHITECTURES[name]).eval()
        assert net(torch.empty(2, 3, 224, 224)).shape == (2, 1000)
        assert net(torch.empty(1, 3, 201, 239)).shape == (1, 1000)


def test_features_halve_from_stride_4_to_32() -> None:
    with torch.inference_mode():
        shapes = [tuple(each.shape) for each in build(TINY).eval().features(torch.zeros(2, 3, 64, 96))]
    assert shapes == [(2, 32, 16, 24), (2, 64, 8, 12), (2, 128, 4, 6), (2, 256, 2, 3)]


def test_features_of_a_small_picture_net_begin_at_full_size() -> None:
    net = build(Arch(depths=(1, 1, 1), block="basic", width=8, stem=(8,), stem_stride=1)).eval()
    assert [each.shape[-1] for each in net.features(torch.zeros(1, 3, 32, 32))] == [32, 16, 8]


def test_the_embedding_is_the_mean_of_the_last_feature_and_the_logits_its_linear_map(shake) -> None:
    net, x = shake(build(TINY, num_classes=7)), torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        vector = net.embed(x)
        torch.testing.assert_close(vector, net.features(x)[-1].mean((2, 3)))
        torch.testing.assert_close(net(x), vector @ net.head.weight.T + net.head.bias)


def test_a_net_of_a_name_is_the_net_of_its_row() -> None:
    assert build("resnext29_8x64d", num_classes=10).arch == ARCHITECTURES["resnext29_8x64d"]


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UnknownName, match="resnext29_8x64d"):
        build("resnext29_8x46d")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"num_classes": 0}, "num_classes = 0"),
        ({"in_channels": 0}, "in_channels = 0"),
        ({"dropout": 1.0}, r"dropout = 1\.0"),
        ({"drop_path": -0.1}, r"drop_path = -0\.1"),
    ],
)
def test_arguments_out_of_range_are_named_with_their_value(wrong: dict[str, float], told: str) -> None:
    with pytest.raises(ArchError, match=told):
        build(TINY, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [1, 4])
def test_a_net_takes_other_than_three_channels(channels: int) -> None:
    net = build(TINY, in_channels=channels, num_classes=5).eval()
    assert net(torch.zeros(1, channels, 32, 32)).shape == (1, 5)


def test_zero_gamma_makes_a_new_block_its_shortcut() -> None:
    net, x = build(TINY, zero_gamma=True).eval(), torch.randn(2, 32, 6, 6)
    block = net.stages[0][1]
    assert isinstance(block.shortcut, nn.Identity)
    torch.testing.assert_close(block(x), x.relu(), rtol=0, atol=0)


@pytest.mark.parametrize("block", ["basic", "res2", "bottleneck"])
def test_zero_gamma_silences_the_last_norm_of_each_branch_and_no_other(block: str) -> None:
    cut = {} if block == "basic" else {"group_width": 32}
    spec = Arch(depths=(2, 1), block=block, width=8, splits=4 if block == "res2" else 1, stem=(8,), **cut)  # type: ignore
    net = build(spec, zero_gamma=True)
    silent = {
        name for name, each in net.named_modules() if isinstance(each, nn.BatchNorm2d) and (each.weight == 0).all()
    }
    last = "leave" if block == "basic" else "expand"
    assert silent == {f"stages.{at}.branch.{last}.norm" for at in ("0.0", "0.1", "1.0")}


def test_drop_path_grows_with_depth_from_none_to_all_of_it() -> None:
    """Huang et al. 2016, eq. 4, with the first block always kept."""
    net = build(TINY, drop_path=0.2)
    rates = [each.drop_path.rate for each in net.modules() if isinstance(each, Residual)]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_dropout_and_drop_path_change_nothing_outside_training() -> None:
    net, plain, x = build(TINY, dropout=0.5, drop_path=0.5).eval(), build(TINY).eval(), torch.randn(2, 3, 64, 64)
    plain.load_state_dict(net.state_dict())
    with torch.inference_mode():
        assert torch.equal(net(x), plain(x))


def test_dropout_thins_the_embedding_while_training() -> None:
    net = build(TINY, dropout=0.5, num_classes=5).train()
    seen: list[torch.Tensor] = []
    net.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    net(torch.randn(64, 3, 64, 64))
    # half of 64 x 256 values, some of which ReLU had left at zero already
    assert 0.45 < (seen[0] == 0).float().mean() < 0.75


def test_convolutions_start_he_normal_by_fan_out() -> None:
    """He et al. 2015, section 2.2: variance 2 / (k^2 c_out); like torchvision, whatever the groups."""
    net = build(Arch(depths=(1, 1), groups=4, group_width=64, width=64))
    for convolution in (each for each in net.modules() if isinstance(each, nn.Conv2d) and each.weight.numel() > 50_000):
        k, c_out = convolution.kernel_size[0], convolution.out_channels
        # the standard error of a deviation over n values is its 1/sqrt(2n): at most 0.0032 of it here
        assert convolution.weight.std().item() == pytest.approx((2 / (k * k * c_out)) ** 0.5, rel=0.016)


def test_norms_start_neutral_and_squeezes_without_bias() -> None:
    net = build(TINY)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            assert (module.bias == 0).all()


def test_the_first_block_of_every_stage_but_the_first_strides() -> None:
    net = build(Arch(depths=(2, 2, 2), block="basic", width=8, stem=(8,)))
    strides = [[block.branch.enter.conv.stride[0] for block in stage] for stage in net.stages]
    assert strides == [[1, 1], [2, 1], [2, 1]]


def test_paddles_first_shortcut_projects_in_stage_1_alone() -> None:
    spec = Arch(depths=(2, 2), block="basic", width=8, stem=(8,), quirks=frozenset({Quirk.PROJECTED_FIRST_SHORTCUT}))
    kinds = [[isinstance(block.shortcut, nn.Identity) for block in stage] for stage in build(spec).stages]
    assert kinds == [[False, True], [False, True]]
