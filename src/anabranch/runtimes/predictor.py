"""The one contract that evaluation, agreement, benchmark and server know."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from anabranch.card import Card


class Predictor(Protocol):
    @property
    def card(self) -> Card: ...

    def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, S, S, 3) RGB -> (N, K) logits. Any N; safe from several threads. Raises UsageError."""
        ...


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities over the last axis, same shape; logits of any size neither overflow nor vanish all together."""
    scaled = np.exp(logits - logits.max(axis=-1, keepdims=True), dtype=np.float32)
    probabilities: NDArray[np.float32] = scaled / scaled.sum(axis=-1, keepdims=True)
    return probabilities
