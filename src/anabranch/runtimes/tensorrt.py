"""TensorRT-RTX on an NVIDIA GPU, with torch for what lies in its memory."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anabranch.artefact import file_ending
from anabranch.card import Card
from anabranch.engines import tensorrt
from anabranch.errors import ArtefactError, UsageError, need
from anabranch.runtimes.predictor import check_graph

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TensorRtRtxPredictor:
    """predict: (N, S, S, 3) uint8 -> (N, K) float32, for any thread, one after the other."""

    streams = 1

    def __init__(self, files: dict[str, Path], card: Card, *, precision: str, threads: int | None):
        trt, logger, said = tensorrt()
        self._torch = need("torch", extra="torch")
        if threads is not None:
            raise UsageError("tensorrt computes on a GPU, where threads are not counted; leave them out")
        if not self._torch.cuda.is_available():
            raise UsageError("tensorrt computes on an NVIDIA GPU, and torch finds none here; take another engine")
        self.card = card
        self.engine = f"tensorrt {precision}"
        path = file_ending(files, ".engine")
        engine = trt.Runtime(logger).deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise ArtefactError(f"TensorRT cannot read {path}: {said[-1] if said else 'it does not say why'}")
        takes, gives = (tuple(engine.get_tensor_shape(name)) for name in ("pixels", "logits"))
        check_graph(path, card, takes=takes, gives=gives)
        self._most = engine.get_tensor_profile_shape("pixels", 0)[-1][0]  # pictures that it was built for at a time
        self._context = engine.create_execution_context()
        self._one = threading.Lock()

    def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.card.check_pixels(pixels)
        parts = [pixels[first : first + self._most] for first in range(0, len(pixels), self._most)]
        with self._one:
            return np.concatenate([self._answer(part) for part in parts])

    def _answer(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        given = self._torch.from_numpy(np.ascontiguousarray(pixels)).cuda()
        logits = self._torch.empty((len(pixels), self.card.num_classes), device="cuda")
        self._context.set_input_shape("pixels", tuple(given.shape))
        self._context.set_tensor_address("pixels", given.data_ptr())
        self._context.set_tensor_address("logits", logits.data_ptr())
        stream = self._torch.cuda.current_stream()
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError("TensorRT did not run its engine")
        stream.synchronize()
        answers: NDArray[np.float32] = logits.cpu().numpy()
        return answers
