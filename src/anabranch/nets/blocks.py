"""The parts of a net: a convolution with its norm, the three branches, the squeeze, the shortcut, and their sum."""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
from torch import Tensor, nn

from anabranch.arch import Arch, Quirk


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, and ReLU if asked for. (N, C_in, H, W) -> (N, C_out, H/stride, W/stride)"""

    def __init__(self, c_in: int, c_out: int, kernel: int, *, stride: int = 1, groups: int = 1, relu: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(c_out)
        self.act = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.norm(self.conv(x)))
        return y

    def folded(self) -> nn.Sequential:
        """The same function as one convolution with bias: the norm's running statistics become part of the weights.

        Computed in float64, so that each weight is rounded once.
        """
        conv, norm = self.conv, self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert isinstance(conv.padding, tuple)
        gain = norm.weight.double() * torch.rsqrt(norm.running_var.double() + norm.eps)
        weight = conv.weight.double() * gain[:, None, None, None]
        bias = norm.bias.double() - norm.running_mean.double() * gain
        folded = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            (conv.kernel_size[0], conv.kernel_size[1]),
            (conv.stride[0], conv.stride[1]),
            (conv.padding[0], conv.padding[1]),
            groups=conv.groups,
            device="meta",
        )
        folded.weight = nn.Parameter(weight.detach().to(conv.weight.dtype), requires_grad=False)
        folded.bias = nn.Parameter(bias.detach().to(conv.weight.dtype), requires_grad=False)
        return nn.Sequential(folded, copy.deepcopy(self.act))


class Squeeze(nn.Module):
    """Scale each channel by a gate computed from all channels' means.

    x: (N, C, H, W) -> same shape. Source: Hu et al. 2018, eq. 2-4.
    """

    def __init__(self, channels: int, squeezed: int, *, relu_first: bool = False):
        super().__init__()
        self.relu_first = relu_first
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.relu_first:
            x = torch.relu(x)
        means = x.mean((2, 3), keepdim=True)  # (N, C, H, W) -> (N, C, 1, 1)
        gate = torch.sigmoid(self.expand(torch.relu(self.reduce(means))))
        return x * gate


class Splits(nn.Module):
    """Res2Net's 3x3: equal splits of the channels, each convolved after the split before it has been added.

    x: (N, s * C, H, W) -> (N, s * C, H/stride, W/stride). The last split passes through. Where the splits stay apart
    nothing is added, and the last one is mean-pooled so that it too is strided and smoothed.
    Source: Gao et al. 2019, eq. 1; `apart` as in the authors' code, "stage" blocks.
    """

    def __init__(self, width: int, splits: int, *, stride: int, groups: int, apart: bool, mean_skips_padding: bool):
        super().__init__()
        self.width = width
        self.apart = apart
        self.convs = nn.ModuleList(ConvNorm(width, width, 3, stride=stride, groups=groups) for _ in range(splits - 1))
        self.last = nn.AvgPool2d(3, stride, 1, count_include_pad=not mean_skips_padding) if apart else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        *chunks, last = torch.split(x, self.width, 1)
        done: list[Tensor] = []
        for conv, chunk in zip(self.convs, chunks, strict=True):
            done.append(conv(chunk if self.apart or not done else chunk + done[-1]))
        return torch.cat([*done, self.last(last)], 1)


def branch(arch: Arch, c_in: int, stage: int, *, stride: int, first: bool) -> nn.Sequential:
    """The convolutions of one block of stage 0, 1, ..., without its last ReLU.

    (N, c_in, H, W) -> (N, arch.channels(stage), H/stride, W/stride). `first` in its stage.
    """
    width, c_out = arch.branch_width(stage), arch.channels(stage)
    if arch.block == "basic":
        return _named(enter=ConvNorm(c_in, width, 3, stride=stride), leave=ConvNorm(width, c_out, 3, relu=False))
    if arch.block == "res2":
        splits = Splits(
            width,
            arch.splits,
            stride=stride,
            groups=arch.groups,
            apart=stride > 1 if Quirk.SPLITS_RESET_ON_STRIDE in arch.quirks else first,
            mean_skips_padding=Quirk.MEAN_SKIPS_PADDING in arch.quirks,
        )
        width *= arch.splits
        return _named(reduce=ConvNorm(c_in, width, 1), splits=splits, expand=ConvNorm(width, c_out, 1, relu=False))
    reduced = width // 2 if Quirk.HALVED_REDUCE in arch.quirks else width
    outer, inner = (stride, 1) if Quirk.STRIDE_IN_REDUCE in arch.quirks else (1, stride)
    return _named(
        reduce=ConvNorm(c_in, reduced, 1, stride=outer),
        spatial=ConvNorm(reduced, width, 3, stride=inner, groups=arch.groups),
        expand=ConvNorm(width, c_out, 1, relu=False),
    )


def shortcut(arch: Arch, c_in: int, stage: int, *, stride: int, first: bool) -> nn.Module:
    """What a block adds its branch to: the input itself, or a projection where the shapes differ."""
    c_out = arch.channels(stage)
    forced = first and stage == 0 and Quirk.PROJECTED_FIRST_SHORTCUT in arch.quirks
    if stride == 1 and c_in == c_out and not forced:
        return nn.Identity()
    if arch.shortcut == "pool":
        pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
        return _named(pool=pool, project=ConvNorm(c_in, c_out, 1, relu=False))
    kernel = 3 if arch.shortcut == "conv3x3" and stride > 1 else 1
    return _named(project=ConvNorm(c_in, c_out, kernel, stride=stride, relu=False))


class DropPath(nn.Module):
    """While training, leave out the branch of each sample with probability `rate`, and scale the rest to match.

    Source: Huang et al. 2016, "stochastic depth".
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = x.new_empty(len(x), 1, 1, 1).bernoulli_(1 - self.rate)
        return x * keep / (1 - self.rate)


