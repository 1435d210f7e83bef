"""A net becomes an artefact: written, opened on every engine it is for, compared with the net, and only then named.

The one place that stands over both wings; it needs torch.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anabranch.agree import agreement, logits_of
from anabranch.arch import name_of
from anabranch.artefact import replacing, write_card
from anabranch.card import Agreement, Card, Weights
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
    pictures: NDArray[np.uint8] | None = None,
    pictures_name: str | None = None,
    calibration: NDArray[np.uint8] | None = None,
    max_flips: float = 0.01,
    overwrite: bool = False,
    keep_net: bool = True,
) -> Card:
    """Write the artefact of `net` to `folder`, measure every engine's agreement with it, and give the card.

    formats: every one that an engine which is installed reads, if None. pictures: (N, S, S, 3) uint8 to measure on,
    said as `pictures_name` on the card; the synthetic ones if None. stored: f32, or f16 for OpenVINO files of half the
    size. calibration: (M, S, S, 3) uint8 pictures, others than `pictures`, by which a graph in INT8 is made beside the
    f32 one; it is refused where the top-1 answer of more than the share `max_flips` of `pictures` is not the net's.
    keep_net: False lets go of the net's weights before an engine is opened, for which a large net needs the
    memory; the net is left on the meta device. Nothing is left behind if it fails. Raises UsageError, ArtefactError,
    MissingExtra, and ExportError for an engine whose answers are too far from the net's.
    """
    if calibration is not None and pictures is None:
        raise UsageError("what INT8 costs is measured on real pictures, others than it is made by; none were given")
    if len(labels) != net.num_classes:
        raise UsageError(f"{len(labels)} labels for a net of {net.num_classes} classes; one for each is wanted")
    formats = known_formats(installed_formats() if formats is None else formats, stored)
    for engine in ENGINES.values():
        if engine.needs and (engine.format in formats or (calibration is not None and engine.format == "onnx")):
            need(engine.needs[0], extra=engine.needs[1])  # before the work whose result it is to measure
    if pictures is None:
        pictures, pictures_name = synthetic_pictures(preprocess.crop_px), SYNTHETIC
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
                net, staging, preprocess=preprocess, formats=formats, stored=stored, calibration=calibration
            ),
            agreement={},
            pictures=pictures_name or f"{len(pictures)} pictures",
            versions=_versions(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_card(staging, card)  # the engines open an artefact, so it must be one
        wanted = _answers(net, card, pictures)
        if not keep_net:
            net.to("meta")
        card = replace(card, agreement=_measured(card, staging, pictures, wanted, max_flips))
        write_card(staging, card)
    return card


def pack_checkpoint(
    checkpoint: Path,
    folder: Path | str,
    *,
    like: str | None = None,
    formats: Iterable[str] | None = None,
    stored: str = "f32",
    overwrite: bool = False,
) -> Card:
    """`pack` of what `anabranch train` wrote, of published weights, or of any zoo's file `like` published weights.

    Raises what `anabranch.checkpoints.trained.open_trained` raises, too.
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


def _measured(
    card: Card, folder: Path, pictures: NDArray[np.uint8], wanted: NDArray[np.float32], max_flips: float
) -> dict[str, dict[str, Agreement]]:
    """Every engine that reads a format of the artefact, on each of its graphs, against the net's logits."""
    measured: dict[str, dict[str, Agreement]] = {}
    for name, engine in ENGINES.items():
        for precision, graph in card.graphs.get(engine.format, {}).items():
            met = agreement(open_model(folder, engine=name, precision=precision), wanted, pictures, batch=4)
            if precision == "int8":
                _check_int8(name, met, max_flips)
            else:
                _check_f32(name, met, F16_STORED_TOLERANCE if graph.stored == "f16" else F32_TOLERANCE)
            measured.setdefault(name, {})[precision] = met
    return measured


def _check_f32(name: str, met: Agreement, tolerance: float) -> None:
    if not met.max_abs <= tolerance * met.largest_logit:
        raise ExportError(
            f"{name} in f32 answers up to {met.max_abs:.3g} away from the net, on logits up to "
            f"{met.largest_logit:.3g}; at most {tolerance:g} of the largest was wanted. Nothing was written"
        )


def _check_int8(name: str, met: Agreement, max_flips: float) -> None:
    if not met.top1_flips <= max_flips * met.num_pictures:
        raise ExportError(
            f"{name} in int8 gives {met.top1_flips} of {met.num_pictures} pictures another top-1 answer than the net; "
            f"at most {max_flips:.2%} were wanted. Nothing was written; allow more, or calibrate with other pictures"
        )


def _versions() -> dict[str, str]:
    made_by = ("torch", "onnx", "onnxscript", "openvino")
    return {"anabranch": VERSION, **{name: importlib.metadata.version(name) for name in made_by}}
