"""How far two predictors disagree on the same pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from anabranch.card import Agreement
from anabranch.errors import UsageError
from anabranch.runtimes.predictor import Predictor


def agreement(
    ours: Predictor | NDArray[np.float32],
    reference: Predictor | NDArray[np.float32],
    pixels: NDArray[np.uint8] | None = None,
    *,
    batch: int = 8,
) -> Agreement:
    """Compare two predictors on `pixels` (N, S, S, 3), or logits (N, K) that are already there.

    The largest logit is the reference's. A logit that is not finite on one side is infinitely far. Raises UsageError.
    """
    a, b = logits_of(ours, pixels, batch=batch), logits_of(reference, pixels, batch=batch)
    if a.shape != b.shape or a.ndim != 2 or a.size == 0:
        raise UsageError(f"logits of shapes {a.shape} and {b.shape} cannot be compared; two equal (N, K) are wanted")
    finite = np.isfinite(a) & np.isfinite(b)
    apart = np.where(finite, np.abs(np.subtract(a, b, where=finite, out=np.zeros(a.shape))), np.inf)
    return Agreement(
        max_abs=float(apart.max()),
        mean_abs=float(apart.mean()),
        largest_logit=float(np.abs(b[np.isfinite(b)]).max(initial=0)),
        top1_flips=int((a.argmax(1) != b.argmax(1)).sum()),
        num_pictures=len(a),
    )


def logits_of(
    source: Predictor | NDArray[np.float32], pixels: NDArray[np.uint8] | None, *, batch: int
) -> NDArray[np.float32]:
    """(N, K), asked for `batch` pictures at a time; what is already logits comes back as it is."""
    if isinstance(source, np.ndarray):
        return source
    if pixels is None or len(pixels) == 0:
        raise UsageError("a predictor needs pixels to answer; none were given")
    return np.concatenate([source.predict(pixels[i : i + batch]) for i in range(0, len(pixels), batch)])
