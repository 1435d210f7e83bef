"""OpenVINO on the CPU: the default engine."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anabranch.cache import cache_folder
from anabranch.card import Card
from anabranch.engines import openvino
from anabranch.errors import ArtefactError, UsageError
from anabranch.runtimes.predictor import check_graph

if TYPE_CHECKING:  # half as long to import as numpy itself
    from numpy.typing import NDArray

_CAPABILITY = {"f32": "FP32", "bf16": "BF16", "int8": "INT8"}

# Compiled graphs of larger nets would take more room in the cache than their faster start is worth.
_CACHED_UP_TO_BYTES = 512 << 20


class OpenVinoPredictor:
    """predict: (N, S, S, 3) uint8 -> (N, K) float32, for any thread."""

    def __init__(self, files: dict[str, Path], card: Card, *, precision: str, threads: int | None, streams: int):
        self.card = card
        self.engine = f"openvino {precision}"
        self.streams = streams
        self._graph = OpenVinoGraph(files, precision=precision, threads=threads, streams=streams)
        check_graph(self._graph.path, card, takes=self._graph.takes, gives=self._graph.gives[0])

    def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.card.check_pixels(pixels)
        return self._graph(pixels)[0]


class OpenVinoGraph:
    """One input and all outputs of a graph's files. One request per calling thread."""

    def __init__(self, files: dict[str, Path], *, precision: str, threads: int | None, streams: int = 1):
        self.path = next(path for name, path in files.items() if name.endswith(".xml"))
        core = openvino().Core()
        want_offered(core, precision)
        # Without a precision by name OpenVINO takes bf16 wherever the processor has it. What is INT8 the graph says.
        hint = "f32" if precision == "int8" else precision
        config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        if streams > 1:
            config |= {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": streams}
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        if sum(path.stat().st_size for path in files.values()) <= _CACHED_UP_TO_BYTES:
            config |= _cached()
        try:
            model = core.read_model(self.path)
        except RuntimeError as error:
            raise ArtefactError(f"OpenVINO cannot read {self.path}: {_last_line(error)}") from None
        self.takes, self.gives = _shape(model.input(0)), [_shape(output) for output in model.outputs]
        self._compiled = core.compile_model(model, "CPU", config)
        self._requests = threading.local()

    def __call__(self, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        request = getattr(self._requests, "one", None)
        if request is None:
            request = self._requests.one = self._compiled.create_infer_request()
        # A tensor that answers belongs to the request and is overwritten by its next answer: hand out copies.
        request.infer([np.ascontiguousarray(pixels)], share_inputs=True, share_outputs=True)
        return [np.array(request.get_output_tensor(index).data) for index in range(len(self.gives))]


def offered_precisions(core: Any) -> tuple[str, ...]:
    """What the processor computes in this OpenVINO core, of f32, bf16 and int8."""
    offered = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(precision for precision, capability in _CAPABILITY.items() if capability in offered)


def want_offered(core: Any, precision: str) -> None:
    """Raises UsageError where the processor does not compute in it."""
    if precision not in offered_precisions(core):
        raise UsageError(f"this processor computes no {precision} in OpenVINO; f32 runs everywhere")


def _cached() -> dict[str, str]:
    """Have OpenVINO keep what it compiles, and start from it the next time: a third of the time to a first answer.

    It tells graphs apart by all that is in them, weights too, and compiles anew where a kept file is damaged. Where
    nothing can be written there is nothing kept.
    """
    folder = cache_folder() / "openvino"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return {}
    return {"CACHE_DIR": str(folder)} if os.access(folder, os.W_OK) else {}


def _shape(port: Any) -> tuple[int | None, ...]:
    return tuple(size.get_length() if size.is_static else None for size in port.get_partial_shape())


def _last_line(error: RuntimeError) -> str:
    return [line for line in str(error).splitlines() if line.strip()][-1].strip()
