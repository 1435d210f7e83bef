"""From the NAME of a model on the command line to a Predictor that answers."""

from __future__ import annotations

import os
from pathlib import Path

from anabranch.cache import cache_folder
from anabranch.errors import UnknownName, UsageError, need
from anabranch.runtimes.open import builtin, open_model
from anabranch.runtimes.predictor import Predictor


def open_named(
    name: str | None, *, engine: str = "openvino", precision: str = "f32", threads: int | None = None
) -> Predictor:
    """The model called `name`: an artefact folder, a checkpoint, published weights, or the built-in one if None.

    What is not an artefact is exported once and kept in the cache. Raises UsageError, UnknownName, ArtefactError,
    CheckpointError, FetchError.
    """
    return open_model(_artefact(name), engine=engine, precision=precision, threads=threads)


def _artefact(name: str | None) -> Path:
    if name is None:
        return builtin()
    if Path(name).is_dir():
        return Path(name)
    return exported(*checkpoint(name))


def checkpoint(name: str) -> tuple[Path, str | None]:
    """The file called `name`, fetched where it is the name of published weights, and the weights that it is like.

    Raises UsageError, UnknownName, FetchError.
    """
    if Path(name).is_file():
        return Path(name), None

    from anabranch.verbs.fetch import bring, meant

    try:
        weights = meant(name)
    except UnknownName:
        if Path(name).suffix in (".safetensors", ".pth", ".pt", ".pdparams") or os.sep in name:
            raise UsageError(f"{name}: no such file or folder; give an artefact folder or a checkpoint") from None
        raise
    need("torch", extra="torch")  # before a long download
    return bring(weights).path, weights.name


def exported(file: Path, like: str | None = None) -> Path:
    """The artefact of a checkpoint, from the cache where it has been exported before."""
    need("torch", extra="torch")
    need("onnxscript", extra="torch")
    from anabranch.artefact import CARD_FILE, sha256
    from anabranch.pack import pack_checkpoint
    from anabranch.version import VERSION

    folder = cache_folder() / "artefacts" / f"{sha256(file)[:32]}{f'-{like}' if like else ''}-{VERSION}"
    if not (folder / CARD_FILE).is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        pack_checkpoint(file, folder, like=like, overwrite=True)
    return folder
