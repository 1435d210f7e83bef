"""Exact learnable parameters and multiply-accumulates of any architecture, without allocating its weights.

`python -m anabranch.nets.count` counts the whole table anew and writes `catalogue/counts.csv`, from which the figures
are read where torch is absent.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from anabranch.arch import ARCHITECTURES, Arch
from anabranch.arch import arch as row
from anabranch.catalogue.index import COUNTS
from anabranch.nets.blocks import ConvNorm
from anabranch.nets.net import Net


class Counts(NamedTuple):
    params: int  # learnable scalars: convolutions, norms' gains and biases, linear layers
    macs: int  # multiply-accumulates of convolutions and linear layers, for one picture


def count(arch: str | Arch, *, height: int = 224, width: int = 224, num_classes: int = 1000) -> Counts:
    """Counted by torch itself on the meta device. Raises UnknownName."""
    spec = row(arch) if isinstance(arch, str) else arch
    with torch.device("meta"):
        net = Net(spec, num_classes=num_classes).eval()
        params = sum(parameter.numel() for parameter in net.parameters())
        for part in net.modules():
            if isinstance(part, ConvNorm):
                part.add_module("norm", nn.Identity())  # no MACs, and two thirds of the time on the meta device
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            net(torch.empty(1, 3, height, width))
    return Counts(params, counter.get_total_flops() // 2)  # torch counts a multiply and an add as two


def published_shape(arch: Arch) -> tuple[int, int]:
    """Input side in px and number of classes that such nets were published with: ImageNet-1k's, or CIFAR-10's."""
    return (32, 10) if arch.stem_stride == 1 else (224, 1000)


def table() -> str:
    """The text of counts.csv."""
    lines = ["name,params,macs,input_px,num_classes"]
    for name, spec in ARCHITECTURES.items():
        input_px, num_classes = published_shape(spec)
        counted = count(spec, height=input_px, width=input_px, num_classes=num_classes)
        lines.append(f"{name},{counted.params},{counted.macs},{input_px},{num_classes}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    COUNTS.write_text(table(), encoding="utf-8")
    print(f"wrote {COUNTS}")
