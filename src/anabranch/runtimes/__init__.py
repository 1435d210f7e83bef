"""From an artefact to answers, without torch."""

from __future__ import annotations

from anabranch.runtimes.open import ENGINES, builtin, open_model
from anabranch.runtimes.predictor import Predictor, softmax

__all__ = ["ENGINES", "Predictor", "builtin", "open_model", "softmax"]
