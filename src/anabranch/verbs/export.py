"""`anabranch export`: a checkpoint, or published weights, become an artefact."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from anabranch.artefact import refuse_to_replace
from anabranch.card import ANY_SIZE, FEATURES
from anabranch.deploy import known_servers, write_repositories
from anabranch.errors import ArtefactError, DatasetError, UsageError, need
from anabranch.images.preprocess import Preprocess
from anabranch.runtimes.open import ENGINES, everyday_formats
from anabranch.screen import print_json, spelt
from anabranch.verbs.models import checkpoint

if TYPE_CHECKING:
    from anabranch.calibration import Pictures
    from anabranch.card import Card


def run(
    name: str,
    *,
    out: str,
    like: str | None,
    formats: Sequence[str],
    stored: str,
    precisions: Sequence[str],
    calibrate: str | None,
    split: str | None,
    measure: int | None,
    max_flips: float,
    layers: str | None,
    backbone: bool,
    any_size: bool,
    servers: Sequence[str],
    storage_uri: str | None,
    overwrite: bool,
    json: bool,
) -> int:
    """`max_flips` in percent."""
    refuse_to_replace(Path(out), overwrite=overwrite)  # before a long download
    if "int8" in precisions and calibrate is None:
        raise UsageError("int8 is calibrated by real pictures; say where some lie with --calibrate DATA")
    if layers is not None and "int8" not in precisions:
        raise UsageError("--layers tells of the layers in int8; ask for --precision int8 too")
    if split is not None and calibrate is None:
        raise UsageError("--split is one of --calibrate DATA; give that too")
    if measure is not None and calibrate is None:
        raise UsageError("--measure is a number of pictures of --calibrate DATA; give that too")
    if stored != "f32" and not set(precisions) - {"int8"}:
        raise UsageError(f"--stored {stored} is for files in f32; ask for --precision f32 too")
    known_servers(servers, formats or everyday_formats(), storage_uri)
    need("torch", extra="torch")
    need("onnxscript", extra="torch")
    from anabranch.calibration import MEASURED
    from anabranch.card import card_to_json
    from anabranch.pack import check_wanted, pack_checkpoint

    check_wanted(formats or None, stored=stored, precisions=precisions, backbone=backbone, any_size=any_size)
    if calibrate is not None and not Path(calibrate).exists():
        raise DatasetError(f"{calibrate}: no such file or folder; --calibrate wants pictures")
    if layers is not None:
        _check_place(Path(layers), Path(out))
    found = checkpoint(name)
    card = pack_checkpoint(
        found.file,
        out,
        like=like or found.like,
        formats=formats or None,
        stored=stored,
        precisions=precisions,
        pictures=None
        if calibrate is None
        else partial(_pictures, Path(calibrate), split, measure or MEASURED, "int8" in precisions),
        max_flips=max_flips / 100,
        layers=None if layers is None else Path(layers),
        backbone=backbone,
        any_size=any_size,
        overwrite=overwrite,
    )
    try:
        repositories = write_repositories(Path(out), servers, storage_uri=storage_uri) if servers else []
    except ArtefactError as error:
        raise ArtefactError(
            f"{out} is written and whole, but {error}; mend that, and repeat this with --overwrite"
        ) from None
    if json:
        print_json(card_to_json(card))
        return 0
    files = (path.stat() for path in Path(out).rglob("*") if path.is_file())
    size_bytes = sum({each.st_ino: each.st_size for each in files}.values())  # repositories are of hard links
    print(f"{out}: {spelt(card.weights.name)}, {card.num_classes} classes, {size_bytes / 1e6:.1f} MB")
    print("\n".join(_figures(card)))
    print(f"  measured on {card.pictures}")
    for repository in repositories:
        print(f"  {repository} is ready for {repository.name}")
    if left_out := [
        name for name, each in ENGINES.items() if each.everyday and name not in card.agreement and not formats
    ]:
        print(f"  not for {', '.join(left_out)}, which is not installed: pip install 'anabranch[{left_out[0]}]'")
    return 0


def _check_place(layers: Path, out: Path) -> None:
    """Raises UsageError where the errors of layers could not be written, or would be lost."""
    if not layers.parent.is_dir():
        raise UsageError(f"--layers {layers}: there is no folder {layers.parent}; make it first")
    if layers.is_dir():
        raise UsageError(f"--layers {layers}: this is a folder; name a file")
    if Path(os.path.realpath(layers)).is_relative_to(os.path.realpath(out)):
        raise UsageError(f"--layers {layers}: it would lie in the artefact, which holds its own files alone")


def _pictures(
    data: Path, split: str | None, measured: int, calibrates: bool, preprocess: Preprocess, labels: tuple[str, ...]
) -> Pictures:
    """Of a labelled set, or of a folder of pictures without labels."""
    from anabranch.calibration import draw
    from anabranch.images.labelled import open_pictures

    pictures = open_pictures(data, split=split)
    name = data.absolute().name.encode(errors="backslashreplace").decode()
    drawn = draw(pictures, preprocess, labels, name=name, measured=measured, calibrates=calibrates)
    for note in drawn.notes:
        print(f"warning: {data}: {note}", file=sys.stderr)
    return drawn.pictures


def _figures(card: Card) -> list[str]:
    """A line for each engine and precision."""
    lines = []
    for engine, precisions in card.agreement.items():
        for precision, met in precisions.items():
            graph = card.graphs[ENGINES[engine].format].get(precision)  # none where it computes that of f32
            sums = ", sums between blocks in f32" if graph and graph.float_sums else ""
            line = f"  {engine} {precision}{sums}: at most {met.max_abs:.2g} from"
            if precision == FEATURES:
                lines.append(f"{line} the net, on values up to {met.largest_logit:.3g}")
                continue
            if precision in ANY_SIZE.values():
                lines.append(f"{line} pictures resized outside, on logits up to {met.largest_logit:.3g}")
                continue
            line += f" the net, on logits up to {met.largest_logit:.3g}; "
            line += f"{met.top1_flips} of {met.num_pictures} top-1 answers differ"
            if card.accuracy:
                right, nets = card.accuracy[engine][precision], card.accuracy["net"]["f32"]
                line += f"; {right.top1:.2f} % are right, of the net {nets.top1:.2f} %"
            lines.append(line)
    return lines
