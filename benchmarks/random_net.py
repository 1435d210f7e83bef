"""A net with random weights as an artefact, for benchmarks in which answers mean nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from anabranch.calibration import Pictures
from anabranch.card import Card
from anabranch.images.preprocess import Preprocess
from anabranch.nets.net import Net, build
from anabranch.pack import pack


def export(arch: str, folder: Path, *, formats: Sequence[str], precisions: Sequence[str] = ("f32",)) -> Card:
    """Write the artefact `folder` for 224 px. INT8 is calibrated by noise, and as far off as it may be."""
    torch.manual_seed(0)
    noise = np.random.default_rng(0).integers(0, 256, (24, 224, 224, 3), dtype=np.uint8)
    return pack(
        _shaken(build(arch)),
        folder,
        preprocess=Preprocess(crop_px=224, resize_px=256),
        labels=[f"class {number}" for number in range(1000)],
        weights_name=f"{arch}.random",
        licence="CC0-1.0",
        formats=formats,
        precisions=precisions,
        pictures=Pictures("noise", noise[:8], calibration=noise[8:]),
        max_flips=1.0,
    )


def _shaken(net: Net) -> Net:
    """With norms' statistics as a trained net has them, or activations vanish and numbers become denormal."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)  # type: ignore[operator, union-attr]
            module.running_var.uniform_(0.5, 1.5, generator=generator)  # type: ignore[operator, union-attr]
    return net.eval()
