"""A net from any zoo's file, or from its name in the catalogue."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from anabranch.arch import Arch
from anabranch.arch import arch as row
from anabranch.catalogue.find import find
from anabranch.checkpoints.identify import Candidate, candidates
from anabranch.checkpoints.read import Held, read_checkpoint
from anabranch.errors import UsageError, WeightsMismatch
from anabranch.nets.dialects import DIALECTS, Dialect, dialect
from anabranch.nets.load import in_single, net_of_tensors
from anabranch.nets.net import Net
from anabranch.nets.spelling import describe, match, to_ours

Head = Literal["keep", "drop"]

_LOG = logging.getLogger("anabranch")


def load(
    path: Path | str,
    *,
    architecture: str | Arch | None = None,
    told: str = "auto",
    num_classes: int | None = None,
    head: Head = "keep",
    ema: bool = False,
) -> Net:
    """The net of a checkpoint file in eval mode, on the processor, in memory of its own.

    `architecture`, by any zoo's name, and the dialect `told` are found out unless they are given. `head="drop"` leaves
    the file's classifier out, if it has one, and starts another of `num_classes` anew, which is logged as a warning.
    Raises CheckpointError, WeightsMismatch, UnknownName, and UsageError where `num_classes` is not the file's and its
    head was not to be dropped.
    """
    held = read_checkpoint(Path(path), ema=ema)
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
    if head not in ("keep", "drop"):
        raise UsageError(f"head = {head!r} is not understood; it is 'keep' or 'drop'")
    if num_classes is not None and num_classes < 1:
        raise UsageError(f"num_classes = {num_classes} does not fit: a classifier knows at least 1")
    spec, ours = our_tensors(held, architecture=architecture, told=told, headless=head == "drop", where=where)
    if head == "drop":
        _start_anew(spec, ours, num_classes, where)
    elif num_classes not in (None, classes := ours["head.bias"].numel()):
        raise UsageError(
            f"{where} knows {classes} classes, not {num_classes}; to load all but its classifier and start another "
            "one, drop the head"
        )
    in_channels = ours["stem.conv1.conv.weight"].shape[1]
    return net_of_tensors(spec, ours, num_classes=ours["head.bias"].numel(), in_channels=in_channels, where=where)


def our_tensors(
    held: Held, *, architecture: str | Arch | None = None, told: str = "auto", headless: bool = False, where: str
) -> tuple[Arch, dict[str, Tensor]]:
    """What a file holds, by our names and in float32, and the spec of the net that it fits.

    They share the file's memory where they can. `headless` heeds no classifier, whether there is one or not, and gives
    none. Raises CheckpointError, WeightsMismatch, UnknownName, and UsageError where more than one net fits and none
    was asked for.
    """
    spec = None if architecture is None else spec_of(architecture)
    if told != "auto":
        told = dialect(told).name
    if spec is None or held.about is not None:
        chosen = _chosen(candidates(held, where=where), spec, told, where)
        spec, told = chosen.spec, chosen.dialect
    spoken = _dialect(spec, held.tensors) if told == "auto" else DIALECTS[told]
    ours = to_ours(spec, held.tensors, spoken, where=where, headless=headless)
    return spec, in_single(ours, where=where)


def spec_of(architecture: str | Arch) -> Arch:
    """By any zoo's name. Raises UnknownName."""
    return row(find(architecture).architecture) if isinstance(architecture, str) else architecture


def _chosen(found: list[Candidate], spec: Arch | None, told: str, where: str) -> Candidate:
    """The one that was asked for. Raises WeightsMismatch where none was, UsageError where it could be several."""
    fitting = [each for each in found if spec in (None, each.spec) and told in ("auto", each.dialect)]
    names = ", ".join(f"{each.architecture} as {each.dialect} spells it" for each in fitting or found)
    if not fitting:
        asked = [describe(spec)] if spec else []
        asked += [f"{told}'s spelling"] if told != "auto" else []
        raise WeightsMismatch(f"{where}: is {names}, and {' in '.join(asked)} was asked for; ask for what it is")
    if len(fitting) > 1:
        raise UsageError(f"{where}: more than one net has these tensors: {names}; say which architecture is meant")
    return fitting[0]


def _dialect(spec: Arch, tensors: Mapping[str, Tensor]) -> Dialect:
    """The one of those that compute this net that differs least from the file; ours computes every net."""
    able = [each for each in DIALECTS.values() if each.refuses(spec) is None]
    return min(able, key=lambda each: match(spec, tensors, each).num_differences)


def _start_anew(spec: Arch, ours: dict[str, Tensor], num_classes: int | None, where: str) -> None:
    if num_classes is None:
        raise UsageError(f"{where}: its classifier is to be dropped; say how many classes the new one is to know")
    head = nn.Linear(spec.channels(len(spec.depths) - 1), num_classes)
    ours |= {"head.weight": head.weight.detach(), "head.bias": head.bias.detach()}
    _LOG.warning("%s: all but its classifier is loaded; a new one of %d classes has learnt nothing", where, num_classes)
