"""ncnn on the CPU: for phones and small boards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anabranch.artefact import file_ending
from anabranch.card import Card
from anabranch.engines import usable_cores
from anabranch.errors import ArtefactError, need
from anabranch.runtimes.one_by_one import OneByOnePredictor
from anabranch.runtimes.predictor import check_graph

if TYPE_CHECKING:  # half as long to import as numpy itself
    from numpy.typing import NDArray


class NcnnPredictor(OneByOnePredictor):
    def __init__(self, files: dict[str, Path], card: Card, *, precision: str, threads: int | None):
        super().__init__(card, f"ncnn {precision}")
        param, weights = (file_ending(files, end) for end in (".param", ".bin"))
        self._net = net = need("ncnn", extra="edge").Net()
        self._mat = need("ncnn", extra="edge").Mat
        net.opt.num_threads = threads or usable_cores()
        net.opt.use_vulkan_compute = False
        for narrow in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(net.opt, f"use_{narrow}", False)  # f32 is what was asked for
        if net.load_param(str(param)) != 0 or net.load_model(str(weights)) != 0:
            raise ArtefactError(f"ncnn cannot read {param} with {weights.name}")
        size = card.size_px  # ncnn does not say what a graph takes; it is tried
        check_graph(param, card, takes=(1, size, size, 3), gives=(1, *self._answer(self._blank()).shape))

    def _answer(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        held = picture.astype(np.float32)  # ncnn reads from this memory; it must live as long as the extractor
        extractor = self._net.create_extractor()
        extractor.input("in0", self._mat(held))
        status, logits = extractor.extract("out0")
        if status != 0:
            raise ArtefactError(f"ncnn failed on the graph of {self.card.weights.name} (status {status})")
        return np.array(logits, np.float32)
