"""`anabranch identify`: which architecture and dialect a checkpoint is."""

from __future__ import annotations

from pathlib import Path

from anabranch.errors import need
from anabranch.screen import bold, print_json


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
                "sha256": met.sha256,
                "weights": met.weights,
            }
        )
        return 0
    print(bold(file))
    for number, each in enumerate(met.candidates):
        print(f"  {'or' if number else 'is':<10}{each.architecture}, as {each.dialect} spells it")
    print(f"  {'classes':<10}{met.num_classes:,}")
    print(f"  {'file':<10}{met.kind}{''.join(f', in {wrapping!r}' for wrapping in met.unwrapped)}")
    print(f"  {'sha256':<10}{met.sha256}")
    print(f"  {'weights':<10}{met.weights or 'none of the published ones whose hash is known'}")
    return 0
