"""From our tensors to a zoo's and back: by its table of names, in its layout, strictly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

import torch
from torch import Tensor

from anabranch.arch import Arch, name_of
from anabranch.errors import WeightsMismatch, shown
from anabranch.nets.dialects import Dialect, Table
from anabranch.nets.net import Net


class Layout(Enum):
    """How their tensor holds the values of ours."""

    SAME = auto()
    TRANSPOSED = auto()  # (inputs, outputs) for a linear layer's (outputs, inputs)
    LINEAR = auto()  # (inputs, outputs) for a 1x1 convolution's (outputs, inputs, 1, 1)

    def shape(self, ours: torch.Size) -> torch.Size:
        """Theirs, for ours."""
        return ours if self is Layout.SAME else torch.Size((ours[1], ours[0]))

    def to_ours(self, theirs: Tensor) -> Tensor:
        if self is Layout.SAME:
            return theirs
        return theirs.t() if self is Layout.TRANSPOSED else theirs.t()[:, :, None, None]

    def to_theirs(self, ours: Tensor) -> Tensor:
        if self is Layout.SAME:
            return ours
        return ours.t() if self is Layout.TRANSPOSED else ours[:, :, 0, 0].t()


@dataclass(frozen=True, slots=True)
class Spelled:
    name: str
    layout: Layout


def spell(arch: Arch, ours: str, told: Dialect) -> Spelled | None:
    """Their name of our tensor, and how they lay it out; None for one that they do not keep."""
    if told.table is None:
        return Spelled(ours, Layout.SAME)
    path, _, leaf = ours.rpartition(".")
    theirs = told.leaves.get(leaf, leaf)
    if theirs is None:
        return None
    layout = Layout.SAME
    if told.linear_is_transposed and leaf == "weight":
        layout = Layout.TRANSPOSED if path == "head" else Layout.LINEAR if ".squeeze." in path else Layout.SAME
    return Spelled(f"{_part(arch, path.split('.'), told.table(arch))}.{theirs}", layout)


_CONVS = {"enter": 1, "leave": 2, "reduce": 1, "spatial": 2, "expand": 3}


def _part(arch: Arch, path: list[str], table: Table) -> str:
    numbers: dict[str, int] = {}
    match path:
        case ["head"]:
            return table.head
        case ["stem", layer, _]:
            stem = (table.stem,) if len(arch.stem) == 1 else table.deep_stem
            pair = stem and stem[int(layer.removeprefix("conv")) - 1]
        case [_, _, _, "squeeze", _]:
            pair = table.squeeze
        case [_, "0", _, "shortcut", "project", _] if table.first_shortcut:
            pair = table.first_shortcut
        case [_, _, _, "shortcut", "project", _]:
            pair = table.pooled_shortcut if arch.shortcut == "pool" else table.shortcut
        case [_, _, _, "branch", "splits", "convs", split, _]:
            pair, numbers = table.split, {"split": int(split), "split1": int(split) + 1}
        case [_, _, _, "branch", conv, _]:
            pair, numbers = table.conv, {"conv": _CONVS[conv], "conv0": _CONVS[conv] - 1}
        case _:
            raise AssertionError(path)
    assert pair is not None, f"{path} in a net that the dialect refuses"
    if path[0] == "stages":
        stage, block = int(path[1]), int(path[2])
        nth = sum(arch.depths[:stage]) + block
        numbers |= {"stage": stage + 1, "stage0": stage, "stage2": stage + 2, "block": block, "nth": nth}
    return pair[path[-1] in ("norm", "expand")].format(**numbers, letter=_letter(arch, path))


def _letter(arch: Arch, path: list[str]) -> str:
    """Paddle's Res2Net counts the blocks of a long third stage a, b1, b2, ... and all others a, b, c, ..."""
    if path[0] == "stem" or path[2] == "0":
        return "a"
    long = path[1] == "2" and sum(arch.depths) > 16
    return f"b{path[2]}" if long else chr(ord("a") + int(path[2]))


# ---- A whole net ---------------------------------------------------------------------------------------------------


def shapes(arch: Arch, *, num_classes: int = 1000, in_channels: int = 3) -> dict[str, torch.Size]:
    """Every tensor of the net by our names, without allocating one."""
    with torch.device("meta"):
        net = Net(arch, num_classes=num_classes, in_channels=in_channels)
    return {name: tensor.shape for name, tensor in net.state_dict().items()}


def spellings(arch: Arch, told: Dialect) -> dict[str, Spelled]:
    """Our name -> theirs, for every tensor that they keep. Raises WeightsMismatch for a net that their code refuses."""
    return _spellings(arch, told, shapes(arch))


