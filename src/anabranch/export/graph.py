"""The graph that every engine runs: pixels in, logits out, normalisation inside."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anabranch.images.preprocess import Preprocess


class PixelsToLogits(nn.Module):
    """(N, S, S, 3) uint8 RGB -> (N, K) float32 logits.

    Mean and std stay outside the first convolution: folded into it, the zeros it pads with would no longer be the mean
    pixel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, preprocess: Preprocess):
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(preprocess.mean, dtype=torch.float32).reshape(3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocess.std, dtype=torch.float32).reshape(3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels.permute(0, 3, 1, 2)  # (N, S, S, 3) -> (N, 3, S, S)
        x = (x.to(torch.float32) / 255 - self.mean) / self.std
        logits: Tensor = self.net(x)
        return logits
