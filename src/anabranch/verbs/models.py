"""From the NAME of a model on the command line to a Predictor that answers."""

from __future__ import annotations

import os
import shutil
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from anabranch.artefact import CARD_FILE, sha256
from anabranch.cache import cache_folder
from anabranch.errors import ArtefactError, UnknownName, UsageError, nearest, need
from anabranch.runtimes.open import ENGINES, builtin, known_engine, many_streams, open_model
from anabranch.runtimes.predictor import Predictor
from anabranch.version import VERSION

if TYPE_CHECKING:
    from filelock import FileLock

    from anabranch.catalogue.facts import Weights


class Checkpoint(NamedTuple):
    file: Path
    sha256: str
    like: str | None  # the published weights that it was fetched as


def open_named(
    name: str | None,
    *,
    engine: str = "openvino",
    precision: str | None = None,
    threads: int | None = None,
    streams: int | None = None,
    many: bool = False,
) -> Predictor:
    """The model called `name`: an artefact folder, a checkpoint, published weights, or the built-in one if None.

    What is not an artefact is exported once and kept in the cache. `streams`: None for those that are best for `many`
    pictures, or for one. Raises UsageError, UnknownName, ArtefactError, CheckpointError, FetchError.
    """
    # before a download or an export
    known_engine(engine, precision, threads=threads, streams=1 if streams is None else streams)
    if streams is None:
        streams = many_streams(engine, threads) if many else 1
    opened = partial(open_model, engine=engine, precision=precision, threads=threads, streams=streams)
    folder = _artefact(name, engine, precision)
    try:
        return opened(folder)
    except ArtefactError:
        if name is None or Path(name).is_dir():  # not ours to make anew
            raise
    with _lock(folder):
        try:
            return opened(folder)  # which another process may have made anew by now
        except ArtefactError:
            shutil.rmtree(folder, ignore_errors=True)  # damaged, or taken away by another process
    return opened(_artefact(name, engine, precision))


def open_as(name: str) -> Predictor:
    """`open_named` of NAME, NAME@ENGINE, NAME@PRECISION or NAME@ENGINE:PRECISION, for many pictures."""
    if Path(name).exists() or "@" not in name:
        return open_named(name, many=True)
    name, _, how = name.rpartition("@")
    engine, colon, precision = how.rpartition(":")
    if how in ENGINES:
        engine, precision = how, ""
    elif not colon and how not in (precisions := {each for engine in ENGINES.values() for each in engine.graphs}):
        close = nearest(how, [*ENGINES, *sorted(precisions)])[0]
        raise UsageError(f"{how!r} is no engine and no precision; the nearest is {close}")
    return open_named(name, engine=engine or "openvino", precision=precision or None, many=True)


def _artefact(name: str | None, engine: str, precision: str | None) -> Path:
    if name is None:
        return builtin()
    if Path(name).is_dir():
        _refuse_run(Path(name))
        return Path(name)
    if precision is not None and ENGINES[engine].graphs[precision] != "f32":
        if not Path(name).is_file():
            _meant(name)
        raise UsageError(
            f"{name} is no artefact, and {precision} is calibrated as one is made: "
            f"anabranch export {name} -o DIR --precision {precision} --calibrate DATA"
        )
    return exported(checkpoint(name), ENGINES[engine].format)


def checkpoint(name: str) -> Checkpoint:
    """The file called `name`, fetched where it is the name of published weights.

    Raises UsageError, UnknownName, FetchError.
    """
    if Path(name).is_file():
        return Checkpoint(Path(name), sha256(Path(name)), None)
    _refuse_run(Path(name))
    weights = _meant(name)
    for module in ("torch", "onnxscript"):
        if find_spec(module) is None:
            need(module, extra="torch")  # said before a long download
    from anabranch.verbs.fetch import bring

    fetched = bring(weights)
    if not fetched.is_verified:
        print(f"warning: {weights.name}: {fetched.path} is {fetched.verified}", file=sys.stderr)
    return Checkpoint(fetched.path, fetched.sha256, weights.name)


def _meant(name: str) -> Weights:
    """The published weights of this name. Raises UsageError, UnknownName."""
    from anabranch.verbs.fetch import meant

    try:
        return meant(name)
    except UnknownName as error:
        if Path(name).is_dir():
            raise UsageError(f"{name} is a folder; give a checkpoint, which is a file") from None
        if Path(name).suffix in (".safetensors", ".pth", ".pt", ".pdparams") or os.sep in name:
            raise UsageError(f"{name}: no such file or folder; give an artefact folder or a checkpoint") from None
        raise UnknownName(f"{name}: no such file or folder, and {error}") from None


def _refuse_run(folder: Path) -> None:
    """Raises UsageError for the folder of a training, which names its result."""
    if not (folder / "recipe.json").is_file():
        return
    result, last = folder / "model.safetensors", folder / "last.safetensors"
    so_far = f", but {last} is what it has come to" if last.is_file() else ""
    told = f"its result is {result}" if result.is_file() else f"it has no result yet{so_far}"
    raise UsageError(f"{folder} is a run's folder; {told}")


def exported(found: Checkpoint, kind: str) -> Path:
    """The artefact of a checkpoint in one format, from the cache where it has been exported before."""
    key = f"{found.sha256[:32]}{f'-{found.like}' if found.like else ''}-{kind}-{VERSION}"
    folder = cache_folder() / "artefacts" / key
    if (folder / CARD_FILE).is_file():
        return folder
    need("torch", extra="torch")
    need("onnxscript", extra="torch")
    from anabranch.pack import pack_checkpoint

    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        if not (folder / CARD_FILE).is_file():
            print(f"exporting {found.like or found.file}, once", file=sys.stderr)
            pack_checkpoint(found.file, folder, like=found.like, formats=[kind], overwrite=True)
    return folder


def _lock(folder: Path) -> FileLock:
    """What is held while an artefact of the cache is made or thrown away."""
    from filelock import FileLock

    return FileLock(folder.with_name(f".{folder.name}.lock"))
