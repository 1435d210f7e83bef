"""LiteRT on the CPU: what TensorFlow Lite became."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anabranch.artefact import file_ending
from anabranch.card import Card
from anabranch.engines import silenced, usable_cores
from anabranch.errors import ArtefactError, need
from anabranch.runtimes.one_by_one import OneByOnePredictor
from anabranch.runtimes.predictor import check_graph

if TYPE_CHECKING:  # half as long to import as numpy itself
    from numpy.typing import NDArray


class LitertPredictor(OneByOnePredictor):
    def __init__(self, files: dict[str, Path], card: Card, *, precision: str, threads: int | None):
        super().__init__(card, f"litert {precision}")
        path = file_ending(files, ".tflite")
        need("ai_edge_litert", extra="litert")
        with silenced():  # it tells its developers which delegates it has
            interpreter = importlib.import_module("ai_edge_litert.interpreter")
            try:
                self._net = interpreter.Interpreter(model_path=str(path), num_threads=threads or usable_cores())
                self._net.allocate_tensors()
            except (ValueError, RuntimeError) as error:
                raise ArtefactError(f"LiteRT cannot read {path}: {str(error).splitlines()[0]}") from None
        (takes,), (gives,) = self._net.get_input_details(), self._net.get_output_details()
        check_graph(path, card, takes=takes["shape"].tolist(), gives=gives["shape"].tolist())
        self._takes, self._gives = takes["index"], gives["index"]

    def _answer(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        self._net.set_tensor(self._takes, picture[None])
        self._net.invoke()
        logits: NDArray[np.float32] = self._net.get_tensor(self._gives)[0]
        return logits
