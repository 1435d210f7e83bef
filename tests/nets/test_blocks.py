"""The parts against plain references, written from the papers' equations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anabranch.arch import Arch, Quirk
from anabranch.nets.blocks import ConvNorm, DropPath, Residual, Splits, Squeeze, branch, residual, shortcut, stem

BASIC = Arch(depths=(2, 2), block="basic", width=8, stem=(8,))
BOTTLENECK = Arch(depths=(2, 2), width=8, groups=2, group_width=32, stem=(8,))
RES2 = Arch(depths=(2, 2), block="res2", width=8, group_width=32, splits=4, stem=(8,))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def convolved(part: nn.Module, x: Tensor) -> Tensor:
    """What a ConvNorm with running statistics must give, without its ReLU: Ioffe and Szegedy 2015, algorithm 2."""
    conv, norm = part.conv, part.norm
    y = F.conv2d(x, conv.weight, stride=conv.stride, padding=conv.weight.shape[-1] // 2, groups=conv.groups)
    mean, var, gain, bias = (t[:, None, None] for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias))
    return gain * (y - mean) / torch.sqrt(var + 1e-5) + bias


def mean_pooled(x: np.ndarray, *, stride: int, count_padding: bool) -> np.ndarray:
    """A 3x3 mean over a picture with one pixel of zeros around it. (C, H, W) -> (C, ceil(H/stride), ceil(W/stride))"""
    padded, inside = (np.pad(a, ((0, 0), (1, 1), (1, 1))) for a in (x, np.ones_like(x)))
    rows, columns = range(0, x.shape[1], stride), range(0, x.shape[2], stride)
    out = np.empty((len(x), len(rows), len(columns)), x.dtype)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            window = np.s_[:, row : row + 3, column : column + 3]
            taps = 9 if count_padding else inside[window][0].sum()
            out[:, i, j] = padded[window].sum((1, 2)) / taps
    return out


def test_a_folded_convolution_is_the_convolution_and_its_norm(shake) -> None:
    part = shake(ConvNorm(6, 8, 3, stride=2, groups=2))
    x = torch.randn(2, 6, 9, 7)
    with torch.no_grad():
        torch.testing.assert_close(part.folded()(x), convolved(part, x).relu(), rtol=1e-5, atol=1e-5)


def test_a_convolution_before_the_addition_has_no_relu(shake) -> None:
    part = shake(ConvNorm(3, 4, 1, relu=False))
    x = torch.randn(1, 3, 5, 5)
    with torch.no_grad():
        torch.testing.assert_close(part(x), convolved(part, x), rtol=1e-5, atol=1e-5)


def test_a_squeeze_is_equations_2_to_4() -> None:
    """Hu et al. 2018: z = mean of x; s = sigmoid(W2 relu(W1 z)); x scaled by s, channel by channel."""
    squeeze = Squeeze(8, 2)
    x = torch.randn(3, 8, 5, 7)
    w1, b1, w2, b2 = (parameter.detach().numpy().squeeze() for parameter in squeeze.parameters())
    z = x.numpy().mean((2, 3))
    gate = 1 / (1 + np.exp(-(np.maximum(z @ w1.T + b1, 0) @ w2.T + b2)))
    np.testing.assert_allclose(squeeze(x).detach(), x.numpy() * gate[:, :, None, None], rtol=1e-5, atol=1e-6)


def test_a_legacy_squeeze_gates_what_a_relu_left() -> None:
    gating, x = Squeeze(8, 2, relu_first=True), torch.randn(3, 8, 5, 7)
    gating.relu_first = False
    expected = gating(x.relu())
    gating.relu_first = True
    torch.testing.assert_close(gating(x), expected)


@pytest.mark.parametrize("splits", [2, 3, 8])
@pytest.mark.parametrize("groups", [1, 2])
def test_splits_in_a_chain_are_equation_1(shake, splits: int, groups: int) -> None:
    """Gao et al. 2019, with the authors' order: y_i = K_i(x_i + y_{i-1}), and the last split as it is."""
    part = shake(Splits(4, splits, stride=1, groups=groups, apart=False, mean_skips_padding=False))
    x = torch.randn(2, 4 * splits, 6, 5)
    with torch.no_grad():
        ys, y = [], torch.zeros(2, 4, 6, 5)
        for i, conv in enumerate(part.convs):
            y = convolved(conv, x[:, 4 * i : 4 * i + 4] + y).relu()
            ys.append(y)
        expected = torch.cat([*ys, x[:, -4:]], 1)
        torch.testing.assert_close(part(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("skips", [False, True])
def test_splits_kept_apart_add_nothing_and_pool_the_last(shake, stride: int, skips: bool) -> None:
    part = shake(Splits(4, 3, stride=stride, groups=1, apart=True, mean_skips_padding=skips))
    x = torch.randn(2, 12, 7, 6)
    with torch.no_grad():
        got = part(x)
        for i, conv in enumerate(part.convs):
            torch.testing.assert_close(
                got[:, 4 * i : 4 * i + 4], convolved(conv, x[:, 4 * i : 4 * i + 4]).relu(), rtol=1e-4, atol=1e-5
            )
    pooled = np.stack([mean_pooled(sample, stride=stride, count_padding=not skips) for sample in x[:, 8:].numpy()])
    np.testing.assert_allclose(got[:, 8:], pooled, rtol=1e-5, atol=1e-6)


def apart(spec: Arch) -> list[tuple[bool, bool]]:
    """Of the first and second block of both stages: whether its splits stay apart."""
    firsts = (branch(spec, 32, stage, stride=stage + 1, first=True).splits.apart for stage in (0, 1))
    seconds = (branch(spec, 32, stage, stride=1, first=False).splits.apart for stage in (0, 1))
    return list(zip(firsts, seconds, strict=True))


def test_the_authors_keep_splits_apart_in_the_first_block_of_every_stage() -> None:
    assert apart(RES2) == [(True, False), (True, False)]


def test_paddleclas_keeps_splits_apart_only_where_a_block_strides() -> None:
    assert apart(replace(RES2, quirks=frozenset({Quirk.SPLITS_RESET_ON_STRIDE}))) == [(False, False), (True, False)]


def test_a_pooled_shortcut_takes_the_mean_of_what_is_there_and_projects_it(shake) -> None:
    """He et al. 2018, figure 2c; at an odd edge the 2x2 window holds two pixels or one."""
    part = shake(shortcut(replace(BOTTLENECK, shortcut="pool"), 6, 1, stride=2, first=True))
    x = torch.randn(1, 6, 5, 7)
    pooled = torch.stack(
        [torch.stack([x[:, :, i : i + 2, j : j + 2].mean((2, 3)) for j in range(0, 7, 2)], -1) for i in range(0, 5, 2)],
        -2,
    )
    with torch.no_grad():
        torch.testing.assert_close(part(x), convolved(part.project, pooled), rtol=1e-4, atol=1e-5)


def test_a_pooled_shortcut_that_does_not_stride_only_projects() -> None:
    assert isinstance(shortcut(replace(BOTTLENECK, shortcut="pool"), 8, 0, stride=1, first=True).pool, nn.Identity)


@pytest.mark.parametrize(
    ("kind", "stride", "kernel"), [("conv", 1, 1), ("conv", 2, 1), ("conv3x3", 1, 1), ("conv3x3", 2, 3)]
)
def test_a_strided_shortcut_is_one_convolution(kind: str, stride: int, kernel: int) -> None:
    part = shortcut(replace(BOTTLENECK, shortcut=kind), 8, 1, stride=stride, first=True)
    assert (part.project.conv.kernel_size, part.project.conv.stride) == ((kernel, kernel), (stride, stride))


def test_a_shortcut_where_nothing_changes_is_the_input() -> None:
    assert isinstance(shortcut(BOTTLENECK, 32, 0, stride=1, first=False), nn.Identity)


def test_a_block_is_relu_of_shortcut_and_squeezed_branch(shake) -> None:
    block = shake(residual(replace(BOTTLENECK, squeeze=4), 8, 0, first=True))
    x = torch.randn(2, 8, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(block(x), (block.shortcut(x) + block.squeeze(block.branch(x))).relu())
        assert (block(x) == 0).any()


def test_cardinality_keeps_groups_of_channels_apart(shake) -> None:
    """Xie et al. 2017, figure 3c: a change in one group of the 3x3 is seen in that group alone."""
    spatial = shake(branch(BOTTLENECK, 8, 0, stride=1, first=True)).spatial
    x = torch.randn(1, 8, 5, 5)
    changed = x.clone()
    changed[:, :4] += 1
    with torch.no_grad():
        differs = (spatial.conv(x) != spatial.conv(changed)).any(-1).any(-1)[0]
    assert differs.tolist() == [True] * 4 + [False] * 4


def quirk_pairs() -> list[tuple[Quirk, Arch]]:
    squeezed = replace(BASIC, squeeze=4)
    return [
        (Quirk.STRIDE_IN_REDUCE, BOTTLENECK),
        (Quirk.UNPADDED_STEM_POOL, BOTTLENECK),
        (Quirk.RELU_BEFORE_SQUEEZE, squeezed),
        (Quirk.SPLITS_RESET_ON_STRIDE, RES2),
        (Quirk.MEAN_SKIPS_PADDING, RES2),
        (Quirk.HALVED_REDUCE, BOTTLENECK),
        (Quirk.SQUEEZE_IN_EIGHTS, squeezed),
        (Quirk.PROJECTED_FIRST_SHORTCUT, BASIC),
    ]


def parts(spec: Arch) -> nn.Sequential:
    """A stem and both stages' blocks, as a net strings them together."""
    blocks = [residual(spec, spec.stem[-1], 0, first=True), residual(spec, spec.channels(0), 0, first=False)]
    blocks += [residual(spec, spec.channels(0), 1, first=True), residual(spec, spec.channels(1), 1, first=False)]
    return nn.Sequential(stem(spec, 3), *blocks)


def test_every_quirk_has_its_test() -> None:
    assert {quirk for quirk, _ in quirk_pairs()} == set(Quirk)


@pytest.mark.parametrize(("quirk", "spec"), quirk_pairs()[:5])
def test_a_quirk_of_function_loads_the_plain_nets_tensors_and_answers_otherwise(shake, quirk, spec) -> None:
    plain, quirky = shake(parts(spec)), parts(replace(spec, quirks=frozenset({quirk})))
    quirky.load_state_dict(plain.state_dict(), strict=True)
    x = torch.randn(1, 3, 36, 36)
    with torch.no_grad():
        assert not torch.allclose(plain(x), quirky.eval()(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("quirk", "spec"), quirk_pairs()[5:])
def test_a_quirk_of_shape_changes_the_tensors(quirk: Quirk, spec: Arch) -> None:
    def shapes(module: nn.Module) -> dict[str, torch.Size]:
        return {name: tensor.shape for name, tensor in module.state_dict().items()}

    assert shapes(parts(spec)) != shapes(parts(replace(spec, quirks=frozenset({quirk}))))


def test_halved_reduce_leaves_the_3x3_as_wide_as_it_was() -> None:
    halved = branch(replace(BOTTLENECK, quirks=frozenset({Quirk.HALVED_REDUCE})), 32, 0, stride=1, first=True)
    assert [tuple(conv.weight.shape[:2]) for conv in (halved.reduce.conv, halved.spatial.conv)] == [(4, 32), (8, 2)]


def test_the_stride_sits_in_the_1x1_where_caffe_put_it() -> None:
    strides = {
        quirks: [
            part.conv.stride[0] for part in branch(replace(BOTTLENECK, quirks=quirks), 32, 1, stride=2, first=True)
        ]
        for quirks in (frozenset(), frozenset({Quirk.STRIDE_IN_REDUCE}))
    }
    assert list(strides.values()) == [[1, 2, 1], [2, 1, 1]]


@pytest.mark.parametrize(("side", "padded", "unpadded"), [(224, 56, 56), (226, 57, 56), (201, 51, 50)])
def test_the_caffe_stem_pool_pads_nothing_and_rounds_up(side: int, padded: int, unpadded: int) -> None:
    """Of n pixels after the first convolution: floor((n - 1) / 2) + 1 against ceil((n - 3) / 2) + 1."""
    x = torch.zeros(1, 3, side, side)
    caffe = replace(BOTTLENECK, quirks=frozenset({Quirk.UNPADDED_STEM_POOL}))
    assert [stem(spec, 3)(x).shape[-1] for spec in (BOTTLENECK, caffe)] == [padded, unpadded]


@pytest.mark.parametrize(("channels", "plain", "eights"), [(64, 4, 8), (128, 8, 8), (192, 12, 16), (256, 16, 16)])
def test_squeeze_widths_round_as_timms_make_divisible(channels: int, plain: int, eights: int) -> None:
    spec = Arch(depths=(1,), squeeze=16)
    rounded = replace(spec, quirks=frozenset({Quirk.SQUEEZE_IN_EIGHTS}))
    assert (spec.squeeze_width(channels), rounded.squeeze_width(channels)) == (plain, eights)


def test_a_small_picture_stem_keeps_every_pixel() -> None:
    small = stem(replace(BOTTLENECK, stem_stride=1), 3)
    assert small(torch.zeros(1, 3, 17, 9)).shape == (1, 8, 17, 9)
    assert small.conv1.conv.kernel_size == (3, 3)


def test_a_deep_stem_strides_in_its_first_convolution_and_its_pool() -> None:
    deep = stem(replace(BOTTLENECK, stem=(4, 6, 8)), 5)
    assert [tuple(part.conv.weight.shape) for part in list(deep)[:3]] == [(4, 5, 3, 3), (6, 4, 3, 3), (8, 6, 3, 3)]
    assert [part.conv.stride[0] for part in list(deep)[:3]] == [2, 1, 1]


def test_drop_path_leaves_out_whole_samples_and_keeps_the_mean() -> None:
    dropped = DropPath(0.3).train()(torch.ones(20_000, 2, 1, 1))
    assert dropped.unique().tolist() == [0, pytest.approx(1 / 0.7)]
    assert torch.equal(dropped[:, 0], dropped[:, 1])
    # the share that is kept is binomial: five standard errors are 0.016
    assert (dropped[:, 0] > 0).float().mean().item() == pytest.approx(0.7, abs=0.016)


def test_drop_path_rests_outside_training() -> None:
    x = torch.randn(4, 2, 3, 3)
    assert torch.equal(DropPath(0.9).eval()(x), x)


def test_a_block_whose_branch_is_dropped_is_its_shortcut() -> None:
    block = Residual(nn.Conv2d(4, 4, 1), nn.Identity(), nn.Identity(), drop_path=0.999_999).train()
    x = torch.randn(8, 4, 3, 3)
    assert torch.equal(block(x), x.relu())
