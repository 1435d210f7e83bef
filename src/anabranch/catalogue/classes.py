"""What the thousand outputs of an ImageNet-1k net stand for."""

from __future__ import annotations

from functools import cache
from pathlib import Path

CLASSES = Path(__file__).with_name("imagenet-1k.txt")


@cache
def imagenet_1k() -> tuple[tuple[str, str], ...]:
    """WordNet id and name of every class, in the order of the logits; no two names are alike."""
    lines = CLASSES.read_text(encoding="utf-8").splitlines()
    pairs = (line.split(" ", 1) for line in lines if not line.startswith("#"))
    return tuple((wordnet_id, name) for wordnet_id, name in pairs)
