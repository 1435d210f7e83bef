"""A net becomes an artefact: written, opened on every engine it is for, compared with the net, and only then named.

The one place that stands over both wings; it needs torch.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from anabranch.arch import name_of
from anabranch.artefact import replacing, write_card
from anabranch.calibration import Pictures
from anabranch.card import Card, Weights
from anabranch.checkpoints.trained import open_trained
from anabranch.engines import onnxruntime
from anabranch.errors import UsageError, need
from anabranch.export.any_size import check_any_size
from anabranch.export.write import IN_FLOAT_SUMS, known_formats, weights_sha256, write_float_sums, write_graphs
from anabranch.images.preprocess import Preprocess
from anabranch.nets.net import Net
from anabranch.pack.measure import (
    SYNTHETIC,
    check_flips,
    flips_too_often,
    measured,
    synthetic_pictures,
    wanted_of,
)
from anabranch.runtimes.open import ENGINES, everyday_formats
from anabranch.runtimes.openvino import want_offered
from anabranch.version import VERSION

# What made a format's files, of those that are not made wherever something is exported.
_CONVERTERS = {
    "tensorrt": "tensorrt_rtx_cu13",
    "ncnn": "pnnx",
    "mnn": "MNN",
    "executorch": "executorch",
    "litert": "litert-torch",
}

# Modules that convert, with their extras, where the engine itself runs without them.
_NEEDED_TO_CONVERT = {"ncnn": ("pnnx", "edge"), "litert": ("litert_torch", "litert")}


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
    the share of them whose top-1 answer in bf16 or int8 may be another one than the net's; a format whose int8 misses
    that keeps the sums between blocks in f32 instead, which its graph on the card says. layers: a CSV file for the
    error of each int8 layer, written even where the whole is refused. backbone: adds the graph
    of the net's features, for `anabranch.open_backbone`. any_size: adds OpenVINO's graphs that resize and crop by
    themselves, for `anabranch.open_any_size`. keep_net: False lets go of
    the net's weights before an engine is opened, for which a large net needs the memory; the net is left on the meta
    device. Nothing is left behind if it fails. Raises UsageError, ArtefactError, MissingExtra, and ExportError for an
    engine whose answers are too far from the net's.
    """
    if len(labels) != net.num_classes:
        raise UsageError(f"{len(labels)} labels for a net of {net.num_classes} classes; one for each is wanted")
    formats, precisions = check_wanted(
        formats, stored=stored, precisions=precisions, backbone=backbone, any_size=any_size
    )
    if any_size:
        check_any_size(preprocess)
    if pictures is None:
        pictures = Pictures(SYNTHETIC, synthetic_pictures(preprocess.crop_px))
    if "int8" in precisions and pictures.calibration is None:
        raise UsageError("int8 is calibrated by real pictures, and measured on others; give some")
    _check_pictures(pictures, preprocess)
    graphs = {engine.graphs[each] for engine in ENGINES.values() for each in precisions if each in engine.graphs}
    with (
        replacing(Path(folder), overwrite=overwrite) as staging,
        tempfile.TemporaryDirectory(dir=staging, prefix=".rounded.") as scratch,
    ):
        rounded = Path(scratch) / "int8.onnx"
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
                rounded=rounded,
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
        wanted = wanted_of(net, card, pictures, backbone=backbone)
        if not keep_net:
            net.to("meta")
        card = measured(staging, card, wanted, pictures, precisions=precisions)
        for kind in _rounded_too_far(card, max_flips):
            assert pictures.calibration is not None
            written = write_float_sums(
                rounded,
                staging,
                kind=kind,
                graphs=card.graphs[kind],
                preprocess=preprocess,
                calibration=pictures.calibration,
            )
            card = replace(card, graphs={**card.graphs, kind: written})
            write_card(staging, card)
            card = measured(staging, card, wanted, pictures, precisions=["int8"], formats=[kind])
        check_flips(card, max_flips)
        write_card(staging, card)
    return card


def _check_pictures(pictures: Pictures, preprocess: Preprocess) -> None:
    """Raises UsageError for pictures that do not fit the net or their classes, and where there are none."""
    side = preprocess.crop_px
    for name, pixels in (("measured", pictures.measured), ("calibration", pictures.calibration)):
        if pixels is None:
            continue
        if pixels.shape[1:] != (side, side, 3) or pixels.dtype != np.uint8 or len(pixels) == 0:
            raise UsageError(
                f"pictures.{name} is {pixels.dtype} {pixels.shape}; uint8 (N, {side}, {side}, 3) is wanted, "
                "and one picture at least"
            )
    if pictures.truth is not None and len(pictures.truth) != len(pictures.measured):
        raise UsageError(
            f"pictures.truth has {len(pictures.truth)} classes for {len(pictures.measured)} pictures; one for each is "
            "wanted"
        )


def _rounded_too_far(card: Card, max_flips: float) -> list[str]:
    """The formats whose INT8 gives too many pictures another answer, and can be written with sums in f32."""
    met = [(ENGINES[name].format, each["int8"]) for name, each in card.agreement.items() if "int8" in each]
    missed = {kind for kind, agreed in met if flips_too_often(agreed, max_flips)}
    return [kind for kind in IN_FLOAT_SUMS if kind in missed]


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
    net, about = open_trained(checkpoint, like=like)
    return pack(
        net,
        folder,
        preprocess=about.preprocess,
        labels=about.class_names,
        weights_name=about.name,
        licence=about.licence,
        multi_label=about.multi_label,
        formats=formats,
        stored=stored,
        precisions=precisions,
        pictures=pictures(about.preprocess, about.class_names) if pictures else None,
        max_flips=max_flips,
        layers=layers,
        backbone=backbone,
        any_size=any_size,
        overwrite=overwrite,
        keep_net=False,
    )


def check_wanted(
    formats: Iterable[str] | None, *, stored: str, precisions: Iterable[str], backbone: bool, any_size: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The formats and precisions of an export, each once, as far as can be said before there is a net.

    Raises UsageError for what does not go together or this processor does not compute, MissingExtra for a converter or
    an engine that is not installed.
    """
    formats = known_formats(everyday_formats() if formats is None else formats, stored)
    precisions = _known_precisions(precisions, formats)
    if backbone and not {"openvino", "onnx"} & set(formats):
        raise UsageError("a backbone is written for openvino and onnx; ask for one of these formats too")
    if any_size and "openvino" not in formats:
        raise UsageError("graphs of any size are written for openvino; ask for that format too")
    _need_engines(formats, precisions)
    if "openvino" in formats:
        for precision in precisions:
            want_offered(precision)
    return formats, precisions


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
    for kind, (module, extra) in _NEEDED_TO_CONVERT.items():
        if kind in formats and find_spec(module) is None:
            need(module, extra=extra)


def _versions(formats: Collection[str]) -> dict[str, str]:
    made_by = [
        "torch",
        "onnx",
        "onnxscript",
        "openvino",
        *(_CONVERTERS[name] for name in formats if name in _CONVERTERS),
    ]
    if find_spec("onnxruntime") is not None:  # which makes INT8, and one set of the figures
        made_by.append("onnxruntime")
    return {"anabranch": VERSION, **{name: _version(name) for name in made_by}}


def _version(name: str) -> str:
    """Of onnxruntime, whose package for GPUs has another name, as it says itself."""
    return onnxruntime().__version__ if name == "onnxruntime" else importlib.metadata.version(name)
