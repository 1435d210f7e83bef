"""A trained net with all that is needed to use it: its spec, its classes and its preprocessing, in one file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from anabranch.arch import arch_from_json, arch_to_json
from anabranch.errors import CheckpointError, WeightsMismatch, shown
from anabranch.errors import Error as AnyError
from anabranch.images.preprocess import Preprocess
from anabranch.nets.net import Net, build
from anabranch.nets.spelling import describe, differing
from anabranch.nets.store import read_tensors, write_tensors

_KIND = "net"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A net in eval mode, and what it knows of itself."""

    net: Net
    name: str
    licence: str  # SPDX, of the weights
    class_names: tuple[str, ...]
    preprocess: Preprocess


def save_trained(path: Path, trained: Trained, state: Mapping[str, Tensor] | None = None) -> None:
    """`state` instead of the net's own, for a running mean of the weights."""
    about = {
        "kind": _KIND,
        "name": trained.name,
        "licence": trained.licence,
        "arch": arch_to_json(trained.net.arch),
        "class_names": list(trained.class_names),
        "preprocess": trained.preprocess.to_json(),
    }
    write_tensors(path, trained.net.state_dict() if state is None else state, about)


def load_trained(path: Path) -> Trained:
    """Read such a file, strictly. Raises CheckpointError naming each tensor missing, left over or misshapen."""
    tensors, about = read_tensors(path)
    if about.get("kind") != _KIND:
        raise CheckpointError(
            f"{path}: holds a {shown(about.get('kind'))}, not a trained net; a run's result is model.safetensors"
        )
    try:
        spec, classes = arch_from_json(about["arch"]), tuple(about["class_names"])
        preprocess = Preprocess.from_json(about["preprocess"])
        name, licence = about["name"], about["licence"]
    except (KeyError, TypeError, AnyError) as error:
        raise CheckpointError(f"{path}: what it says of its net is not understood ({error})") from None
    net = build(spec, num_classes=len(classes))
    load_strictly(net, tensors, where=str(path))
    return Trained(net=net.eval(), name=name, licence=licence, class_names=classes, preprocess=preprocess)


def load_strictly(net: Net, tensors: Mapping[str, Tensor], *, where: str, assign: bool = False) -> None:
    """Every tensor of the net from `tensors`, none left over. Raises WeightsMismatch that lists whatever differs.

    `assign` takes the tensors themselves instead of copies, for a net that was built on the meta device.
    """
    wanted = net.state_dict()
    missing = [name for name in wanted if name not in tensors]
    left_over = [name for name in tensors if name not in wanted]
    misshapen = [
        f"{name} {tuple(tensors[name].shape)} for {tuple(wanted[name].shape)}"
        for name in wanted
        if name in tensors and tensors[name].shape != wanted[name].shape
    ]
    if differences := differing(missing, left_over, misshapen):
        raise WeightsMismatch(f"{where}: does not fit {describe(net.arch)}: {differences}")
    net.load_state_dict(dict(tensors), strict=True, assign=assign)
