"""The net in torch as a Predictor: what every engine is compared with, and an engine itself, the one for CUDA."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from anabranch.artefact import file_ending
from anabranch.card import Card
from anabranch.errors import ArtefactError, CheckpointError, UsageError, WeightsMismatch, shown
from anabranch.export.graph import PixelsToFeatures, PixelsToLogits
from anabranch.images.preprocess import Preprocess
from anabranch.nets.load import load_strictly
from anabranch.nets.net import Net, build
from anabranch.nets.store import read_tensors, write_tensors

_AUTOCAST = {"bf16": torch.bfloat16, "f16": torch.float16}


_threads = {"started": False, "lost": False}  # torch's own, in this process


def _note_fork() -> None:
    _threads["lost"] = _threads["started"]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def _want_threads() -> None:
    """Raises UsageError where torch would wait for threads that stayed in the process that this one was forked from."""
    if _threads["lost"]:
        raise UsageError(
            "torch has answered in the process that this one was forked from, and its threads are not here: start "
            "processes by spawn, open the model with threads=1, or take the engine openvino"
        )
    _threads["started"] = True


class EagerPredictor:
    """predict: (N, S, S, 3) uint8 -> (N, K) float32, on the device that the net's weights are on."""

    streams = 1

    def __init__(self, net: Net, card: Card):
        self.card = card
        self.engine = "torch f32"
        self._device = next(net.parameters()).device
        self._autocast: torch.dtype | None = None
        self._graph = PixelsToLogits(net, card.preprocess).to(self._device)
        self._net = net

    def predict(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.card.check_pixels(pixels)
        if self._device.type == "cpu" and torch.get_num_threads() > 1:
            _want_threads()
        trained = [module for module in self._net.modules() if module.training]
        self._graph.eval()
        try:
            with torch.inference_mode(), self._autocasting():
                logits = self._graph(torch.from_numpy(np.ascontiguousarray(pixels)).to(self._device))
        finally:
            for module in trained:
                module.training = True  # not train(), which would wake those that were kept still
        answers: NDArray[np.float32] = logits.float().cpu().numpy()
        return answers

    def _autocasting(self) -> torch.autocast:
        return torch.autocast(self._device.type, dtype=self._autocast, enabled=self._autocast is not None)


class TorchPredictor(EagerPredictor):
    """The net of an artefact, on a CUDA device where there is one. bf16 and f16 are autocast's.

    `threads` is torch's, for the whole process; so is, on a CUDA device in f32, that it does not compute in TF32.
    """

    def __init__(self, files: dict[str, Path], card: Card, *, precision: str, threads: int | None):
        on_cuda = torch.cuda.is_available()
        if precision == "f16" and not on_cuda:
            raise UsageError("torch computes f16 on a CUDA device, and there is none; take bf16 or f32")
        if threads is not None:
            torch.set_num_threads(threads)
        if on_cuda and precision == "f32":  # with 10 of its 23 bits otherwise
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        path = file_ending(files, ".safetensors")
        with torch.device("meta"):
            net = build(card.spec, num_classes=card.num_classes)
        try:
            load_strictly(net, read_tensors(path)[0], where=str(path), assign=True)
        except (CheckpointError, WeightsMismatch) as error:
            raise ArtefactError(f"{error}. Export the artefact again") from None
        super().__init__(net.eval().to("cuda" if on_cuda else "cpu"), card)
        self.engine = f"torch {precision}"
        self._autocast = _AUTOCAST.get(precision)


class CompiledPredictor(TorchPredictor):
    """The same, compiled by torch.compile as it is opened, which takes minutes and a C++ compiler."""

    def __init__(self, files: dict[str, Path], card: Card, *, precision: str, threads: int | None):
        super().__init__(files, card, precision=precision, threads=threads)
        self.engine = f"torch-compiled {precision}"
        self._graph.compile(dynamic=True)
        try:
            for count in (1, 2):  # torch compiles one picture apart from any other number
                self.predict(np.zeros((count, card.size_px, card.size_px, 3), np.uint8))
        except Exception as error:  # of the compiler, whichever it is
            raise UsageError(
                f"torch cannot compile the net here ({shown(error)}); the engine torch can run it"
            ) from None


def write_torch(net: Net, folder: Path) -> list[str]:
    """Write the net's tensors as f32.safetensors, and give its name."""
    write_tensors(folder / "f32.safetensors", net.state_dict(), {"kind": "net"})
    return ["f32.safetensors"]


def eager_features(net: Net, preprocess: Preprocess, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """The net's feature maps and embedding of pixels (N, H, W, 3), in evaluation mode, on the CPU."""
    with torch.inference_mode():
        return [each.numpy() for each in PixelsToFeatures(net, preprocess).eval()(torch.from_numpy(pixels))]
