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
    """The model called `name`: an artefact folder, a trained checkpoint (.safetensors), or the built-in one if None.

    A checkpoint is exported once and kept in the cache. Raises UsageError, UnknownName, ArtefactError, CheckpointError.
    """
    return open_model(_artefact(name), engine=engine, precision=precision, threads=threads)


def _artefact(name: str | None) -> Path:
    if name is None:
        return builtin()
    path = Path(name)
    if path.is_dir():
        return path
    if path.is_file():
        return exported(path)

    from anabranch.catalogue.find import find

    try:
        found = find(name)
    except UnknownName:
        if path.suffix or os.sep in name:
            raise UsageError(
                f"{name}: no such file or folder; give an artefact folder or a trained checkpoint"
            ) from None
        raise
    raise UnknownName(
        f"{name} is the architecture {found.architecture}, and this version fetches no weights of it; "
        "give an artefact folder, or a checkpoint that 'anabranch train' wrote"
    )


def exported(checkpoint: Path) -> Path:
    """The artefact of a trained checkpoint, from the cache where it has been exported before."""
    need("torch", extra="torch")
    need("onnxscript", extra="torch")
    from anabranch.artefact import CARD_FILE, sha256
    from anabranch.pack import pack_checkpoint
    from anabranch.version import VERSION

    folder = cache_folder() / "artefacts" / f"{sha256(checkpoint)[:32]}-{VERSION}"
    if not (folder / CARD_FILE).is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        pack_checkpoint(checkpoint, folder, overwrite=True)
    return folder
