"""A trained net with all that is needed to use it: its spec, its classes and its preprocessing, in one file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from anabranch.arch import Arch, arch_from_json, arch_to_json
from anabranch.errors import CheckpointError, WeightsMismatch, shown
from anabranch.errors import Error as AnyError
from anabranch.images.preprocess import Preprocess
from anabranch.nets.net import Net
from anabranch.nets.spelling import describe, differing
from anabranch.nets.store import read_tensors, write_tensors

_KIND = "net"
RUN = "training run"  # the kind of a run's checkpoint: it holds the net, its running mean, and more
MEAN = "ema/"  # before the names of the mean's tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What such a file says of its net, beside the architecture."""

    name: str
    licence: str  # SPDX, of the weights
    class_names: tuple[str, ...]
    multi_label: bool = False  # a picture shows any number of the classes
    preprocess: Preprocess


class Trained(NamedTuple):
    """A net in eval mode, and what it knows of itself."""

    net: Net
    about: About


def save_trained(path: Path, trained: Trained, state: Mapping[str, Tensor] | None = None) -> None:
    """`state` instead of the net's own, for a running mean of the weights."""
    said = about_to_json(trained.about, trained.net.arch)
    write_tensors(path, trained.net.state_dict() if state is None else state, said)


def about_to_json(about: About, spec: Arch) -> dict[str, Any]:
    """What `about_of` reads."""
    return {
        "kind": _KIND,
        "name": about.name,
        "licence": about.licence,
        "arch": arch_to_json(spec),
        "class_names": list(about.class_names),
        "multi_label": about.multi_label,
        "preprocess": about.preprocess.to_json(),
    }


def load_trained(path: Path) -> Trained:
    """Read such a file, strictly. Raises CheckpointError naming each tensor missing, left over or misshapen."""
    tensors, about = read_trained(path)
    return trained_of(tensors, about, where=str(path))


def read_trained(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file of ours, and what it says of them; of a run that is not done, those of its running mean.

    Raises CheckpointError where the file is absent, damaged or not ours.
    """
    tensors, about = read_tensors(path)
    if about.get("kind") == RUN and isinstance(about.get("net"), dict):
        return {name.removeprefix(MEAN): each for name, each in tensors.items() if name.startswith(MEAN)}, about["net"]
    return tensors, about


def trained_of(tensors: Mapping[str, Tensor], said: Mapping[str, Any], *, where: str) -> Trained:
    """The net of such a file's tensors and of what it says of them. Raises CheckpointError."""
    spec, about = about_of(said, tensors, where=where)
    single = in_single(tensors, where=where)
    return Trained(net_of_tensors(spec, single, num_classes=len(about.class_names), where=where), about)


def about_of(said: Mapping[str, Any], tensors: Mapping[str, Tensor], *, where: str) -> tuple[Arch, About]:
    """What a file says of its net, looked through as anybody may have written it. Raises CheckpointError.

    `tensors` are the file's: a net of more blocks than these is refused before anybody builds it.
    """
    if said.get("kind") != _KIND:
        raise CheckpointError(
            f"{where}: holds a {shown(said.get('kind'))}, not a trained net; a run's result is model.safetensors"
        )
    try:
        spec = arch_from_json(said["arch"])
        about = About(
            name=_text(said["name"]),
            licence=_text(said["licence"]),
            class_names=_texts(said["class_names"]),
            multi_label=_whether(said.get("multi_label", False)),
            preprocess=Preprocess.from_json(said["preprocess"]),
        )
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, AnyError) as error:
        raise CheckpointError(f"{where}: what it says of its net is not understood ({shown(error)})") from None
    if sum(spec.depths) > len(tensors):
        raise WeightsMismatch(f"{where}: {len(tensors)} tensors are too few for a net of {sum(spec.depths)} blocks")
    return spec, about


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{shown(value)} is no text")
    return value


def _whether(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{shown(value)} is neither true nor false")
    return value


def _texts(values: object) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise TypeError(f"{shown(values)} is no list")
    return tuple(map(_text, values))


def in_single(tensors: Mapping[str, Tensor], *, where: str) -> dict[str, Tensor]:
    """Weights in float32 and counts of batches as whole numbers; what is so already shares its memory.

    Raises CheckpointError for weights that are whole numbers, and for values that float32 cannot hold.
    """
    return {name: _in_single(name, tensor, where) for name, tensor in tensors.items()}


def _in_single(name: str, tensor: Tensor, where: str) -> Tensor:
    if name.endswith(".num_batches_tracked"):
        return tensor.long()
    kind = str(tensor.dtype).removeprefix("torch.")
    if not tensor.is_floating_point():
        raise CheckpointError(
            f"{where}: its {shown(name)} holds {kind} values, and a net has floating-point weights; "
            "take the file from before it was quantised or cast"
        )
    single = tensor.float()
    if tensor.dtype == torch.float64 and bool((single.isinf() & tensor.isfinite()).any()):
        raise CheckpointError(
            f"{where}: its {shown(name)} holds {kind} values beyond {torch.finfo(torch.float32).max:.3g}, the largest "
            "of float32, in which nets are computed here; the file is damaged, or its training failed"
        )
    return single


def net_of_tensors(
    spec: Arch, tensors: dict[str, Tensor], *, num_classes: int, in_channels: int = 3, where: str
) -> Net:
    """The net, in eval mode, whose tensors by our names these are. Raises WeightsMismatch that lists what differs.

    It has copies of its own, so that nothing which befalls a file that they lie in befalls the net; each copy takes
    the place of its tensor in `tensors`, so that the two are not held at once.
    """
    with torch.device("meta"):
        net = Net(spec, num_classes=num_classes, in_channels=in_channels)
    _want_fit(net, tensors, where)
    for name in tensors:
        tensors[name] = tensors[name].clone(memory_format=torch.contiguous_format)
    net.load_state_dict(tensors, strict=True, assign=True)
    return net.eval()


def load_strictly(net: Net, tensors: Mapping[str, Tensor], *, where: str, assign: bool = False) -> None:
    """Every tensor of the net from `tensors`, none left over. Raises WeightsMismatch that lists whatever differs.

    `assign` takes the tensors themselves instead of copies, for a net that was built on the meta device.
    """
    _want_fit(net, tensors, where)
    net.load_state_dict(dict(tensors), strict=True, assign=assign)


def _want_fit(net: Net, tensors: Mapping[str, Tensor], where: str) -> None:
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
