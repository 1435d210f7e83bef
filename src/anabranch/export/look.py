"""What an ONNX graph holds inside, on pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from anabranch.engines import onnxruntime
from anabranch.export.onnx import INPUT

_BATCH = 4  # pictures, of which all that is asked for is held at once

Array = NDArray[Any]


def look(
    path: Path, names: Sequence[str], pixels: NDArray[np.uint8], *, fused: bool = True
) -> Iterator[dict[str, Array]]:
    """For each few pictures of `pixels` (M, S, S, 3), in their order, the tensors of these names."""
    model = onnx.load(path, load_external_data=False)  # which lies beside it
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".onnx") as shown:
        onnx.save(model, shown.name)
        opened = session(shown.name, fused=fused)
    for first in range(0, len(pixels), _BATCH):
        yield dict(zip(names, opened.run(names, {INPUT: pixels[first : first + _BATCH]}), strict=True))


def session(model: str | bytes, *, fused: bool = True) -> Any:
    """`fused`: as ONNX Runtime computes it fastest; otherwise each node by itself, in the floats that it says."""
    ort = onnxruntime()
    options = ort.SessionOptions()
    if not fused:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
