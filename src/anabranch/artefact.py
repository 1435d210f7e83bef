"""An artefact: a folder that can be copied anywhere and opened without torch.

    card.json      what it is: anabranch.card
    labels.txt     one class a line, in the order of the logits, UTF-8
    f32.xml, ...   the engines' files; the card holds the size and the SHA-256 of each
    deploy         servers' repositories of these, where they were asked for

It is built in a folder beside its place and renamed into it, so that no reader ever meets half of one.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from anabranch.cache import cache_folder
from anabranch.card import Card, File, card_from_json, card_to_json, labels_text
from anabranch.disk import UNIQUE, building_folder, is_text
from anabranch.errors import ArtefactError

CARD_FILE = "card.json"
LABELS_FILE = "labels.txt"
DEPLOY_FOLDER = "deploy"

# Files up to this size are hashed each time, which takes a tenth of a second; larger ones the first time that they are
# met at a place, and when their size or their time of change is another one.
HASHED_EACH_TIME_BYTES = 64 << 20


def read_card(folder: Path, *, verify: bool = False) -> Card:
    """The card and the labels of an artefact; with `verify`, every file's size and hash too. Raises ArtefactError."""
    path = folder / CARD_FILE
    if not folder.is_dir():
        raise ArtefactError(f"{folder} is not an artefact: there is no such folder")
    if not path.is_file():
        raise ArtefactError(f"{folder} is not an artefact: it holds no {CARD_FILE}. 'anabranch export' makes one")
    try:
        value = json.loads(_text(path), object_pairs_hook=_without_duplicates, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{path} is damaged: {error}. Copy or export the artefact again") from None
    card = card_from_json(value, _read_labels(folder / LABELS_FILE), where=str(path))
    if verify:
        for graphs in card.graphs.values():
            for graph in graphs.values():
                checked_files(folder, graph.files, verify=True)
    return card


def checked_files(folder: Path, files: Mapping[str, File], *, verify: bool = False) -> dict[str, Path]:
    """Where each of these files lies, once its size and its hash are the card's.

    verify: also a large file that has been hashed before. Raises ArtefactError for a file that is missing, changed, or
    outside the folder.
    """
    home = Path(os.path.realpath(folder))
    paths = {}
    for name, wanted in files.items():
        path = folder / name
        real = Path(os.path.realpath(path))  # Path.resolve raises where a link leads to itself
        if not real.is_relative_to(home):
            raise ArtefactError(f"{path} leads out of the artefact, to {real}; a file inside it was expected")
        if not path.is_file():
            raise ArtefactError(f"{folder} is incomplete: {name} is missing. Copy or export the artefact again")
        size_bytes = path.stat().st_size
        if size_bytes != wanted.size_bytes:
            raise ArtefactError(
                f"{path} holds {size_bytes:,} bytes; the card says {wanted.size_bytes:,}. "
                "Copy or export the artefact again"
            )
        noted = _hashed_before(path, wanted) if size_bytes > HASHED_EACH_TIME_BYTES else None
        if verify or noted is None or not noted.exists():
            if (met := sha256(path)) != wanted.sha256:
                raise ArtefactError(
                    f"{path} is not the file that the card describes: its SHA-256 is {met[:12]}..., "
                    f"the card says {wanted.sha256[:12]}... Copy or export the artefact again"
                )
            _note(noted)
        paths[name] = path
    return paths


def file_ending(files: Mapping[str, Path], suffix: str) -> Path:
    """The file of a graph that ends so. Raises ArtefactError where the card names none."""
    for name, path in files.items():
        if name.endswith(suffix):
            return path
    raise ArtefactError(f"the card names no {suffix} file, but {', '.join(files)}. Export the artefact again")


def _hashed_before(path: Path, wanted: File) -> Path:
    """The file in the cache that says that this one, as it lies there, has this hash."""
    met = path.stat()
    key = repr((str(path.resolve()), met.st_size, met.st_mtime_ns, wanted.sha256))
    return cache_folder() / "hashed" / hashlib.sha256(os.fsencode(key)).hexdigest()[:32]


def _note(file: Path | None) -> None:
    if file is not None:
        with suppress(OSError):  # without it, the hash is computed the next time too
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()


def write_card(folder: Path, card: Card) -> None:
    """The card and the labels into a folder that holds the engines' files.

    Raises ArtefactError for a bad label, and a name that is no text.
    """
    from anabranch.images.lists import is_name  # and with it numpy, which reading does without

    for index, label in enumerate(card.labels):
        if not is_name(label):
            raise ArtefactError(f"label {index} is {label!a}: a label is one line of text that is not empty")
    (folder / LABELS_FILE).write_bytes(labels_text(card.labels))
    text = json.dumps(card_to_json(card), indent=2, ensure_ascii=False, allow_nan=False)
    try:
        written = f"{text}\n".encode()
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        met = text.splitlines()[line - 1].strip()
        raise ArtefactError(f"the card cannot hold {met!a}, which is no UTF-8; give it another name") from None
    (folder / CARD_FILE).write_bytes(written)


def described(folder: Path, names: Iterable[str]) -> dict[str, File]:
    """Size and hash of files in this folder, for its card."""
    return {name: File((folder / name).stat().st_size, sha256(folder / name)) for name in names}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A fresh folder to build an artefact in, which takes the place of `folder` once the block ends without an error.

    An artefact that lies there gives way only to `overwrite`; anything else that lies there never does. Raises
    ArtefactError.
    """
    folder = folder.absolute()
    if not is_text(folder):
        raise ArtefactError(f"{folder} is no UTF-8, and graphs cannot be written there; choose another place")
    _want_folders_above(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with building_folder(folder) as staging:
        _put_back(folder)
        refuse_to_replace(folder, overwrite=overwrite)
        yield staging
        refuse_to_replace(folder, overwrite=overwrite)  # it may have come into being meanwhile
        swap(staging, folder)


def _put_back(folder: Path) -> None:
    """Clear up after processes that were killed: what was to give way comes back where nothing had taken its place."""
    for retired in folder.parent.glob(f".{glob.escape(folder.name)}.{UNIQUE}.old"):
        if retired.with_suffix(".partial").exists():  # of a process that is about to put it there
            continue
        if folder.exists():
            shutil.rmtree(retired, ignore_errors=True)
        else:
            retired.rename(folder)


def refuse_to_replace(folder: Path, *, overwrite: bool) -> None:
    """Raises ArtefactError where an artefact may not be written."""
    if not folder.exists() and not folder.is_symlink():
        _want_folders_above(folder)
        return
    if not folder.is_dir() or folder.is_symlink():
        raise ArtefactError(f"{folder} is not a folder; an artefact cannot be written there. Choose another place")
    if why := _bound(folder.resolve()):
        raise ArtefactError(f"{folder} {why}, and cannot be replaced; name a folder in it, such as {folder / 'model'}")
    if not any(folder.iterdir()):
        return
    if not (folder / CARD_FILE).is_file():
        raise ArtefactError(f"{folder} holds something that is not an artefact; choose another place")
    if not overwrite:
        raise ArtefactError(f"{folder} already holds an artefact; choose another place, or replace it with --overwrite")
    if foreign := _foreign(folder):
        raise ArtefactError(
            f"{folder} holds {foreign}, which is no part of an artefact and would be lost; move it, or choose another "
            "place"
        )


def _foreign(folder: Path) -> str | None:
    """What lies there besides an artefact's own files. The card may be a newer one."""
    try:
        graphs = json.loads(_text(folder / CARD_FILE))["graphs"]
        own = {name for kind in graphs.values() for graph in kind.values() for name in graph["files"]}
    except (ArtefactError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return CARD_FILE
    own |= {CARD_FILE, LABELS_FILE, DEPLOY_FOLDER}
    return next((each.name for each in sorted(folder.iterdir()) if each.name not in own), None)


def _bound(folder: Path) -> str | None:
    """Why another folder cannot take the place of this one, if so."""
    if folder.is_mount():
        return "is the place of another file system"
    with suppress(FileNotFoundError):  # of a process whose own folder was removed
        if Path.cwd().is_relative_to(folder):
            return "holds the folder that you are in"
    return None


def _want_folders_above(folder: Path) -> None:
    above = next(each for each in folder.absolute().parents if each.exists())
    if not above.is_dir():
        raise ArtefactError(f"{above} is a file; an artefact cannot be written below it. Choose another place")


def swap(staging: Path, folder: Path) -> None:
    """Let a folder take the place of another, which is removed then; it stays where that fails."""
    retired = staging.with_suffix(".old")
    if not folder.exists():
        staging.rename(folder)
        return
    folder.rename(retired)
    try:
        staging.rename(folder)
    except OSError:
        retired.rename(folder)
        raise
    shutil.rmtree(retired, ignore_errors=True)


def _read_labels(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise ArtefactError(f"{path.parent} is incomplete: {path.name} is missing. Copy or export the artefact again")
    lines = _text(path).split("\n")
    if lines[-1] == "":  # the file ends with a line's end, as it was written
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if not line or "\r" in line:
            raise ArtefactError(f"{path}, line {number} is {line!r}: a label is one line that is not empty")
    return tuple(lines)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ArtefactError(f"{path} is not UTF-8: byte {error.start} does not fit. Copy the artefact again") from None
    except OSError as error:
        raise ArtefactError(f"{path} cannot be read: {error.strerror}") from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice in one object")
    return table


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is not a number")
