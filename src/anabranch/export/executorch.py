"""The graph for ExecuTorch, lowered to XNNPACK."""

from __future__ import annotations

import importlib
from pathlib import Path

import torch

from anabranch.engines import silenced
from anabranch.errors import need
from anabranch.export.fold import folded
from anabranch.export.graph import PixelsToLogits


def write_executorch(graph: PixelsToLogits, folder: Path, *, size_px: int) -> list[str]:
    """Write graph.pte, for one picture at a time. Gives its name. Raises MissingExtra."""
    need("executorch", extra="executorch")
    path = folder / "graph.pte"
    example = torch.zeros(1, size_px, size_px, 3, dtype=torch.uint8)
    with silenced(), torch.no_grad():
        exir = importlib.import_module("executorch.exir")
        xnnpack = importlib.import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner")
        program = torch.export.export(folded(graph), (example,))
        lowered = exir.to_edge_transform_and_lower(program, partitioner=[xnnpack.XnnpackPartitioner()])
        with path.open("wb") as file:
            lowered.to_executorch().write_to_file(file)
    return [path.name]
