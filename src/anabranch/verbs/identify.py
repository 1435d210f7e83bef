"""`anabranch identify`: which architecture and dialect a checkpoint is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from anabranch.errors import need
from anabranch.screen import bold, print_json

if TYPE_CHECKING:
    from anabranch.checkpoints.identify import Identified


def run(file: str, *, ema: bool, json: bool) -> int:
    need("torch", extra="torch")
    from anabranch.checkpoints.identify import identify

    met = identify(Path(file), ema=ema)
    if json:
        print_json(
            {
                "file": file,
                "kind": met.kind,
                "unwrapped": list(met.unwrapped),
                "candidates": [{"architecture": each.architecture, "dialect": each.dialect} for each in met.candidates],
                "num_classes": met.num_classes,
                "in_channels": met.in_channels,
                "sha256": met.sha256,
                "weights": met.weights,
                "published_digits": met.published_digits,
            }
        )
        return 0
    print(bold(file))
    for number, each in enumerate(met.candidates):
        print(f"  {'or' if number else 'is':<10}{each.architecture}, as {each.dialect} spells it")
    print(f"  {'classes':<10}{'none: its classifier is absent' if met.num_classes is None else f'{met.num_classes:,}'}")
    if met.in_channels != 3:
        print(f"  {'channels':<10}{met.in_channels}; what is trained, exported and classified here has 3")
    print(f"  {'file':<10}{met.kind}{''.join(f', in {wrapping!r}' for wrapping in met.unwrapped)}")
    print(f"  {'sha256':<10}{met.sha256}")
    print(f"  {'weights':<10}{_weights(met)}")
    return 0


def _weights(met: Identified) -> str:
    if met.weights is None:
        return "none of the published ones whose hash is known"
    if met.published_digits == 64:
        return met.weights
    return f"{met.weights}, by the first {met.published_digits} digits of its hash; no more are published"
