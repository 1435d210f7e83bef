"""The graph as an ONNX file: traced without its weights, which are folded and written one after another."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from torch import Tensor

from anabranch.export.fold import folded, folded_tensors, hollow
from anabranch.export.graph import PixelsToFeatures, PixelsToLogits

OPSET, IR_VERSION = 18, 8  # servers are older than what writes for them: ONNX Runtime 1.15 was seen to read these
INPUT, OUTPUT, EMBEDDING = "pixels", "logits", "embedding"

# A protobuf message ends at 2 GB; the weights of larger nets go into a file beside it, named like it with ".data".
EXTERNAL_DATA_FROM_BYTES = 1_500_000_000

# What engines map into memory starts at a multiple of this, Windows' granularity; the ONNX specification asks for it.
_ALIGNMENT_BYTES = 1 << 16


def write_onnx(graph: PixelsToLogits | PixelsToFeatures, path: Path, *, size_px: int) -> list[str]:
    """Write `graph`, folded, for pixels (batch, size_px, size_px, 3), any batch. Gives the names of the files written.

    Input "pixels", output "logits", checked by onnx itself; features are for pixels of any size, and have the outputs
    `feature_names`. `graph` stays as it is, and of a net whose weights lie in a file of their own no second copy is
    made: only one tensor at a time.
    """
    weights = dict(folded_tensors(graph))
    with torch.no_grad(), _quiet():
        program = _traced(folded(hollow(graph)), size_px)
        for name, value in program.model.graph.initializers.items():
            value.const_value = _computed_when_written(name, weights.pop(name), value)
        program.optimize()
        assert not weights, f"the traced graph lacks {', '.join(weights)}"
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # stack traces with the paths of this machine
        program.model.ir_version = IR_VERSION
        held = [value.const_value for value in program.model.graph.initializers.values()]
        external = sum(tensor.nbytes for tensor in held if tensor is not None) > EXTERNAL_DATA_FROM_BYTES
        data = f"{path.name}.data" if external else None
        ir.save(program.model, path, external_data=data, alignment=_ALIGNMENT_BYTES, align_threshold=0)
    onnx.checker.check_model(path, full_check=True)
    return [path.name] if data is None else [path.name, data]


def feature_names(stages: int) -> list[str]:
    return [*(f"stage{number}" for number in range(1, stages + 1)), EMBEDDING]


def _traced(graph: PixelsToLogits | PixelsToFeatures, size_px: int) -> torch.onnx.ONNXProgram:
    """The program of a graph on the meta device; its initialisers carry the names of the state dict."""
    example = torch.empty(2, size_px, size_px, 3, dtype=torch.uint8, device="meta")  # of 1 it would make a constant
    free = {0: "batch"}
    names = [OUTPUT]
    if isinstance(graph, PixelsToFeatures):
        free |= {1: "height", 2: "width"}
        names = feature_names(len(graph.net.stages))
    program = torch.onnx.export(
        graph,
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=names,
        dynamic_shapes={INPUT: free},
        optimize=False,  # it looks at values, which are not there yet
        verbose=False,
    )
    assert program is not None
    return program


def _computed_when_written(name: str, compute: Callable[[], Tensor], value: ir.Value) -> ir.LazyTensor:
    assert value.dtype is not None
    assert value.shape is not None
    return ir.LazyTensor(
        lambda: ir.Tensor(compute().contiguous().numpy(), name=name), dtype=value.dtype, shape=value.shape, name=name
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the exporter says to its own developers: FutureWarnings, that torchvision is absent, sums of sizes
    that it could not simplify."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.fx.experimental.symbolic_shapes")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
