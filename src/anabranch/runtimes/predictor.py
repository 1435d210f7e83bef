"""The one contract that evaluation, agreement, benchmark and server know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from anabranch.card import Card
from anabranch.errors import ArtefactError, UsageError

if TYPE_CHECKING:  # half as long to import as numpy itself
    from numpy.typing import NDArray


class Predictor(Protocol):
    @property
    def card(self) -> Card: ...

    @property
    def engine(self) -> str:
        """What computes, and in which precision: "openvino f32"."""

    @property
    def streams(self) -> int:
        """So many callers are answered at once; more of them wait for one another."""

    def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, S, S, 3) RGB -> (N, K) logits. Any N; safe from several threads. Raises UsageError."""
        ...


def check_pictures(pixels: NDArray[np.uint8], who: str, *, least_px: int = 1) -> None:
    """Raises UsageError unless these are (N, H, W, 3) uint8, with H and W of at least that."""
    dtype = str(getattr(pixels, "dtype", ""))
    shape: tuple[int, ...] = getattr(pixels, "shape", ())
    if dtype == "uint8" and len(shape) == 4 and shape[0] > 0 and shape[3] == 3 and min(shape[1:3]) >= least_px:
        return
    met = f"{dtype} {shape}" if dtype else f"a {type(pixels).__name__}"
    least = f", H and W of at least {least_px}" if least_px > 1 else ""
    raise UsageError(f"{who} takes pixels as uint8 (N, H, W, 3){least}; it met {met}")


def check_graph(path: Path, card: Card, *, takes: Sequence[object], gives: Sequence[object]) -> None:
    """Raises ArtefactError unless a graph's shapes are those of the card; the batch, in front, may be of any size."""
    met, wanted = (*takes[1:], *gives[1:]), (card.size_px, card.size_px, 3, card.num_classes)
    if len(takes) != 4 or met != wanted or (isinstance(gives[0], int) and gives[0] != takes[0]):
        raise ArtefactError(
            f"{path} takes pixels {tuple(takes)} and gives {tuple(gives)}; the card says (N, {card.size_px}, "
            f"{card.size_px}, 3) and (N, {card.num_classes}). Export the artefact again"
        )


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities over the last axis, same shape; logits of any size neither overflow nor vanish all together."""
    with np.errstate(over="ignore"):  # a difference beyond float32 is -inf, whose exponential is rightly 0
        scaled = np.exp(logits - logits.max(axis=-1, keepdims=True), dtype=np.float32)
    probabilities: NDArray[np.float32] = scaled / scaled.sum(axis=-1, keepdims=True)
    return probabilities


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The probability of each class by itself, same shape, for logits of any size."""
    probabilities: NDArray[np.float32] = 0.5 + 0.5 * np.tanh(0.5 * logits)
    return probabilities
