"""The graph as an ONNX file."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch

from anabranch.export.graph import PixelsToLogits

OPSET = 20
INPUT, OUTPUT = "pixels", "logits"

# A protobuf message ends at 2 GB; the weights of larger nets go into a file beside it, named like it with ".data".
EXTERNAL_DATA_FROM_BYTES = 1_500_000_000


def write_onnx(graph: PixelsToLogits, path: Path, *, size_px: int) -> list[str]:
    """Write `graph` for pixels (batch, size_px, size_px, 3), any batch. Gives the names of the files written.

    Input "pixels", output "logits", checked by onnx itself.
    """
    weights_bytes = sum(tensor.numel() * tensor.element_size() for tensor in graph.state_dict().values())
    external = weights_bytes > EXTERNAL_DATA_FROM_BYTES
    example = torch.zeros(2, size_px, size_px, 3, dtype=torch.uint8)  # a batch of 1 would be taken for a constant
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            graph,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={INPUT: {0: "batch"}},
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces with the paths of this machine
    program.save(path, external_data=external)
    onnx.checker.check_model(path, full_check=True)
    return [path.name, f"{path.name}.data"] if external else [path.name]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the exporter says to its own developers: FutureWarnings, and that torchvision is absent."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)
