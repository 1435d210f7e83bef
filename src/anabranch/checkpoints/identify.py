"""Which net a file of tensors is: the pairs of architecture and dialect whose names and shapes are the file's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from anabranch.arch import ARCHITECTURES, Arch, arch_from_json
from anabranch.artefact import sha256
from anabranch.catalogue.index import counts, index
from anabranch.checkpoints.read import Held, read_checkpoint
from anabranch.errors import WeightsMismatch, shown
from anabranch.nets.dialects import DIALECTS, Dialect
from anabranch.nets.spelling import describe, ends, match

OUR_OWN = "anabranch"  # the dialect of what `anabranch train` writes

_NEAREST = 4  # of how many architectures a stranger is compared with, tensor by tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    architecture: str  # canonical, or in words for a spec of one's own
    spec: Arch
    dialect: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Identified:
    """What a file is. More than one candidate where names and shapes cannot tell them apart."""

    file: Path
    kind: str
    unwrapped: tuple[str, ...]
    candidates: tuple[Candidate, ...]  # at least one
    num_classes: int
    sha256: str
    weights: str | None  # the published weights whose hash the file has


def identify(path: Path, *, ema: bool = False) -> Identified:
    """Raises CheckpointError for a file that cannot be read, WeightsMismatch for one that is not of this family."""
    held = read_checkpoint(path, ema=ema)
    digest = sha256(path)
    weights = published(digest)
    found = candidates(held, where=str(path))
    if weights is not None:
        architecture = weights.partition(".")[0]
        found.sort(key=lambda each: each.architecture != architecture)
    return Identified(
        file=path,
        kind=held.kind,
        unwrapped=held.unwrapped,
        candidates=tuple(found),
        num_classes=_num_classes(held.tensors, found[0]),
        sha256=digest,
        weights=weights,
    )


def published(digest: str) -> str | None:
    """The name of the published weights whose hash this is, or begins as it does."""
    return next((each.name for each in index().weights if each.sha256 and digest.startswith(each.sha256)), None)


def candidates(held: Held, *, where: str) -> list[Candidate]:
    """Every architecture and dialect that fits, at least one. Raises WeightsMismatch that names the nearest."""
    if held.about is not None:
        return [_our_own(held.about, where)]
    told = [(name, spec, each) for name, spec in ARCHITECTURES.items() for each in _speakers(spec, held.tensors)]
    found = [
        Candidate(architecture=name, spec=spec, dialect=each.name)
        for name, spec, each in told
        if _as_many_scalars(name, spec, each, held.tensors) and not match(spec, held.tensors, each).num_differences
    ]
    if not found:
        raise WeightsMismatch(f"{where}: not one of ours: {_nearest(told, held.tensors)}")
    return found


def _our_own(about: Mapping[str, Any], where: str) -> Candidate:
    if "arch" not in about:
        raise WeightsMismatch(
            f"{where}: holds a {shown(about.get('kind'))}, not a trained net; a run's result is model.safetensors"
        )
    spec = arch_from_json(about["arch"])
    return Candidate(architecture=describe(spec), spec=spec, dialect=OUR_OWN)


def _speakers(spec: Arch, tensors: Mapping[str, Tensor]) -> Iterator[Dialect]:
    """The dialects that compute this net and whose names of its two ends are the file's."""
    for told in DIALECTS.values():
        if told.refuses(spec) is None and all(name in tensors for name in ends(spec, told)):
            yield told


def _as_many_scalars(name: str, spec: Arch, told: Dialect, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the file learns as many scalars as the net would with its ends: what is cheap to know without a net."""
    return _surplus(name, spec, told, tensors) == 0


def _surplus(name: str, spec: Arch, told: Dialect, tensors: Mapping[str, Tensor]) -> int:
    """How many learnable scalars the file has more than the net."""
    counted = counts()[name]
    unlearnt = {told.leaves.get(leaf, leaf) for leaf in ("running_mean", "running_var", "num_batches_tracked")}
    learnt = sum(tensor.numel() for key, tensor in tensors.items() if key.rpartition(".")[2] not in unlearnt)
    head, stem = (tensors[end] for end in ends(spec, told))
    width = spec.channels(len(spec.depths) - 1)
    body = counted.params - counted.num_classes * (width + 1) - _stem_scalars(spec, 3)
    num_classes = head.numel() // width
    return learnt - body - num_classes * (width + 1) - stem.numel()


def _stem_scalars(spec: Arch, in_channels: int) -> int:
    kernel = 7 if len(spec.stem) == 1 and spec.stem_stride == 4 else 3
    return spec.stem[0] * in_channels * kernel * kernel


def _num_classes(tensors: Mapping[str, Tensor], found: Candidate) -> int:
    if found.dialect == OUR_OWN:
        return tensors["head.bias"].numel()
    head, _ = ends(found.spec, DIALECTS[found.dialect])
    return tensors[f"{head.removesuffix('.weight')}.bias"].numel()


def _nearest(told: list[tuple[str, Arch, Dialect]], tensors: Mapping[str, Tensor]) -> str:
    """Of those that spell as the file does, the one with the fewest differences, and which these are."""
    if not told:
        names = ", ".join(map(shown, list(tensors)[:3]))
        return f"no dialect here calls a first convolution and a classifier as it does; its first tensors are {names}"
    nearest = sorted(told, key=lambda one: abs(_surplus(one[0], one[1], one[2], tensors)))[:_NEAREST]
    compared = [(match(spec, tensors, each), name, each) for name, spec, each in nearest]
    met, name, each = min(compared, key=lambda one: one[0].num_differences)
    return f"the nearest is {name} as {each.name} spells it, which differs: {met}"
