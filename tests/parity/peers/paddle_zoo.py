"""PaddleClas: `python paddle_zoo.py`, then the conversation."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from conversation import Tensors, converse


def import_nets() -> Any:
    """The module of its nets, from inside the package: around them lies a program that wants OpenCV and faiss."""
    found = importlib.util.find_spec("paddleclas")
    assert found is not None
    assert found.submodule_search_locations is not None
    sys.path.append(found.submodule_search_locations[0])
    from ppcls.arch import backbone
    from ppcls.utils import logger

    logger.init_logger(log_level=logging.ERROR)  # its ResNet warns, which fails without; it would on standard output
    return backbone


class PaddleZoo:
    def __init__(self, nets: Any):
        self.nets = nets

    def version(self) -> str:
        return f"{importlib.metadata.version('paddleclas')} on Paddle {importlib.metadata.version('paddlepaddle')}"

    def names(self) -> list[str]:
        return list(self.nets.__all__)

    def build(self, name: str) -> None:
        with paddle.utils.unique_name.guard():  # parameters of two nets have one name, which is refused without
            self.net = getattr(self.nets, name)()
        self.net.eval()

    def state(self) -> Tensors:
        return {name: tensor.numpy() for name, tensor in self.net.state_dict().items()}

    def fan_in(self, shape: tuple[int, ...]) -> int:
        return shape[0] if len(shape) == 2 else int(np.prod(shape[1:]))  # a linear layer's is (inputs, outputs)

    def load(self, tensors: Tensors) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # it only warns of a misshapen tensor
            missing, left_over = self.net.set_state_dict(dict(tensors))
        if missing or left_over:
            raise ValueError(f"missing: {missing}, left over: {left_over}")

    def logits(self, pictures: np.ndarray) -> np.ndarray:
        with paddle.no_grad():
            answer: np.ndarray = self.net(paddle.to_tensor(pictures)).numpy()
        return answer

    def save(self, stem: Path) -> Path:
        path = stem.with_suffix(".pdparams")
        paddle.save(self.net.state_dict(), str(path))
        return path

    def read(self, file: Path) -> Tensors:
        return {name: tensor.numpy() for name, tensor in paddle.load(str(file)).items()}


if __name__ == "__main__":
    converse(PaddleZoo(import_nets()))
