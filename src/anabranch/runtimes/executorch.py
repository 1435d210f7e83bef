"""ExecuTorch on the CPU, by XNNPACK: PyTorch's own runtime for phones. Its Python side wants torch."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anabranch.artefact import file_ending
from anabranch.card import Card
from anabranch.engines import silenced
from anabranch.errors import ArtefactError, need
from anabranch.runtimes.one_by_one import OneByOnePredictor
from anabranch.runtimes.predictor import check_graph

if TYPE_CHECKING:  # half as long to import as numpy itself
    from numpy.typing import NDArray


class ExecutorchPredictor(OneByOnePredictor):
    def __init__(self, files: dict[str, Path], card: Card, *, precision: str, threads: int | None):
        super().__init__(card, f"executorch {precision}")
        path = file_ending(files, ".pte")
        need("executorch", extra="executorch")
        self._torch = need("torch", extra="torch")
        with silenced():  # it tells its developers what the processor can do
            runtime = importlib.import_module("executorch.runtime").Runtime.get()
            if threads is not None:
                importlib.import_module("executorch.extension.pybindings.portable_lib")._unsafe_reset_threadpool(
                    threads
                )
            try:
                self._program = runtime.load_program(path)  # what a method lies in; it must live as long
                self._method = self._program.load_method("forward")
            except Exception as error:
                raise ArtefactError(f"ExecuTorch cannot read {path}: {error}") from None
            if self._method is None:
                raise ArtefactError(f"ExecuTorch finds no graph in {path}")
            told = self._method.metadata
        takes, gives = (tuple(shape.sizes()) for shape in (told.input_tensor_meta(0), told.output_tensor_meta(0)))
        check_graph(path, card, takes=takes, gives=gives)

    def _answer(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        (logits,) = self._method.execute([self._torch.from_numpy(picture[None])])
        answered: NDArray[np.float32] = logits[0].numpy().copy()
        return answered
