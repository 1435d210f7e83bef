"""Where a run begins: the weights it starts from, which parts of the net learn, and how fast each of them does."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anabranch.arch import Arch
from anabranch.arch import arch as row
from anabranch.catalogue.find import find, weights_of
from anabranch.checkpoints.identify import candidates
from anabranch.checkpoints.load import our_tensors
from anabranch.checkpoints.read import read_checkpoint
from anabranch.errors import RecipeError, nearest
from anabranch.fetch import fetched
from anabranch.nets.load import about_of, load_strictly
from anabranch.nets.net import Net
from anabranch.nets.spelling import describe
from anabranch.train.classes import columns
from anabranch.train.tables import RANDOM, Optimise, Start

ALL_BUT_HEAD = "all but head"
ALL_BUT_HEAD_AND_NORMS = "all but head and norms"  # what Touvron et al. 2019 ("FixRes") tune
_ANEW = 'begin the classifier anew with start.head = "drop"'
_SUFFIXES = (".safetensors", ".pth", ".pt", ".pdparams")

# ---- Weights -------------------------------------------------------------------------------------------------------


def begin(net: Net, start: Start, class_names: Sequence[str]) -> None:
    """Fill the net, of these classes, with the weights of a file or of a name in the catalogue, fetched if need be.

    With `start.head = "drop"` the classifier stays as it was built, and with RANDOM weights the whole net. A classifier
    that is kept is put in the order of `class_names` where the file names its own. Raises RecipeError where the weights
    are another architecture's or know another number of classes, DatasetError where they know other classes,
    UnknownName, FetchError, CheckpointError, WeightsMismatch.
    """
    if start.weights == RANDOM:
        return
    path, told = _file(start.weights, net.arch)
    held = read_checkpoint(path)
    if held.about is not None:
        _want_same(candidates(held, where=str(path))[0].spec, net.arch, start.weights)
    drop = start.head == "drop"
    _, ours = our_tensors(held, architecture=net.arch, told=told, headless=drop, where=str(path))
    if drop:
        ours |= {f"head.{name}": tensor for name, tensor in net.head.state_dict().items()}
    elif (classes := len(ours["head.bias"])) != net.num_classes:
        raise RecipeError(
            f"start.weights = {start.weights!r} knows {classes} classes and the training pictures have "
            f"{net.num_classes}; {_ANEW}"
        )
    elif held.about is not None:
        _, theirs = about_of(held.about, held.tensors, where=str(path))
        order = columns(theirs.class_names, class_names, whose=f"start.weights = {start.weights!r}", otherwise=_ANEW)
        ours |= {f"head.{name}": ours[f"head.{name}"][torch.from_numpy(order)] for name in ("weight", "bias")}
    load_strictly(net, ours, where=str(path))


def _file(name: str, spec: Arch) -> tuple[Path, str]:
    """Where the weights lie, and in which dialect if that is known."""
    path = Path(name)
    if path.exists():
        return path, "auto"
    if path.suffix in _SUFFIXES or os.sep in name:
        raise RecipeError(f"start.weights = {name!r}: no such file; give a checkpoint or a name in the catalogue")
    found = find(name)
    if found.weights is None:
        known = ", ".join(weights.name for weights in weights_of(found.architecture))
        raise RecipeError(
            f"start.weights = {name!r} is an architecture; "
            + (f"say which of its weights: {known}" if known else "no weights of it are published, so give a file")
        )
    _want_same(row(found.architecture), spec, name)
    return fetched(found.weights), found.weights.dialect


def _want_same(theirs: Arch, ours: Arch, name: str) -> None:
    if theirs == ours:
        return
    differing = ", ".join(key for key in Arch.__slots__ if getattr(theirs, key) != getattr(ours, key))
    raise RecipeError(
        f"start.weights = {name!r} is {describe(theirs)} and the recipe's arch is {describe(ours)}: they differ in "
        f"{differing}; make arch what the weights are, or take other weights"
    )


# ---- Parts ---------------------------------------------------------------------------------------------------------


def parts(net: Net) -> dict[str, nn.Module]:
    """The net's parts from the pictures on: stem, stages.0, stages.1, ..., head. Every parameter is in one of them."""
    stages = {f"stages.{i}": stage for i, stage in enumerate(net.stages)}
    return {"stem": net.stem, **stages, "head": net.head}


def freeze(net: Net, frozen: Sequence[str]) -> None:
    """Let these parts learn nothing, and all others learn.

    Raises RecipeError for a part that the net does not have, and where nothing would be left to learn.
    """
    known = parts(net)
    held = _named(net, frozen)
    if len(held) == len(known):
        raise RecipeError(f"start.frozen = {list(frozen)} leaves nothing to learn; leave out one of its parts")
    net.requires_grad_(True)
    for name in held:
        known[name].requires_grad_(False)
        if ALL_BUT_HEAD_AND_NORMS in frozen:
            for norm in _norms(known[name]):
                norm.requires_grad_(True)


def still(net: Net, frozen: Sequence[str]) -> None:
    """Put what is frozen into evaluation mode; to be called after every `net.train()`.

    A frozen part computes as it will when it is tested, its norms' statistics being those that it came with. Where the
    norms learn, they go on to count.
    """
    if ALL_BUT_HEAD_AND_NORMS not in frozen:
        for name in _named(net, frozen):
            parts(net)[name].eval()


def _named(net: Net, frozen: Sequence[str]) -> list[str]:
    """The parts that are meant, each once, in their order."""
    known = list(parts(net))
    words = [name for name in frozen if name in (ALL_BUT_HEAD, ALL_BUT_HEAD_AND_NORMS)]
    if words and len(frozen) > 1:
        raise RecipeError(f"start.frozen = {list(frozen)}: {words[0]!r} says it all; leave the others out")
    if words:
        return known[:-1]
    for name in frozen:
        if name not in known:
            near = ", ".join(nearest(name, [*known, ALL_BUT_HEAD, ALL_BUT_HEAD_AND_NORMS]))
            raise RecipeError(
                f"start.frozen names {name!r}, which the net does not have; the nearest are {near}. "
                f"Its parts are {', '.join(known)}"
            )
    return [name for name in known if name in frozen]


def _norms(part: nn.Module) -> Iterator[nn.Module]:
    return (each for each in part.modules() if isinstance(each, nn.BatchNorm2d | nn.SyncBatchNorm))


# ---- Rates ---------------------------------------------------------------------------------------------------------


def groups(net: Net, recipe: Optimise, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """The parameters that learn, for an optimiser, by how they decay and how fast they learn.

    Weight decay is on matrices and kernels only, unless the recipe asks for it on norms and biases too. A group's
    `lr_scale`, by which the rate is to be multiplied, is `layer_decay` to the power of how many parts its part lies
    before the head. For each scale there are two groups, the decayed one first; one of them may be empty. Source:
    Howard & Ruder 2018, section 3.2, with the parts for layers.
    """
    by_scale: dict[float, tuple[list[nn.Parameter], list[nn.Parameter]]] = {}
    for before_head, part in reversed(list(enumerate(reversed(parts(net).values())))):
        decayed, free = by_scale.setdefault(layer_decay**before_head, ([], []))
        for parameter in part.parameters():
            if parameter.requires_grad:
                (decayed if recipe.decay_norms or parameter.ndim > 1 else free).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay, "lr_scale": scale}
        for scale, (decayed, free) in by_scale.items()
        for parameters, weight_decay in ((decayed, recipe.weight_decay), (free, 0.0))
    ]
