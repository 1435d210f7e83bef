"""timm, torchvision and mmpretrain: `python torch_zoos.py ZOO`, then the conversation."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from conversation import Tensors, converse
from torch import nn


def declare_missing_operators() -> torch.library.Library | None:
    """Let a torchvision that was compiled for CUDA be imported beside a torch that was not.

    Its import asks for two operators that its compiled part brings, which then cannot be loaded. No classifier runs
    them, so that their names suffice, for as long as the library lives.
    """
    found = importlib.util.find_spec("torchvision")
    assert found is not None
    assert found.origin is not None
    try:
        torch.ops.load_library(Path(found.origin).with_name("_C.so"))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
        return library
    return None


@dataclass
class TorchZoo:
    package: str
    names: Callable[[], list[str]]
    make: Callable[[str], nn.Module]
    container: Callable[[nn.Module], object] = nn.Module.state_dict  # what its checkpoints hold
    net: nn.Module = field(default_factory=nn.Identity)

    def version(self) -> str:
        return importlib.metadata.version(self.package)

    def build(self, name: str) -> None:
        self.net = self.make(name).eval()

    def state(self) -> Tensors:
        return {name: tensor.numpy() for name, tensor in self.net.state_dict().items()}

    def fan_in(self, shape: tuple[int, ...]) -> int:
        return int(np.prod(shape[1:]))

    def load(self, tensors: Tensors) -> None:
        self.net.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()}, strict=True)

    def logits(self, pictures: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            answer: np.ndarray = self.net(torch.from_numpy(pictures)).numpy()
        return answer

    def save(self, stem: Path) -> Path:
        path = stem.with_suffix(".pth")
        torch.save(self.container(self.net), path)
        return path

    def read(self, file: Path) -> Tensors:
        return {name: tensor.numpy() for name, tensor in torch.load(file, weights_only=True).items()}


def timm() -> TorchZoo:
    import timm as zoo

    def names() -> list[str]:
        return [name for module in ("resnet", "senet", "res2net") for name in zoo.list_models(module=module)]

    shallow = "senet154(layers=[1, 1, 1, 1])"

    def make(name: str) -> nn.Module:
        net: nn.Module = zoo.create_model("senet154", layers=[1] * 4) if name == shallow else zoo.create_model(name)
        return net

    return TorchZoo("timm", lambda: [*names(), shallow], make)


def torchvision() -> TorchZoo:
    from torchvision import models

    # the one net that Facebook's WSL-Images makes of its parts and torchvision itself does not
    wsl = "ResNet(groups=32, width_per_group=48)"

    def make(name: str) -> nn.Module:
        if name == wsl:
            return models.ResNet(models.resnet.Bottleneck, [3, 4, 23, 3], groups=32, width_per_group=48)
        net: nn.Module = models.get_model(name)
        return net

    return TorchZoo("torchvision", lambda: [*models.list_models(module=models), wsl], make)


def mmpretrain() -> TorchZoo:
    import mmpretrain as zoo

    # besides what it lists: configurations that nothing was published of, and Res2Net as its class is by default,
    # which no configuration leaves it
    listed = zoo.list_models()
    unlisted = {path.stem: path for path in Path(zoo.__file__).parent.glob(".mim/configs/seresnet/*.py")}
    bare = "Res2Net(depth=50)"

    def make(name: str) -> nn.Module:
        if name == bare:
            backbone = {"_delete_": True, "type": "Res2Net", "depth": 50}
            return zoo.get_model("res2net50-w26-s8_3rdparty_8xb32_in1k", backbone=backbone)
        return zoo.get_model(name if name in listed else str(unlisted[name]))

    def container(net: nn.Module) -> object:
        return {"meta": {"mmpretrain_version": zoo.__version__}, "state_dict": net.state_dict()}

    return TorchZoo("mmpretrain", lambda: sorted({*listed, *unlisted, bare}), make, container)


if __name__ == "__main__":
    operators = declare_missing_operators()
    converse({"timm": timm, "torchvision": torchvision, "mmpretrain": mmpretrain}[sys.argv[1]]())
