"""One tiny net with random statistics, and its artefact on both engines, made once."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from anabranch.arch import Arch
from anabranch.images.preprocess import Preprocess
from anabranch.nets.net import Net, build
from anabranch.pack import pack


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Nothing of a user's cache is read or written by a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANABRANCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


class Packed(NamedTuple):
    net: Net
    folder: Path


@pytest.fixture(scope="session")
def shake():
    """A function that gives a net's norms statistics, gains and biases as a trained net has them: none is neutral."""

    def shaken(net: Net, *, seed: int = 0) -> Net:
        generator = torch.Generator().manual_seed(seed)
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.2, 3, generator=generator)
                module.weight.data.uniform_(0.5, 1.5, generator=generator)
                module.bias.data.normal_(0, 0.3, generator=generator)
        return net.eval()

    return shaken


@pytest.fixture(scope="session")
def packed(tmp_path_factory, shake) -> Packed:
    torch.manual_seed(0)
    spec = Arch(depths=(1, 1), width=8, groups=2, group_width=32, stem=(8, 8, 8), shortcut="pool", squeeze=4)
    net = shake(build(spec, num_classes=5))
    folder = tmp_path_factory.mktemp("packed") / "tiny"
    pack(
        net,
        folder,
        preprocess=Preprocess(crop_px=33, resize_px=40, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3)),
        labels=["ant", "bee", "cat", "dög", "eel"],
        weights_name="tiny.random",
        licence="CC0-1.0",
    )
    return Packed(net, folder)
