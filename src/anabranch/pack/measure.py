"""How far each engine of an artefact is from the net it was made of, and whether that is near enough."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anabranch.agree import agreement, logits_of
from anabranch.artefact import checked_files
from anabranch.calibration import Pictures
from anabranch.card import ANY_SIZE, FEATURES, Accuracy, Agreement, Card
from anabranch.errors import ExportError
from anabranch.export.eager import EagerPredictor, eager_features
from anabranch.nets.net import Net
from anabranch.runtimes.any_size import open_any_size
from anabranch.runtimes.backbone import open_backbone
from anabranch.runtimes.onnxruntime import RoundedPredictor
from anabranch.runtimes.open import ENGINES, open_model

# Largest logit difference over the largest logit that an artefact may have. f16 keeps 11 bits of each weight.
F32_TOLERANCE = 1e-4
F16_STORED_TOLERANCE = 1e-2
ANY_SIZE_TOLERANCE = 0.2  # pixels within two grey levels change less, those of another filter more

SYNTHETIC = "8 synthetic pictures: 4 of noise, 4 gradients"


def synthetic_pictures(size_px: int) -> NDArray[np.uint8]:
    """(8, S, S, 3): four of uniform noise, four gradients between two colours. The same ones on every machine."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (4, size_px, size_px, 3), dtype=np.uint8)
    ramp = np.linspace(0, 1, size_px)
    across, down = np.broadcast_to(ramp, (size_px, size_px)), np.broadcast_to(ramp[:, None], (size_px, size_px))
    ways = np.stack([across, down, (across + down) / 2, (across + 1 - down) / 2])[..., None]
    start, end = rng.uniform(0, 255, (2, 4, 1, 1, 3))
    return np.concatenate([noise, (start + ways * (end - start)).astype(np.uint8)])


class Wanted(NamedTuple):
    """The net's own answers, which every engine's are compared with."""

    logits: NDArray[np.float32]  # (N, K), of the pictures that all is measured on
    features: list[NDArray[np.float32]]  # of two others; none where no backbone is wanted


def wanted_of(net: Net, card: Card, pictures: Pictures, *, backbone: bool) -> Wanted:
    """Raises ExportError."""
    logits = logits_of(EagerPredictor(net, card), pictures.measured, batch=4)
    if not np.isfinite(logits).all():
        raise ExportError("the net itself answers with values that are not finite; there is nothing to export")
    return Wanted(logits, eager_features(net, card.preprocess, _oblong(card)) if backbone else [])


def measured(
    folder: Path,
    card: Card,
    wanted: Wanted,
    pictures: Pictures,
    *,
    precisions: Sequence[str],
    formats: Collection[str] | None = None,
) -> Card:
    """The card of the artefact `folder` with how far each engine is from the net, and how often each is right.

    formats: what is told anew; the rest stays as the card says it. Raises ExportError where f32, features or what
    resizes inside are too far.
    """
    told = set(card.graphs) & set(formats or card.graphs)
    names = [name for name, engine in ENGINES.items() if engine.measured and engine.format in told]
    met = {name: _met(folder, card, name, precisions, pictures) for name in names}
    met = {name: answers for name, answers in met.items() if answers}
    if "tensorrt" in told and "int8" in card.graphs["tensorrt"]:
        met["tensorrt"] = {"int8": logits_of(_without_gpu(folder, card), pictures.measured, batch=4)}
    agreed = {
        name: {
            **card.agreement.get(name, {}),
            **_agreed(card, name, answers, wanted.logits),
            **_features_agreed(folder, card, name, wanted.features),
            **(_any_size_agreed(folder, card) if name == "openvino" else {}),
        }
        for name, answers in met.items()
    }
    accurate = _accurate({"net": {"f32": wanted.logits}, **met}, pictures.truth)
    return replace(
        card,
        agreement={**card.agreement, **agreed},
        accuracy={**card.accuracy, **{name: {**card.accuracy.get(name, {}), **by} for name, by in accurate.items()}},
    )


def _oblong(card: Card) -> NDArray[np.uint8]:
    """Two pictures that are neither square nor of the net's own size."""
    return synthetic_pictures(card.size_px + 40)[3:5, :-8]  # for small nets, more than the strides of all stages


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


def _met(
    folder: Path, card: Card, name: str, precisions: Iterable[str], pictures: Pictures
) -> dict[str, NDArray[np.float32]]:
    """The logits of an engine in each precision that it computes in."""
    engine = ENGINES[name]
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
    card: Card, name: str, met: dict[str, NDArray[np.float32]], wanted: NDArray[np.float32]
) -> dict[str, Agreement]:
    """How far an engine is from the net, in each precision. Raises ExportError where f32 is too far."""
    agreed = {precision: agreement(logits, wanted) for precision, logits in met.items()}
    if "f32" in agreed:
        stored = card.graphs[ENGINES[name].format]["f32"].stored
        _check_f32(name, agreed["f32"], F16_STORED_TOLERANCE if stored == "f16" else F32_TOLERANCE)
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


def flips_too_often(met: Agreement, max_flips: float) -> bool:
    """Whether more than this share of the pictures have another top-1 answer than the net's."""
    return met.top1_flips > max_flips * met.num_pictures + 1e-6  # 0.29 * 100 is less than 29


def check_flips(card: Card, max_flips: float) -> None:
    """Raises ExportError where an engine in less than f32 gives too many pictures another top-1 answer than the net."""
    for name, agreed in card.agreement.items():
        for precision, met in agreed.items():
            if precision in ("f32", FEATURES, *ANY_SIZE.values()) or not flips_too_often(met, max_flips):
                continue
            graph = card.graphs[ENGINES[name].format].get(precision)  # none where it computes that of f32
            kept = ", with the sums between its blocks in f32 too" if graph and graph.float_sums else ""
            raise ExportError(
                f"{name} in {precision} gives {met.top1_flips} of {met.num_pictures} pictures another top-1 answer "
                f"than the net{kept}; at most {max_flips:.2%} were wanted. Nothing was written; "
                f"{_advice(met, max_flips)}"
            )


def _advice(met: Agreement, max_flips: float) -> str:
    share = met.top1_flips / met.num_pictures
    chance = (met.num_pictures * share * (1 - share)) ** 0.5  # standard deviation of a binomial
    otherwise = "allow more with --max-flips, or calibrate by other pictures"
    if met.top1_flips - 2 * chance > max_flips * met.num_pictures:
        return otherwise
    return f"give or take {chance:.0f} are chance: measure on more pictures with --measure, {otherwise}"
