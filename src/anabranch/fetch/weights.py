"""From the catalogue's entry to the verified file in the cache.

ANABRANCH_CACHE/weights/NAME/FILE         the file
ANABRANCH_CACHE/weights/NAME/FILE.json    where it came from, and what it was verified against
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from anabranch.cache import cache_folder
from anabranch.catalogue.facts import Weights
from anabranch.errors import FetchError
from anabranch.fetch.download import PATIENCE, Patience, Unobtainable, discard, download
from anabranch.fetch.kept import Expected, Fetched, adopted, drop, keep, kept
from anabranch.fetch.places import MIRROR, Published, copy, mirror, places, published


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    doing: Literal["waiting", "downloading", "checking"]  # waiting: another process fetches the same
    done_bytes: int = 0
    total_bytes: int | None = None


Report = Callable[[Progress], None]


def _silent(progress: Progress) -> None:
    """For a caller who does not watch."""


def fetched(weights: Weights, *, report: Report = _silent) -> Path:
    """The verified file of these weights in the cache, downloaded if it is not there. Raises FetchError, UsageError."""
    return fetch(weights, report=report).path


def fetch(
    weights: Weights, *, verify: bool = False, report: Report = _silent, patience: Patience = PATIENCE
) -> Fetched:
    """The same with what is known of the file; with `verify`, the hash of a file that is there is computed again.

    Raises FetchError for a file that cannot be had or kept, or is not the published one; UsageError for a mirror that
    cannot be one.
    """
    files = published(weights)
    folder = cache_folder() / "weights" / weights.name
    try:
        there = _first(kept(folder / file.file_name, file, verify=verify) for file in files)
        if there is not None:
            return there
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder, report):
            return (
                _first(kept(folder / file.file_name, file, verify=verify) for file in files)  # by whom we waited for
                or _first(adopted(folder / file.file_name, file) for file in files)
                or _obtained(files, folder, report, patience)
            )
    except OSError as error:
        raise FetchError(
            f"{weights.name} cannot be kept: {error.filename or folder}: {error.strerror or error}. "
            "ANABRANCH_CACHE may name another folder"
        ) from None


def _first(found: Iterator[Fetched | None]) -> Fetched | None:
    return next((each for each in found if each is not None), None)


@contextmanager
def _alone(folder: Path, report: Report) -> Iterator[None]:
    """While no other process fetches into this folder; the system lifts the lock of one that died."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report(Progress(doing="waiting"))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _obtained(files: Sequence[Published], folder: Path, report: Report, patience: Patience) -> Fetched:
    """From the first place that has it. Raises FetchError that says what each of them answered, and what to do."""
    refusals = []
    for file in files:
        drop(folder / file.file_name)  # what is there still is damaged or out of date
        for place in places(file):
            try:
                return _brought(place, file, folder / file.file_name, report, patience)
            except Unobtainable as refusal:
                refusals.append(str(refusal))
    raise FetchError(_nowhere(files, folder, refusals))


def _brought(place: str | Path, file: Published, path: Path, report: Report, patience: Patience) -> Fetched:
    """The file from this place under its final name. Raises Unobtainable, FetchError."""
    part = path.with_name(f".{path.name}.part")

    def advance(done_bytes: int, total_bytes: int | None) -> None:
        report(Progress(doing="downloading", done_bytes=done_bytes, total_bytes=total_bytes))

    expected = Expected(by="the catalogue", sha256=file.sha256, size_bytes=file.size_bytes)
    if isinstance(place, Path):
        copy(place, part, advance=advance)
        url = place.absolute().as_uri()
    else:
        stated = download(place, part, size_bytes=file.size_bytes, patience=patience, advance=advance)
        url = place
        if file.on_hub and mirror() is None:
            expected = Expected(by="the hub", sha256=stated.linked_sha256)
        if stated.total_bytes is None and expected.sha256 is None:
            discard(part)
            raise Unobtainable(f"{url}: nobody says how long the file is, so that it may be a part of it")
    size_bytes = part.stat().st_size
    report(Progress(doing="checking", done_bytes=size_bytes, total_bytes=size_bytes))
    return keep(part, expected, path=path, url=url)


def _nowhere(files: Sequence[Published], folder: Path, refusals: Sequence[str]) -> str:
    """What was met, and what to put where."""
    name, file_name = files[0].weights_name, files[0].file_name
    by_hand = f"put {file_name} at {folder / file_name}"
    if (base := mirror()) is not None:
        return (
            f"{name} is not in {base}, which {MIRROR} names: {'; '.join(refusals)}. Put it there under one of these "
            f"names, or {by_hand}, or unset {MIRROR} to fetch it from {files[0].url}"
        )
    return (
        f"{name} cannot be fetched: {'; '.join(refusals)}. "
        f"Where there is no network, {by_hand}, or into a folder that {MIRROR} names"
    )
