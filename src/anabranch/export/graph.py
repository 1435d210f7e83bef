"""The graphs that engines run: pixels in, logits or features out, normalisation inside."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import Tensor, nn

from anabranch.images.preprocess import Preprocess
from anabranch.nets.net import Net


class PixelsTo(nn.Module):
    """What a net is given: (N, H, W, 3) uint8 RGB -> (N, 3, H, W) normalised float32.

    Mean and std stay outside the first convolution: folded into it, the zeros it pads with would no longer be the mean
    pixel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, preprocess: Preprocess):
        super().__init__()
        self.register_buffer("mean", torch.tensor(preprocess.mean, dtype=torch.float32).reshape(3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocess.std, dtype=torch.float32).reshape(3, 1, 1))

    def normalised(self, pixels: Tensor) -> Tensor:
        x = pixels.to(torch.float32).permute(0, 3, 1, 2)  # (N, H, W, 3) -> (N, 3, H, W); TensorRT permutes no uint8
        return (x / 255 - self.mean) / self.std


class PixelsToLogits(PixelsTo):
    """(N, S, S, 3) uint8 RGB -> (N, K) float32 logits."""

    def __init__(self, net: nn.Module, preprocess: Preprocess):
        super().__init__(preprocess)
        self.net = net

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.net(self.normalised(pixels))
        return logits


class PixelsToFeatures(PixelsTo):
    """(N, H, W, 3) uint8 RGB, any H and W -> each stage's (N, C, H/stride, W/stride) and their last one's mean (N, C).

    `net` stays as it is; its head is left out.
    """

    def __init__(self, net: Net, preprocess: Preprocess):
        super().__init__(preprocess)
        shared: dict[int, object] = {id(tensor): tensor for tensor in chain(net.parameters(), net.buffers())}
        self.net = copy.deepcopy(net, {**shared, id(net.head): nn.Identity()})

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        maps = self.net.features(self.normalised(pixels))
        return (*maps, maps[-1].mean((2, 3)))  # (N, C, H, W) -> (N, C)
