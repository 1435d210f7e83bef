"""The graph for LiteRT, converted by litert-torch."""

from __future__ import annotations

import importlib
from pathlib import Path

import torch

from anabranch.engines import silenced
from anabranch.errors import need
from anabranch.export.fold import folded
from anabranch.export.graph import PixelsToLogits


def write_litert(graph: PixelsToLogits, folder: Path, *, size_px: int) -> list[str]:
    """Write graph.tflite, for one picture at a time. Gives its name. Raises MissingExtra."""
    path = folder / "graph.tflite"
    example = torch.zeros(1, size_px, size_px, 3, dtype=torch.uint8)
    with silenced(), torch.no_grad():
        need("litert_torch", extra="litert")
        importlib.import_module("litert_torch").convert(folded(graph), (example,)).export(str(path))
    return [path.name]
