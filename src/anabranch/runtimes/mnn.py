"""MNN on the CPU: for phones and small boards."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anabranch.artefact import file_ending
from anabranch.card import Card
from anabranch.engines import mnn, silenced, usable_cores
from anabranch.errors import ArtefactError
from anabranch.runtimes.predictor import check_graph

if TYPE_CHECKING:  # half as long to import as numpy itself
    from numpy.typing import NDArray


class MnnPredictor:
    """predict: (N, S, S, 3) uint8 -> (N, K) float32, for one thread at a time."""

    streams = 1

    def __init__(self, files: dict[str, Path], card: Card, *, precision: str, threads: int | None):
        self.card = card
        self.engine = f"mnn {precision}"
        self._free = threading.Lock()
        path = file_ending(files, ".mnn")
        library = mnn()
        self._expr = library.expr
        config = {"backend": "CPU", "precision": "high", "numThread": threads or usable_cores()}
        with silenced():  # it tells its developers what the processor can do
            runtime = library.nn.create_runtime_manager((config,))
            try:
                self._net = library.nn.load_module_from_file(str(path), ["pixels"], ["logits"], runtime_manager=runtime)
            except Exception as error:
                raise ArtefactError(f"MNN cannot read {path}: {error}") from None
        size = card.size_px  # it says nothing of a graph's shapes before it is asked
        logits = self.predict(np.zeros((1, size, size, 3), np.uint8))
        check_graph(path, card, takes=(1, size, size, 3), gives=logits.shape)

    def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.card.check_pixels(pixels)
        with self._free:
            takes = self._expr.placeholder(list(pixels.shape), self._expr.NCHW, self._expr.uint8)  # in its own order
            takes.write(np.ascontiguousarray(pixels))
            answered = self._net.forward([takes])
            if not answered:
                raise ArtefactError(f"MNN failed on the graph of {self.card.weights.name}")
            return np.array(answered[0].read(), np.float32)
