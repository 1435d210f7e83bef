"""Segmentation with a net of this family: segmentation-models-pytorch's FPN head on feature maps at strides 4 to 32.

    pip install 'anabranch[torch]' segmentation-models-pytorch
    python examples/segmentation.py weights.pth        # any zoo's checkpoint of a net with four stages

Any head that takes a list of maps, coarser and coarser, joins in the same way: it wants `channels`, and `features`.
"""

from __future__ import annotations

import sys

import torch
from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from torch import Tensor, nn

import anabranch
from anabranch.nets.net import Net


class Segmenter(nn.Module):
    """(N, 3, H, W) normalised pixels, H and W multiples of 32 -> (N, num_classes, H, W) logits."""

    def __init__(self, net: Net, num_classes: int):
        super().__init__()
        self.net = net
        channels = [net.arch.channels(stage) for stage in range(4)]
        self.decoder = FPNDecoder(encoder_channels=channels, encoder_depth=4)
        self.head = SegmentationHead(self.decoder.out_channels, num_classes, kernel_size=1, upsampling=4)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.head(self.decoder(self.net.features(pixels)))
        return logits


if __name__ == "__main__":
    segmenter = Segmenter(anabranch.load(sys.argv[1], head="drop", num_classes=1), num_classes=21).eval()
    with torch.inference_mode():
        print(segmenter(torch.zeros(1, 3, 256, 256)).shape)