class Residual(nn.Module):
    """relu(shortcut(x) + squeeze(branch(x))).  (N, C_in, H, W) -> (N, C_out, H/s, W/s)"""

    def __init__(self, branch: nn.Module, squeeze: nn.Module, shortcut: nn.Module, drop_path: float = 0.0):
        super().__init__()
        self.branch = branch
        self.squeeze = squeeze
        self.shortcut = shortcut
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.shortcut(x) + self.drop_path(self.squeeze(self.branch(x))))


def residual(arch: Arch, c_in: int, stage: int, *, first: bool, drop_path: float = 0.0) -> Residual:
    """One block of stage 0, 1, ...; the first of every stage but stage 0 strides by 2."""
    stride = 2 if first and stage > 0 else 1
    c_out = arch.channels(stage)
    squeeze: nn.Module = nn.Identity()
    if arch.squeeze:
        squeeze = Squeeze(c_out, arch.squeeze_width(c_out), relu_first=Quirk.RELU_BEFORE_SQUEEZE in arch.quirks)
    return Residual(
        branch(arch, c_in, stage, stride=stride, first=first),
        squeeze,
        shortcut(arch, c_in, stage, stride=stride, first=first),
        drop_path,
    )


def stem(arch: Arch, in_channels: int) -> nn.Sequential:
    """(N, in_channels, H, W) -> (N, arch.stem[-1], H/stem_stride, W/stem_stride)"""
    stride = 2 if arch.stem_stride == 4 else 1
    kernel = 7 if len(arch.stem) == 1 and stride == 2 else 3
    widths = (in_channels, *arch.stem)
    layers = {
        f"conv{i}": ConvNorm(c_in, c_out, kernel, stride=stride if i == 1 else 1)
        for i, (c_in, c_out) in enumerate(zip(widths, arch.stem, strict=False), start=1)
    }
    if arch.stem_stride == 1:
        return _named(**layers)
    if Quirk.UNPADDED_STEM_POOL in arch.quirks:
        return _named(**layers, pool=nn.MaxPool2d(3, 2, ceil_mode=True))
    return _named(**layers, pool=nn.MaxPool2d(3, 2, padding=1))


def _named(**modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(modules))
