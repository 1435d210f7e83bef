"""A net from any zoo's file, or from its name in the catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from anabranch.arch import Arch
from anabranch.arch import arch as row
from anabranch.checkpoints.identify import OUR_OWN, Candidate, candidates
from anabranch.checkpoints.read import Held, read_checkpoint
from anabranch.errors import UsageError, WeightsMismatch
from anabranch.nets.dialects import DIALECTS, Dialect, dialect
from anabranch.nets.load import load_strictly
from anabranch.nets.net import Net
from anabranch.nets.spelling import describe, match, to_ours

Head = Literal["keep", "drop"]


def load(
    path: Path,
    *,
    architecture: str | Arch | None = None,
    told: str = "auto",
    num_classes: int | None = None,
    head: Head = "keep",
    ema: bool = False,
) -> Net:
    """The net of a checkpoint file in eval mode, on the processor, sharing the file's memory where it can.

    `architecture` and the dialect `told` are found out unless they are given. `head="drop"` leaves the file's
    classifier out and starts another of `num_classes` anew. Raises CheckpointError, WeightsMismatch, UnknownName, and
    UsageError where `num_classes` is not the file's and its head was not to be dropped.
    """
    held = read_checkpoint(path, ema=ema)
    return net_of(held, architecture=architecture, told=told, num_classes=num_classes, head=head, where=str(path))


def net_of(
    held: Held,
    *,
    architecture: str | Arch | None = None,
    told: str = "auto",
    num_classes: int | None = None,
    head: Head = "keep",
    where: str,
) -> Net:
    """`load` of what has been read."""
    spec, ours = our_tensors(held, architecture=architecture, told=told, where=where)
    classes = ours["head.bias"].numel()
    if head == "drop":
        _start_anew(spec, ours, num_classes or classes)
    elif num_classes not in (None, classes):
        raise UsageError(
            f"{where} knows {classes} classes, not {num_classes}; to load all but its classifier and start another "
            "one, drop the head"
        )
    with torch.device("meta"):
        net = Net(spec, num_classes=ours["head.bias"].numel(), in_channels=ours["stem.conv1.conv.weight"].shape[1])
    load_strictly(net, ours, where=where, assign=True)
    return net.eval()


def our_tensors(
    held: Held, *, architecture: str | Arch | None = None, told: str = "auto", where: str
) -> tuple[Arch, dict[str, Tensor]]:
    """What a file holds, by our names and in float32, and the spec of the net that it fits.

    Raises WeightsMismatch, UnknownName, and UsageError where more than one net fits and none was asked for.
    """
    spec = row(architecture) if isinstance(architecture, str) else architecture
    if spec is None:
        found = candidates(held, where=where)
        if told != "auto":
            found = [each for each in found if each.dialect == _named(told)] or found
        chosen = _only(found, where)
        spec, told = chosen.spec, chosen.dialect
    if held.about is not None or told == OUR_OWN:
        ours = held.tensors
    else:
        ours = to_ours(spec, held.tensors, _dialect(spec, held.tensors, told), where=where)
    return spec, {name: _single(tensor).contiguous() for name, tensor in ours.items()}


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _named(told: str) -> str:
    return OUR_OWN if told == OUR_OWN else dialect(told).name


def _dialect(spec: Arch, tensors: dict[str, Tensor], told: str) -> Dialect:
    """The dialect asked for, or the one of those that compute this net that differs least from the file."""
    if told != "auto":
        return dialect(told)
    able = [each for each in DIALECTS.values() if each.refuses(spec) is None]
    if not able:
        raise WeightsMismatch(f"no other zoo's code computes {describe(spec)}, so its tensors have no dialect but ours")
    return min(able, key=lambda each: match(spec, tensors, each).num_differences)


def _only(found: list[Candidate], where: str) -> Candidate:
    if len(found) > 1:
        fitting = ", ".join(f"{each.architecture} ({each.dialect})" for each in found)
        raise UsageError(f"{where}: more than one net has these tensors: {fitting}; say which architecture is meant")
    return found[0]


def _start_anew(spec: Arch, ours: dict[str, Tensor], num_classes: int) -> None:
    head = nn.Linear(spec.channels(len(spec.depths) - 1), num_classes)
    ours |= {"head.weight": head.weight.detach(), "head.bias": head.bias.detach()}
