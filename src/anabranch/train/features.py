"""Features of a frozen backbone, computed once by the fast engine and kept in the cache."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from anabranch.arch import arch_to_json
from anabranch.calibration import Pictures
from anabranch.disk import unwritable
from anabranch.errors import ArtefactError, CheckpointError, DatasetError, ExportError, ImageError, need
from anabranch.images.labelled import Labelled, place_of
from anabranch.images.preprocess import Preprocess
from anabranch.nets.load import load_strictly
from anabranch.nets.net import Net
from anabranch.nets.store import read_tensors, tensors_sha256, write_tensors
from anabranch.runtimes.open import many_streams, open_model
from anabranch.runtimes.openvino import offered_precisions, want_offered
from anabranch.runtimes.predictor import Predictor
from anabranch.train.estimate import Timed
from anabranch.train.sets import want_few
from anabranch.version import VERSION

Report = Callable[[int], None]  # told the number of pictures done

_KIND = "features"
_BATCH = 8
_FEWEST = 3  # rounds that are timed
_CHECKED = 8  # pictures on which the engine is held against torch
_TOLERANCE = {"f32": 1e-3, "bf16": 0.05, "int8": 0.1}  # of the features' length, over those pictures
_CALIBRATED = 64  # pictures that show INT8 its ranges: with 128 an export takes 1.4 times as long


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    values: NDArray[np.float32]  # (n, C)
    indices: NDArray[np.int64]  # (n,), of each row's picture in its set: all those that could be read
    unreadable: tuple[tuple[str, str], ...]  # name and reason
    not_kept: str | None = None  # why the next one will look again


def features(
    net: Net,
    data: Labelled,
    preprocess: Preprocess,
    *,
    cache: Path,
    precision: str = "f32",
    unreadable: float = 0.0,
    report: Report = lambda done: None,
) -> Features:
    """What the net's `embed` gives for each picture, from the folder `cache` where it is known already.

    It is computed anew where the backbone, the preprocessing or any picture is another one, and where the kept file is
    damaged. precision: f32, bf16 where the processor has it, or int8, whose ranges are those of some of these pictures.
    Raises DatasetError where more than the share `unreadable` of the pictures cannot be read, or too few are there to
    show ranges, ExportError where the engine does not agree with torch or the cache has no room for the backbone, and
    UsageError where the processor has no bf16.
    """
    frozen = backbone(net)
    computes = _computes(frozen, preprocess)
    here = _sha256([computes, _pictures_sha256(data), precision])
    path = cache / _KIND / f"{here}.safetensors"
    known = _kept(path)
    if known is None:
        folder = cache / "backbones" / (here if precision == "int8" else computes)[:32]
        engine = _engine(frozen, preprocess, folder, precision=precision, data=data)
        known = _computed(engine, data, unreadable, report)
        _check(engine, frozen, data, known, _TOLERANCE[precision])
        known = replace(known, not_kept=_keep(path, known))
    place = place_of(data)  # which may be another one than where the same pictures lay before
    known = replace(known, unreadable=tuple((name, place + reason) for name, reason in known.unreadable))
    want_few([reason for _, reason in known.unreadable], len(data), unreadable, kind="of its")
    report(len(data))
    return known


def pace(
    net: Net, data: Labelled, preprocess: Preprocess, *, cache: Path, precision: str, seconds: float = 10.0
) -> Timed:
    """Seconds for a picture, by looking at some from all over the set for about so long, three times at least.

    The backbone is exported to the cache, where `features` finds it; in INT8 they make another one for all pictures.
    Raises as `features`, but for unreadable pictures, which take their time too.
    """
    frozen = backbone(net)
    computes = _computes(frozen, preprocess)
    kept = _sha256([computes, "some"]) if precision == "int8" else computes
    engine = _engine(frozen, preprocess, cache / "backbones" / kept[:32], precision=precision, data=data)
    threads = torch.get_num_threads()
    firsts = np.random.default_rng(0).permutation(np.arange(0, len(data), _BATCH)).tolist()
    paces: list[float] = []
    began = perf_counter()
    with ThreadPoolExecutor(threads, thread_name_prefix="features") as pool:
        list(pool.map(partial(_part, engine, data), firsts[:threads]))
        while len(paces) < _FEWEST or perf_counter() - began < seconds:
            round_began = perf_counter()
            these = [firsts[(len(paces) * threads + each) % len(firsts)] for each in range(threads)]
            parts = list(pool.map(partial(_part, engine, data), these))
            looked_at = sum(len(part.indices) + len(part.unreadable) for part in parts)
            paces.append((perf_counter() - round_began) / looked_at)
    return Timed.of(paces)


def _computes(frozen: Net, preprocess: Preprocess) -> str:
    return _sha256([arch_to_json(frozen.arch), preprocess.to_json(), tensors_sha256(frozen.state_dict()), VERSION])


def _keep(path: Path, known: Features) -> str | None:
    """Write the features to the cache; if that fails, why: what was looked at for hours is not lost for it."""
    tensors = {"values": torch.from_numpy(known.values), "indices": torch.from_numpy(known.indices)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, tensors, {"kind": _KIND, "unreadable": known.unreadable})
    except OSError as error:
        return str(unwritable(path, error))
    except CheckpointError as error:
        return str(error)
    return None


def chosen_precision(wanted: str) -> str:
    """For "auto" bf16, which costs a probe nothing in accuracy, where the processor computes it; elsewhere f32."""
    if wanted != "auto":
        return wanted
    return "bf16" if "bf16" in offered_precisions() else "f32"


def backbone(net: Net) -> Net:
    """The net without its head, on the processor and in eval mode: what it answers is its features, (N, C)."""
    with torch.device("meta"):
        headless = Net(net.arch, num_classes=net.head.in_features)
    headless.add_module("head", nn.Identity())
    tensors = {name: tensor.cpu() for name, tensor in net.state_dict().items() if not name.startswith("head.")}
    load_strictly(headless, tensors, where="the backbone", assign=True)
    return headless.eval()


def _engine(backbone: Net, preprocess: Preprocess, folder: Path, *, precision: str, data: Labelled) -> Predictor:
    """The backbone as an artefact whose logits are features, packed into `folder` unless it is there and whole."""
    want_offered(precision)  # before an export
    streams = many_streams("openvino")
    try:
        return open_model(folder, precision=precision, streams=streams, verify=True)
    except ArtefactError:
        try:
            _pack(backbone, preprocess, folder, precision=precision, data=data)
        except (ExportError, OSError) as error:
            why = unwritable(folder, error) if isinstance(error, OSError) else error
            raise ExportError(
                f"the backbone cannot be exported to the cache, for which ANABRANCH_CACHE may name another place: {why}"
            ) from None
    return open_model(folder, precision=precision, streams=streams)


def _pack(backbone: Net, preprocess: Preprocess, folder: Path, *, precision: str, data: Labelled) -> None:
    need("onnxscript", extra="torch")
    from anabranch.pack import pack  # the exporter takes seconds to import

    pictures = None
    if precision == "int8":
        shown = _some(data, preprocess, _CHECKED + _CALIBRATED)
        pictures = Pictures("the pictures looked at", shown[:_CHECKED], calibration=shown[_CHECKED:])
    pack(
        backbone,
        folder,
        preprocess=preprocess,
        labels=[f"feature {index}" for index in range(backbone.num_classes)],
        weights_name="backbone",
        licence="unknown",
        formats=("openvino",),
        precisions=("int8" if precision == "int8" else "f32",),  # bf16 is computed from the f32 graph
        pictures=pictures,
        max_flips=1.0,  # the largest feature is not an answer
        overwrite=True,
    )


def _some(data: Labelled, preprocess: Preprocess, count: int) -> NDArray[np.uint8]:
    """Up to `count` pictures (M, S, S, 3), drawn from all over the set; those that cannot be read are left out."""
    pixels: list[NDArray[np.uint8]] = []
    for index in np.random.default_rng(0).permutation(len(data))[:count]:
        with suppress(ImageError):
            pixels.append(preprocess(data.picture(int(index))))
    if len(pixels) < 2 * _CHECKED:
        raise DatasetError(
            f"INT8 wants at least {2 * _CHECKED} pictures that can be read, to show it their ranges; there are "
            f"{len(pixels)}. Add some, or look through the net in f32"
        )
    return np.stack(pixels)


def _computed(engine: Predictor, data: Labelled, share: float, report: Report) -> Features:
    """Each thread reads a batch and has it answered, so that no core waits for another one's pictures.

    What could not be read is told without the set's folder.
    """
    parts: list[Features] = []
    unreadable: list[str] = []
    pool = ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="features")
    try:
        for part in pool.map(partial(_part, engine, data), range(0, len(data), _BATCH)):
            parts.append(part)
            unreadable += [reason for _, reason in part.unreadable]
            want_few(unreadable, len(data), share, kind="of its", place=place_of(data))
            report(min(len(parts) * _BATCH, len(data)))
    finally:
        pool.shutdown(cancel_futures=True)
    values, indices = (np.concatenate(each) for each in zip(*((p.values, p.indices) for p in parts), strict=True))
    return Features(values, indices, tuple(told for part in parts for told in part.unreadable))


def _part(engine: Predictor, data: Labelled, first: int) -> Features:
    pixels: list[NDArray[np.uint8]] = []
    indices: list[int] = []
    unreadable: list[tuple[str, str]] = []
    for index in range(first, min(first + _BATCH, len(data))):
        try:
            pixels.append(engine.card.preprocess(data.picture(index)))
            indices.append(index)
        except ImageError as error:
            name, told = data.names[index], str(error).removeprefix(place_of(data))
            unreadable.append((name, told if name in told else f"{name}: {told}"))
    values = engine.predict(np.stack(pixels)) if pixels else np.empty((0, engine.card.num_classes), np.float32)
    return Features(values, np.array(indices, np.int64), tuple(unreadable))


def _check(engine: Predictor, backbone: Net, data: Labelled, known: Features, tolerance: float) -> None:
    """Raises ExportError unless the engine's first features are torch's."""
    from anabranch.export.eager import EagerPredictor

    first = known.indices[:_CHECKED].tolist()
    pixels = np.stack([engine.card.preprocess(data.picture(index)) for index in first])
    wanted = EagerPredictor(backbone, engine.card).predict(pixels)
    apart = np.linalg.norm(known.values[: len(first)] - wanted) / np.linalg.norm(wanted)
    if not apart <= tolerance:
        raise ExportError(
            f"{engine.engine} gives features that differ from the net's by {apart:.2%} of their length; "
            f"at most {tolerance:.1%} was wanted. Nothing was kept"
        )


def _kept(path: Path) -> Features | None:
    try:
        tensors, about = read_tensors(path)
    except CheckpointError:  # not there, or damaged
        return None
    unreadable = tuple((name, reason) for name, reason in about["unreadable"])
    return Features(tensors["values"].numpy(), tensors["indices"].numpy(), unreadable)


def _pictures_sha256(data: Labelled) -> str:
    """The hash of the pictures' names and files. Labels are left out, on which no feature depends."""
    total = hashlib.sha256()
    if data.pixels is not None:
        total.update(f"{data.pixels.shape}".encode())
        total.update(np.ascontiguousarray(data.pixels).data)
        return total.hexdigest()
    for index, name in enumerate(data.names):
        try:
            _, held = data.encoded(index)
        except ImageError as error:
            held = str(error).encode()
        total.update(b"%s\0%d\0" % (os.fsencode(name), len(held)))
        total.update(held)
    return total.hexdigest()


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
