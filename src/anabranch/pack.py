"""A net becomes an artefact: written, opened on every engine it is for, compared with the net, and only then named.

The one place that stands over both wings; it needs torch.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anabranch.agree import agreement, logits_of
from anabranch.arch import name_of
from anabranch.artefact import replacing, write_card
from anabranch.calibration import Pictures
from anabranch.card import Accuracy, Agreement, Card, Weights
from anabranch.checkpoints.trained import open_trained
from anabranch.errors import ExportError, UsageError, need
from anabranch.export.eager import EagerPredictor
from anabranch.export.write import known_formats, weights_sha256, write_graphs
from anabranch.images.preprocess import Preprocess
from anabranch.nets.net import Net
from anabranch.runtimes.open import ENGINES, installed_formats, open_model
from anabranch.version import VERSION

# Largest logit difference over the largest logit that an artefact may have. f16 keeps 11 bits of each weight.
F32_TOLERANCE = 1e-4
F16_STORED_TOLERANCE = 1e-2

SYNTHETIC = "8 synthetic pictures: 4 of noise, 4 gradients"


def pack(
    net: Net,
    folder: Path | str,
    *,
    preprocess: Preprocess,
    labels: Sequence[str],
    weights_name: str,
    licence: str,
    multi_label: bool = False,
    formats: Iterable[str] | None = None,
    stored: str = "f32",
    precisions: Iterable[str] = ("f32",),
    pictures: Pictures | None = None,
    max_flips: float = 0.01,
    overwrite: bool = False,
    keep_net: bool = True,
) -> Card:
    """Write the artefact of `net` to `folder`, measure every engine's agreement with it, and give the card.

    formats: every one that an engine which is installed reads, if None. stored: f32, or f16 for OpenVINO files of half
    the size. precisions: of f32, bf16 (computed from the f32 graph) and int8; each engine is measured in those that it
    computes in. pictures: what it is measured on, and what int8 is calibrated by; synthetic ones if None. max_flips:
    the share of them whose top-1 answer in bf16 or int8 may be another one than the net's. keep_net: False lets go of
    the net's weights before an engine is opened, for which a large net needs the memory; the net is left on the meta
    device. Nothing is left behind if it fails. Raises UsageError, ArtefactError, MissingExtra, and ExportError for an
    engine whose answers are too far from the net's.
    """
    if len(labels) != net.num_classes:
        raise UsageError(f"{len(labels)} labels for a net of {net.num_classes} classes; one for each is wanted")
    formats = known_formats(installed_formats() if formats is None else formats, stored)
    precisions = _known_precisions(precisions, formats)
    _need_engines(formats, precisions)  # before the work whose result it is to measure
    if pictures is None:
        pictures = Pictures(SYNTHETIC, synthetic_pictures(preprocess.crop_px))
    if "int8" in precisions and pictures.calibration is None:
        raise UsageError("int8 is calibrated by real pictures, and measured on others; give some")
    graphs = {engine.graphs[each] for engine in ENGINES.values() for each in precisions if each in engine.graphs}
    with replacing(Path(folder), overwrite=overwrite) as staging:
        card = Card(
            architecture=name_of(net.arch),
            spec=net.arch,
            weights=Weights(weights_name, weights_sha256(net)),
            licence=licence,
            labels=tuple(labels),
            multi_label=multi_label,
            preprocess=preprocess,
            graphs=write_graphs(
                net,
                staging,
                preprocess=preprocess,
                formats=formats,
                stored=stored,
                precisions=sorted(graphs),
                calibration=pictures.calibration,
            ),
            agreement={},
            pictures=pictures.name,
            versions=_versions(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_card(staging, card)  # the engines open an artefact, so it must be one
        wanted = _answers(net, card, pictures.measured)
        if not keep_net:
            net.to("meta")
        met = {name: _met(staging, card, name, precisions, pictures) for name in ENGINES}
        met = {name: answers for name, answers in met.items() if answers}
        card = replace(
            card,
            agreement={name: _agreed(card, name, answers, wanted, max_flips) for name, answers in met.items()},
            accuracy=_accurate({"net": {"f32": wanted}, **met}, pictures.truth),
        )
        write_card(staging, card)
    return card


def pack_checkpoint(
    checkpoint: Path,
    folder: Path | str,
    *,
    like: str | None = None,
    formats: Iterable[str] | None = None,
    stored: str = "f32",
    precisions: Iterable[str] = ("f32",),
    pictures: Callable[[Preprocess, tuple[str, ...]], Pictures] | None = None,
    max_flips: float = 0.01,
    overwrite: bool = False,
) -> Card:
    """`pack` of what `anabranch train` wrote, of published weights, or of any zoo's file `like` published weights.

    pictures: gives them for the checkpoint's preprocessing and labels. Raises what
    `anabranch.checkpoints.trained.open_trained` raises, too.
    """
    trained = open_trained(checkpoint, like=like)
    return pack(
        trained.net,
        folder,
        preprocess=trained.preprocess,
        labels=trained.class_names,
        weights_name=trained.name,
        licence=trained.licence,
        multi_label=trained.multi_label,
        formats=formats,
        stored=stored,
        precisions=precisions,
        pictures=pictures(trained.preprocess, tuple(trained.class_names)) if pictures else None,
        max_flips=max_flips,
        overwrite=overwrite,
        keep_net=False,
    )


def synthetic_pictures(size_px: int) -> NDArray[np.uint8]:
    """(8, S, S, 3): four of uniform noise, four gradients between two colours. The same ones on every machine."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (4, size_px, size_px, 3), dtype=np.uint8)
    ramp = np.linspace(0, 1, size_px)
    across, down = np.broadcast_to(ramp, (size_px, size_px)), np.broadcast_to(ramp[:, None], (size_px, size_px))
    ways = np.stack([across, down, (across + down) / 2, (across + 1 - down) / 2])[..., None]
    start, end = rng.uniform(0, 255, (2, 4, 1, 1, 3))
    return np.concatenate([noise, (start + ways * (end - start)).astype(np.uint8)])


