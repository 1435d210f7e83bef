"""ONNX Runtime on the CPU: the second engine, which runs wherever an ONNX file does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anabranch.card import Card
from anabranch.engines import onnxruntime
from anabranch.errors import ArtefactError
from anabranch.runtimes.predictor import check_graph

if TYPE_CHECKING:  # half as long to import as numpy itself
    from numpy.typing import NDArray

_ERRORS_ONLY = 3  # of its five levels of talk


class OnnxRuntimePredictor:
    """predict: (N, S, S, 3) uint8 -> (N, K) float32. One session serves all threads."""

    def __init__(self, files: dict[str, Path], card: Card, *, precision: str, threads: int | None):
        self.card = card
        self.engine = f"onnxruntime {precision}"
        path = next(path for name, path in files.items() if name.endswith(".onnx"))
        ort = onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        options.intra_op_num_threads = threads or 0  # 0: as many as there are cores
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors share no other base
            raise ArtefactError(f"ONNX Runtime cannot read {path}: {str(error).splitlines()[-1]}") from None
        takes, gives = self._session.get_inputs()[0].shape, self._session.get_outputs()[0].shape
        check_graph(path, card, takes=takes, gives=gives)

    def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.card.check_pixels(pixels)
        logits: NDArray[np.float32] = self._session.run(None, {"pixels": np.ascontiguousarray(pixels)})[0]
        return logits
