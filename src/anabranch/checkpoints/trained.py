"""Any checkpoint as a trained net with its classes, its preprocessing and its licence: what an artefact is made of."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from anabranch.arch import Arch
from anabranch.arch import arch as row
from anabranch.artefact import sha256
from anabranch.catalogue.classes import imagenet_1k
from anabranch.catalogue.facts import Weights
from anabranch.catalogue.find import find
from anabranch.checkpoints.identify import published
from anabranch.checkpoints.load import net_of, our_tensors, spec_of
from anabranch.checkpoints.read import read_checkpoint
from anabranch.errors import UsageError, WeightsMismatch
from anabranch.images.preprocess import Preprocess
from anabranch.nets.load import About, Trained, trained_of
from anabranch.nets.net import Net
from anabranch.nets.spelling import describe


def open_trained(
    path: Path,
    *,
    like: str | None = None,
    architecture: str | Arch | None = None,
    told: str = "auto",
    ema: bool = False,
) -> Trained:
    """What `anabranch train` wrote, published weights known by their hash, or any file `like` published weights.

    `like` names weights in the catalogue whose architecture, input, classes and licence the file shares: nothing of
    these is in a zoo's file. `architecture` and the dialect `told` are held to where they are given. Raises
    CheckpointError, WeightsMismatch, UnknownName, and UsageError where `like` is wanted and not given, or given and
    not wanted.
    """
    held = read_checkpoint(path, ema=ema)
    if held.about is not None:
        if like is not None:
            raise UsageError(f"{path}: says itself what its input and its classes are; it is like nothing but itself")
        our_tensors(held, architecture=architecture, told=told, where=str(path))
        return trained_of(held.tensors, held.about, where=str(path))
    weights = _weights(like) if like is not None else published(sha256(path))
    if weights is None:
        raise UsageError(
            f"{path}: no published weights have its hash, and it does not say what its input and its classes are; "
            "name published weights that it is like, as in 'anabranch export FILE -o FOLDER --like "
            "resnext50_32x4d.tv_in1k'"
        )
    if like is None and told == "auto":
        told = weights.dialect
    spec = row(weights.architecture)
    if architecture is not None and (asked := spec_of(architecture)) != spec:
        raise WeightsMismatch(f"{path}: {weights.name} is {describe(spec)}, and {describe(asked)} was asked for")
    net = net_of(held, architecture=spec, told=told, where=str(path))
    return _trained(net, weights, where=str(path))


def _weights(name: str) -> Weights:
    weights = find(name).weights
    if weights is None:
        raise UsageError(f"{name} is an architecture; name its weights: 'anabranch show {name}' lists them")
    return weights


def _trained(net: Net, weights: Weights, *, where: str) -> Trained:
    classes = tuple(label for _, label in imagenet_1k())
    if net.num_classes != len(classes):
        raise UsageError(
            f"{where} knows {net.num_classes} classes, {weights.name} the {len(classes)} of ImageNet-1k; from Python, "
            "anabranch.pack.pack exports a net with labels and preprocessing of your own"
        )
    in_channels = net.state_dict()["stem.conv1.conv.weight"].shape[1]
    if in_channels != 3:
        raise UsageError(
            f"{where} takes pictures of {in_channels} channels, and what is trained, exported and classified "
            "here are RGB pictures of 3; load it from Python"
        )
    preprocess = Preprocess(**asdict(weights.input))
    return Trained(net, About(name=weights.name, licence=weights.licence, class_names=classes, preprocess=preprocess))
