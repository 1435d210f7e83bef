"""Any checkpoint as a trained net with its classes, its preprocessing and its licence: what an artefact is made of."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from anabranch.artefact import sha256
from anabranch.catalogue.classes import imagenet_1k
from anabranch.catalogue.facts import Weights
from anabranch.catalogue.find import find
from anabranch.checkpoints.identify import published
from anabranch.checkpoints.load import net_of
from anabranch.checkpoints.read import Held, read_checkpoint
from anabranch.errors import UsageError
from anabranch.images.preprocess import Preprocess
from anabranch.nets.load import Trained, load_trained


def open_trained(path: Path, *, like: str | None = None) -> Trained:
    """What `anabranch train` wrote, published weights known by their hash, or any file `like` published weights.

    `like` names weights in the catalogue whose architecture, input, classes and licence the file shares: nothing of
    these is in a zoo's file. Raises CheckpointError, WeightsMismatch, UnknownName, and UsageError where `like` is
    wanted and not given.
    """
    held = read_checkpoint(path)
    if held.about is not None:
        return load_trained(path)
    name = like or published(sha256(path))
    if name is None:
        raise UsageError(
            f"{path}: no published weights have its hash, and it does not say what its input and its classes are; "
            "name published weights that it is like, such as resnext50_32x4d.tv_in1k"
        )
    weights = find(name).weights
    if weights is None:
        raise UsageError(f"{name} is an architecture; name its weights: 'anabranch show {name}' lists them")
    return _trained(weights, held, where=str(path))


def _trained(weights: Weights, held: Held, *, where: str) -> Trained:
    net = net_of(held, architecture=weights.architecture, told=weights.dialect, where=where)
    classes = tuple(label for _, label in imagenet_1k())
    if net.num_classes != len(classes):
        raise UsageError(f"{where} knows {net.num_classes} classes, {weights.name} the {len(classes)} of ImageNet-1k")
    return Trained(
        net=net,
        name=weights.name,
        licence=weights.licence,
        class_names=classes,
        preprocess=Preprocess(**asdict(weights.input)),
    )