def _spellings(arch: Arch, told: Dialect, names: Iterable[str]) -> dict[str, Spelled]:
    if reason := told.refuses(arch):
        raise WeightsMismatch(f"{told.name} does not compute {describe(arch)}: {reason}")
    spelled = {name: spell(arch, name, told) for name in names}
    return {name: theirs for name, theirs in spelled.items() if theirs is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What a zoo's tensors are to a net: `ours` by our names, sharing memory, and whatever differs, by theirs."""

    ours: dict[str, Tensor]
    missing: list[str]
    left_over: list[str]
    misshapen: list[str]

    @property
    def num_differences(self) -> int:
        return len(self.missing) + len(self.left_over) + len(self.misshapen)

    def __str__(self) -> str:
        return differing(self.missing, self.left_over, self.misshapen)


def match(arch: Arch, theirs: Mapping[str, Tensor], told: Dialect, *, headless: bool = False) -> Match:
    """Their tensors held against a net of as many classes and input channels as they have themselves.

    Counts of batches, which nothing here reads and files of older torch lack, are zero where they are absent.
    `headless` heeds no classifier, whether there is one or not. Raises WeightsMismatch for a net that the dialect
    refuses.
    """
    num_classes, in_channels = _ends(arch, theirs, told)
    wanted_shapes = shapes(arch, num_classes=num_classes, in_channels=in_channels)
    spelled = _spellings(arch, told, wanted_shapes)
    found: dict[str, Tensor] = {}
    missing, misshapen = [], []
    for ours, shape in wanted_shapes.items():
        if headless and ours.startswith("head."):
            continue
        spelling = spelled.get(ours)
        tensor = theirs.get(spelling.name) if spelling else None
        if spelling is not None and tensor is not None:
            if ours.endswith(".num_batches_tracked") and tensor.numel() == 1:
                tensor = tensor.reshape(())  # some exporters have no tensors without a dimension
            wanted = spelling.layout.shape(shape)
            if tensor.shape == wanted:
                found[ours] = spelling.layout.to_ours(tensor)
            else:
                misshapen.append(f"{spelling.name} {tuple(tensor.shape)} for {tuple(wanted)}")
        elif ours.endswith(".num_batches_tracked"):
            found[ours] = torch.zeros((), dtype=torch.long)
        elif spelling is not None:
            missing.append(spelling.name)
    known = {spelling.name for spelling in spelled.values()}
    left_over = [name for name in theirs if name not in known]
    return Match(ours=found, missing=missing, left_over=left_over, misshapen=misshapen)


def _ends(arch: Arch, theirs: Mapping[str, Tensor], told: Dialect) -> tuple[int, int]:
    """Classes and input channels of their tensors, where the head and the stem are there and shaped like such."""
    head, stem = (theirs.get(name) for name in ends(arch, told))
    num_classes = head.shape[1 if told.linear_is_transposed else 0] if head is not None and head.dim() == 2 else 1000
    return num_classes, stem.shape[1] if stem is not None and stem.dim() == 4 else 3


def ends(arch: Arch, told: Dialect) -> tuple[str, str]:
    """Their names of the classifier's and of the first convolution's weights."""
    stem = spell(arch, "stem.conv1.conv.weight", told)
    head = spell(arch, "head.weight", told)
    assert head is not None
    assert stem is not None
    return head.name, stem.name


def to_ours(
    arch: Arch, theirs: Mapping[str, Tensor], told: Dialect, *, where: str, headless: bool = False
) -> dict[str, Tensor]:
    """A zoo's tensors by our names. Raises WeightsMismatch that lists by their names all that does not fit."""
    met = match(arch, theirs, told, headless=headless)
    if met.num_differences:
        raise WeightsMismatch(f"{where}: does not fit {describe(arch)} as {told.name} spells it: {met}")
    return met.ours


def to_theirs(arch: Arch, ours: Mapping[str, Tensor], told: Dialect) -> dict[str, Tensor]:
    """Our tensors by a zoo's names and in its layout, sharing memory. Raises WeightsMismatch."""
    return {theirs.name: theirs.layout.to_theirs(ours[name]) for name, theirs in spellings(arch, told).items()}


def differing(missing: Sequence[str], left_over: Sequence[str], misshapen: Sequence[str]) -> str:
    """In words, the first few of each; empty where nothing differs."""
    kinds = {"missing": missing, "left over": left_over, "misshapen": misshapen}
    return "; ".join(_few(names, what) for what, names in kinds.items() if names)


def _few(names: Sequence[str], what: str) -> str:
    tensors = "tensor" if len(names) == 1 else "tensors"
    return f"{len(names)} {tensors} {what} ({', '.join(map(shown, names[:4]))}{', ...' if len(names) > 4 else ''})"


def describe(arch: Arch) -> str:
    """Its name, or in words where it has none."""
    return name_of(arch) or f"a {arch.block} net of depths {list(arch.depths)}"
