"""What engines have in common that answer for one picture, and for one thread, at a time."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from anabranch.card import Card

if TYPE_CHECKING:  # half as long to import as numpy itself
    from numpy.typing import NDArray


class OneByOnePredictor(ABC):
    """predict: (N, S, S, 3) uint8 -> (N, K) float32, a picture after the other."""

    streams = 1

    def __init__(self, card: Card, engine: str):
        self.card = card
        self.engine = engine
        self._free = threading.Lock()

    def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.card.check_pixels(pixels)
        with self._free:
            return np.stack([self._answer(np.ascontiguousarray(picture)) for picture in pixels])

    @abstractmethod
    def _answer(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(S, S, 3) -> (K,), in memory of its own."""

    def _blank(self) -> NDArray[np.uint8]:
        """A picture to try an engine with, of those that say nothing of a graph's shapes: black."""
        return np.zeros((self.card.size_px, self.card.size_px, 3), np.uint8)
