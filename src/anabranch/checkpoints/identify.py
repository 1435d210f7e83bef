"""Which net a file of tensors is: the pairs of architecture and dialect whose names and shapes are the file's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from anabranch.arch import ARCHITECTURES, Arch
from anabranch.artefact import sha256
from anabranch.catalogue.facts import Weights
from anabranch.catalogue.index import counts, index
from anabranch.checkpoints.read import Held, read_checkpoint
from anabranch.errors import WeightsMismatch, shown
from anabranch.nets.dialects import DIALECTS, OUR_OWN, Dialect
from anabranch.nets.load import about_of
from anabranch.nets.spelling import describe, ends, match, to_ours

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
    num_classes: int | None  # None: it has no classifier
    in_channels: int
    sha256: str
    weights: str | None  # the published weights whose hash the file has
    published_digits: int  # of the 64 of their hash: some publishers state but its beginning


def identify(path: Path | str, *, ema: bool = False) -> Identified:
    """Raises CheckpointError for a file that cannot be read, WeightsMismatch for one that is not of this family."""
    path = Path(path)
    held = read_checkpoint(path, ema=ema)
    digest = sha256(path)
    weights = published(digest)
    found = candidates(held, where=str(path))
    if weights is not None:
        found.sort(key=lambda each: each.architecture != weights.architecture)
    head, stem = (held.tensors.get(name) for name in ends(found[0].spec, DIALECTS[found[0].dialect]))
    assert stem is not None
    return Identified(
        file=path,
        kind=held.kind,
        unwrapped=held.unwrapped,
        candidates=tuple(found),
        num_classes=None if head is None else head.numel() // found[0].spec.channels(len(found[0].spec.depths) - 1),
        in_channels=stem.shape[1],
        sha256=digest,
        weights=weights.name if weights else None,
        published_digits=len(weights.sha256 or "") if weights else 0,
    )


def published(digest: str) -> Weights | None:
    """The published weights whose hash this is, or begins as it does."""
    return next((each for each in index().weights if each.sha256 and digest.startswith(each.sha256)), None)


def candidates(held: Held, *, where: str) -> list[Candidate]:
    """Every architecture and dialect that fits, at least one, also where the classifier is absent.

    Raises WeightsMismatch that names the nearest, and CheckpointError for a file of ours that is no net.
    """
    if held.about is not None:
        spec, _ = about_of(held.about, held.tensors, where=where)
        to_ours(spec, held.tensors, DIALECTS[OUR_OWN], where=where)
        return [Candidate(architecture=describe(spec), spec=spec, dialect=OUR_OWN)]
    told = [(name, spec, each) for name, spec in ARCHITECTURES.items() for each in _speakers(spec, held.tensors)]
    found = [
        Candidate(architecture=name, spec=spec, dialect=each.name)
        for name, spec, each in told
        if _surplus(name, spec, each, held.tensors) == 0 and _fits(spec, each, held.tensors)
    ]
    if not found:
        raise WeightsMismatch(f"{where}: not one of ours: {_nearest(told, held.tensors)}")
    return found


def _speakers(spec: Arch, tensors: Mapping[str, Tensor]) -> Iterator[Dialect]:
    """The dialects that compute this net and whose name of its first convolution is in the file."""
    for told in DIALECTS.values():
        if told.refuses(spec) is None and ends(spec, told)[1] in tensors:
            yield told


def _fits(spec: Arch, told: Dialect, tensors: Mapping[str, Tensor]) -> bool:
    return not match(spec, tensors, told, headless=not _head(spec, told, tensors)).num_differences


def _head(spec: Arch, told: Dialect, tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the classifier's tensors that are in the file."""
    prefix = ends(spec, told)[0].removesuffix("weight")
    return [name for name in tensors if name.startswith(prefix)]


def _surplus(name: str, spec: Arch, told: Dialect, tensors: Mapping[str, Tensor]) -> int:
    """How many learnable scalars between its ends the file has more than the net: what is cheap to know without one."""
    counted = counts()[name]
    unlearnt = {told.leaves.get(leaf, leaf) for leaf in ("running_mean", "running_var", "num_batches_tracked")}
    stem = ends(spec, told)[1]
    without = {stem, *_head(spec, told, tensors)}
    learnt = sum(
        tensor.numel()
        for key, tensor in tensors.items()
        if key not in without and key.rpartition(".")[2] not in unlearnt
    )
    width = spec.channels(len(spec.depths) - 1)
    return learnt - (counted.params - counted.num_classes * (width + 1) - _stem_scalars(spec))


def _stem_scalars(spec: Arch) -> int:
    kernel = 7 if len(spec.stem) == 1 and spec.stem_stride == 4 else 3
    return spec.stem[0] * 3 * kernel * kernel


def _nearest(told: list[tuple[str, Arch, Dialect]], tensors: Mapping[str, Tensor]) -> str:
    """Of those that spell as the file does, the one with the fewest differences, and which these are."""
    if not told:
        names = ", ".join(map(shown, list(tensors)[:3]))
        return f"no dialect here calls a first convolution as any of its tensors is called; the first are {names}"
    nearest = sorted(told, key=lambda one: abs(_surplus(one[0], one[1], one[2], tensors)))[:_NEAREST]
    compared = [(match(spec, tensors, each), name, each) for name, spec, each in nearest]
    met, name, each = min(compared, key=lambda one: one[0].num_differences)
    return f"the nearest is {name} as {each.name} spells it, which differs: {met}"
