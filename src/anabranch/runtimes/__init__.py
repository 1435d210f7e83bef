"""From an artefact to answers, without torch."""

from __future__ import annotations

from anabranch.runtimes.any_size import AnySize, open_any_size
from anabranch.runtimes.backbone import Backbone, open_backbone
from anabranch.runtimes.open import ENGINES, builtin, open_model
from anabranch.runtimes.predictor import Predictor, softmax

__all__ = [
    "ENGINES",
    "AnySize",
    "Backbone",
    "Predictor",
    "builtin",
    "open_any_size",
    "open_backbone",
    "open_model",
    "softmax",
]
