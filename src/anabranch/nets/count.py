"""Exact learnable parameters and multiply-accumulates of any architecture, without allocating its weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from anabranch.arch import Arch
from anabranch.arch import arch as row
from anabranch.nets.net import Net


class Counts(NamedTuple):
    params: int  # learnable scalars: convolutions, norms' gains and biases, linear layers
    macs: int  # multiply-accumulates of convolutions and linear layers, for one picture


def count(arch: str | Arch, *, height: int = 224, width: int = 224, num_classes: int = 1000) -> Counts:
    """Counted by torch itself on the meta device. Raises UnknownName."""
    spec = row(arch) if isinstance(arch, str) else arch
    with torch.device("meta"):
        net = Net(spec, num_classes=num_classes).eval()
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            net(torch.empty(1, 3, height, width))
    params = sum(parameter.numel() for parameter in net.parameters())
    return Counts(params, counter.get_total_flops() // 2)  # torch counts a multiply and an add as two
