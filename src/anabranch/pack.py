"""A net becomes an artefact: written, opened on every engine it is for, compared with the net, and only then named.

The one place that stands over both wings; it needs torch.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anabranch.agree import agreement, logits_of
from anabranch.arch import name_of
from anabranch.artefact import checked_files, replacing, write_card
from anabranch.calibration import Pictures
from anabranch.card import ANY_SIZE, FEATURES, Accuracy, Agreement, Card, Weights
from anabranch.checkpoints.trained import open_trained
from anabranch.errors import ExportError, UsageError, need
from anabranch.export.any_size import check_any_size
from anabranch.export.eager import EagerPredictor, eager_features
from anabranch.export.write import known_formats, weights_sha256, write_graphs
from anabranch.images.preprocess import Preprocess
from anabranch.nets.net import Net
from anabranch.runtimes.any_size import open_any_size
from anabranch.runtimes.backbone import open_backbone
from anabranch.runtimes.onnxruntime import RoundedPredictor
from anabranch.runtimes.open import ENGINES, everyday_formats, open_model
from anabranch.version import VERSION

# Largest logit difference over the largest logit that an artefact may have. f16 keeps 11 bits of each weight.
F32_TOLERANCE = 1e-4
F16_STORED_TOLERANCE = 1e-2
ANY_SIZE_TOLERANCE = 0.2  # pixels within two grey levels change less, those of another filter more

# What made a format's files, of those that are not made wherever something is exported.
_CONVERTERS = {
    "tensorrt": "tensorrt_rtx_cu13",
    "ncnn": "pnnx",
    "mnn": "MNN",
    "executorch": "executorch",
    "litert": "litert-torch",
}

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
    layers: Path | None = None,
    backbone: bool = False,
    any_size: bool = False,
    overwrite: bool = False,
    keep_net: bool = True,
) -> Card:
    """Write the artefact of `net` to `folder`, measure every engine's agreement with it, and give the card.

    formats: those of the everyday engines that are installed, if None. stored: f32, or f16 for OpenVINO files of half
    the size. precisions: of f32, bf16 (computed from the f32 graph) and int8; each engine is measured in those that it
    computes in. pictures: what it is measured on, and what int8 is calibrated by; synthetic ones if None. max_flips:
    the share of them whose top-1 answer in bf16 or int8 may be another one than the net's. layers: a CSV file for the
    error of each int8 layer, written even where the whole is refused. backbone: adds the graph
    of the net's features, for `anabranch.open_backbone`. any_size: adds OpenVINO's graphs that resize and crop by
    themselves, for `anabranch.open_any_size`. keep_net: False lets go of
    the net's weights before an engine is opened, for which a large net needs the memory; the net is left on the meta
    device. Nothing is left behind if it fails. Raises UsageError, ArtefactError, MissingExtra, and ExportError for an
    engine whose answers are too far from the net's.
    """
    if len(labels) != net.num_classes:
        raise UsageError(f"{len(labels)} labels for a net of {net.num_classes} classes; one for each is wanted")
    formats = known_formats(everyday_formats() if formats is None else formats, stored)
    precisions = _known_precisions(precisions, formats)
    if backbone and not {"openvino", "onnx"} & set(formats):
        raise UsageError("a backbone is written for openvino and onnx; ask for one of these formats too")
    if any_size:
        if "openvino" not in formats:
            raise UsageError("graphs of any size are written for openvino; ask for that format too")
        check_any_size(preprocess)
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
                layers=layers,
                backbone=backbone,
                any_size=any_size,
            ),
            agreement={},
            pictures=pictures.name,
            versions=_versions(formats),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_card(staging, card)  # the engines open an artefact, so it must be one
        wanted = _answers(net, card, pictures.measured)
        wanted_features = eager_features(net, preprocess, _oblong(card)) if backbone else []
        if not keep_net:
            net.to("meta")
        measured = [name for name, engine in ENGINES.items() if engine.measured]
        met = {name: _met(staging, card, name, precisions, pictures) for name in measured}
        met = {name: answers for name, answers in met.items() if answers}
        if "int8" in card.graphs.get("tensorrt", {}):
            met["tensorrt"] = {"int8": logits_of(_without_gpu(staging, card), pictures.measured, batch=4)}
        card = replace(
            card,
            agreement={
                name: {
                    **_agreed(card, name, answers, wanted, max_flips),
                    **(_features_agreed(staging, card, name, wanted_features) if backbone else {}),
                    **(_any_size_agreed(staging, card) if any_size and name == "openvino" else {}),
                }
                for name, answers in met.items()
            },
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
    layers: Path | None = None,
    backbone: bool = False,
    any_size: bool = False,
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
        layers=layers,
        backbone=backbone,
        any_size=any_size,
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


def _oblong(card: Card) -> NDArray[np.uint8]:
    """Two pictures that are neither square nor of the net's own size."""
    return synthetic_pictures(card.size_px + 5)[3:5, : -card.size_px // 4]


def _features_agreed(folder: Path, card: Card, name: str, wanted: list[NDArray[np.float32]]) -> dict[str, Agreement]:
    """How far an engine's features are from the net's, by the output that is worst. Raises ExportError."""
    if FEATURES not in card.graphs[ENGINES[name].format]:
        return {}
    opened, pixels = open_backbone(folder, engine=name), _oblong(card)
    met = [*opened.features(pixels), opened.embed(pixels)]
    each = [agreement(a.reshape(len(pixels), -1), b.reshape(len(pixels), -1)) for a, b in zip(met, wanted, strict=True)]
    worst = max(each, key=lambda one: one.relative)
    stored = card.graphs[ENGINES[name].format][FEATURES].stored
    _check_f32(f"{name}'s backbone", worst, F16_STORED_TOLERANCE if stored == "f16" else F32_TOLERANCE)
    return {FEATURES: replace(worst, top1_flips=0)}


def _any_size_agreed(folder: Path, card: Card) -> dict[str, Agreement]:
    """What resizing inside changes: each graph of any size against the same net on pictures resized outside."""
    pictures = synthetic_pictures(2 * card.preprocess.resize_px)[:, : card.preprocess.resize_px * 3 // 2]
    square = np.stack([card.preprocess(picture) for picture in pictures])
    agreed = {}
    for precision in (each for each in ANY_SIZE if ANY_SIZE[each] in card.graphs["openvino"]):
        inside = open_any_size(folder, precision=precision).predict(pictures)
        agreed[ANY_SIZE[precision]] = agreement(inside, open_model(folder, precision=precision).predict(square))
    for name, each in agreed.items():
        if not each.relative <= ANY_SIZE_TOLERANCE:
            raise ExportError(
                f"openvino's graph {name} answers up to {each.max_abs:.3g} away from the graph that is given resized "
                f"pictures, on logits up to {each.largest_logit:.3g}. Nothing was written; export without --any-size"
            )
    return agreed


def _known_precisions(precisions: Iterable[str], formats: Collection[str]) -> tuple[str, ...]:
    """Each once. Raises UsageError for one that no engine of these formats computes in, and for none at all."""
    asked = tuple(dict.fromkeys(precisions))
    engines = [each for each in ENGINES.values() if each.format in formats and each.has_files]
    known = dict.fromkeys(each for engine in engines for each in engine.graphs)
    for name in asked:
        if name not in known:
            raise UsageError(f"{' and '.join(formats)} files are not computed in {name!r}, but in {', '.join(known)}")
    if not asked:
        raise UsageError(f"no precision was asked for; there are {', '.join(known)}")
    for engine in engines:
        if not any(name in engine.graphs for name in asked):
            raise UsageError(f"{engine.format} files are computed in {', '.join(engine.graphs)}; ask for that too")
    return asked


def _need_engines(formats: Collection[str], precisions: Collection[str]) -> None:
    for engine in ENGINES.values():
        calibrates = engine.format == "onnx" and "int8" in precisions
        if engine.needs and (engine.format in formats or calibrates) and find_spec(engine.needs[0]) is None:
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


def _without_gpu(folder: Path, card: Card) -> RoundedPredictor:
    """The graph that TensorRT's INT8 engine was built from, on the CPU."""
    files = checked_files(folder, card.graphs["tensorrt"]["int8"].files)
    return RoundedPredictor(files, card, precision="int8", threads=None)


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


def _versions(formats: Collection[str]) -> dict[str, str]:
    made_by = [
        "torch",
        "onnx",
        "onnxscript",
        "openvino",
        *(_CONVERTERS[name] for name in formats if name in _CONVERTERS),
    ]
    return {"anabranch": VERSION, **{name: importlib.metadata.version(name) for name in made_by}}