def _answers(net: Net, card: Card, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The net's own logits, (N, K). Raises ExportError."""
    logits = logits_of(EagerPredictor(net, card), pictures, batch=4)
    if not np.isfinite(logits).all():
        raise ExportError("the net itself answers with values that are not finite; there is nothing to export")
    return logits


def _known_precisions(precisions: Iterable[str], formats: Collection[str]) -> tuple[str, ...]:
    """Each once. Raises UsageError for one that no engine of these formats computes in, and for none at all."""
    asked = tuple(dict.fromkeys(precisions))
    known = dict.fromkeys(each for engine in ENGINES.values() if engine.format in formats for each in engine.graphs)
    for name in asked:
        if name not in known:
            raise UsageError(f"{' and '.join(formats)} files are not computed in {name!r}, but in {', '.join(known)}")
    if not asked:
        raise UsageError(f"no precision was asked for; there are {', '.join(known)}")
    return asked


def _need_engines(formats: Collection[str], precisions: Collection[str]) -> None:
    for engine in ENGINES.values():
        calibrates = engine.format == "onnx" and "int8" in precisions
        if engine.needs and (engine.format in formats or calibrates):
            need(engine.needs[0], extra=engine.needs[1])


def _met(
    folder: Path, card: Card, name: str, precisions: Iterable[str], pictures: Pictures
) -> dict[str, NDArray[np.float32]]:
    """The logits of an engine in each precision that it computes in, where the artefact holds a graph for it."""
    engine = ENGINES[name]
    if engine.format not in card.graphs:
        return {}
    return {
        each: logits_of(open_model(folder, engine=name, precision=each), pictures.measured, batch=4)
        for each in precisions
        if each in engine.graphs
    }


def _agreed(
    card: Card, name: str, met: dict[str, NDArray[np.float32]], wanted: NDArray[np.float32], max_flips: float
) -> dict[str, Agreement]:
    """How far an engine is from the net, in each precision. Raises ExportError where that is too far."""
    agreed = {precision: agreement(logits, wanted) for precision, logits in met.items()}
    for precision, each in agreed.items():
        if precision == "f32":
            stored = card.graphs[ENGINES[name].format]["f32"].stored
            _check_f32(name, each, F16_STORED_TOLERANCE if stored == "f16" else F32_TOLERANCE)
        else:
            _check_flips(f"{name} in {precision}", each, max_flips)
    return agreed


def _accurate(
    met: Mapping[str, Mapping[str, NDArray[np.float32]]], truth: NDArray[np.int64] | None
) -> dict[str, dict[str, Accuracy]]:
    if truth is None:
        return {}
    return {
        name: {each: Accuracy(int((logits.argmax(1) == truth).sum()), len(truth)) for each, logits in by.items()}
        for name, by in met.items()
    }


def _check_f32(name: str, met: Agreement, tolerance: float) -> None:
    if not met.max_abs <= tolerance * met.largest_logit:
        raise ExportError(
            f"{name} in f32 answers up to {met.max_abs:.3g} away from the net, on logits up to "
            f"{met.largest_logit:.3g}; at most {tolerance:g} of the largest was wanted. Nothing was written"
        )


def _check_flips(name: str, met: Agreement, max_flips: float) -> None:
    if not met.top1_flips <= max_flips * met.num_pictures:
        raise ExportError(
            f"{name} gives {met.top1_flips} of {met.num_pictures} pictures another top-1 answer than the net; at most "
            f"{max_flips:.2%} were wanted. Nothing was written; allow more, or calibrate by other pictures"
        )


def _versions() -> dict[str, str]:
    made_by = ("torch", "onnx", "onnxscript", "openvino")
    return {"anabranch": VERSION, **{name: importlib.metadata.version(name) for name in made_by}}
