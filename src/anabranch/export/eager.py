"""The net in torch as a Predictor: what every engine is compared with."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from anabranch.card import Card
from anabranch.export.graph import PixelsToLogits
from anabranch.nets.net import Net


class EagerPredictor:
    """predict: (N, S, S, 3) uint8 -> (N, K) float32, on the device that the net's weights are on."""

    def __init__(self, net: Net, card: Card):
        self.card = card
        self.engine = "torch f32"
        self._device = next(net.parameters()).device
        self._graph = PixelsToLogits(net, card.preprocess).to(self._device)
        self._net = net

    def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.card.check_pixels(pixels)
        trained = [module for module in self._net.modules() if module.training]
        self._graph.eval()
        try:
            with torch.inference_mode():
                logits = self._graph(torch.from_numpy(np.ascontiguousarray(pixels)).to(self._device))
        finally:
            for module in trained:
                module.training = True  # not train(), which would wake those that were kept still
        answers: NDArray[np.float32] = logits.float().cpu().numpy()
        return answers
