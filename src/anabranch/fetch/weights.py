"""From the catalogue's entry to the verified file in the cache.

ANABRANCH_CACHE/weights/NAME/FILE         the file
ANABRANCH_CACHE/weights/NAME/FILE.json    where it came from, and what it was verified against
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from anabranch.cache import cache_folder
from anabranch.catalogue.facts import Weights
from anabranch.errors import FetchError
from anabranch.fetch.connection import Patience
from anabranch.fetch.download import download
from anabranch.fetch.kept import Expected, Fetched, adopted, aside, keep, kept, set_aside
from anabranch.fetch.part import Unobtainable, begun
from anabranch.fetch.places import MIRROR, Published, copy, mirror, places, published
from anabranch.fetch.progress import Progress, Report, silent

PATIENCE = Patience()


def fetched(weights: Weights, *, report: Report = silent) -> Path:
    """The verified file of these weights in the cache, downloaded if it is not there. Raises FetchError, UsageError."""
    return fetch(weights, report=report).path


def fetch(weights: Weights, *, verify: bool = False, report: Report = silent, patience: Patience = PATIENCE) -> Fetched:
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
    offers = [(place, file) for file in files for place in places(file)]
    for file in files:
        set_aside(folder / file.file_name)  # whatever is there still is damaged or out of date
    refusals = []
    for place, file in sorted(offers, key=lambda offer: not _has_begun(folder, *offer)):
        try:
            fetched = _brought(place, file, folder / file.file_name, report, patience)
        except Unobtainable as refusal:
            refusals.append(str(refusal))
            continue
        for each in files:
            aside(folder / each.file_name).unlink(missing_ok=True)
        return fetched
    raise FetchError(_nowhere(files, folder, refusals))


def _part(folder: Path, file: Published) -> Path:
    return folder / f".{file.file_name}.part"


def _has_begun(folder: Path, place: str | Path, file: Published) -> bool:
    """Whether this place has given a part that can be gone on with."""
    stated = begun(_part(folder, file))
    return stated is not None and stated.url == place


def _brought(place: str | Path, file: Published, path: Path, report: Report, patience: Patience) -> Fetched:
    """The file from this place under its final name. Raises Unobtainable, FetchError."""
    part = _part(path.parent, file)
    by = "the catalogue" if not file.on_hub else "the hub" if mirror() is None else MIRROR
    expected = Expected(by=by, sha256=file.sha256)
    if isinstance(place, Path):
        copy(place, part, report=report)
        url = place.absolute().as_uri()
    else:
        stated = download(place, part, needs_length=file.sha256 is None, patience=patience, report=report)
        url = place
        if file.on_hub and mirror() is None:
            expected = Expected(by=by, sha256=stated.linked_sha256)
    size_bytes = part.stat().st_size
    report(Progress(doing="checking", done_bytes=size_bytes, total_bytes=size_bytes))
    return keep(part, expected, path=path, url=url)


def _nowhere(files: Sequence[Published], folder: Path, refusals: Sequence[str]) -> str:
    """What was met, and what to put where."""
    name, base = files[0].weights_name, mirror()
    by_hand = {file.file_name: f"put {file.file_name} at {folder / file.file_name}" for file in files}
    bare_names = dict.fromkeys(file.bare_name for file in files)
    met = f"{name} cannot be fetched" if base is None else f"{name} cannot be had from {base}, which {MIRROR} names"
    todo = (
        f"If you have the file, {' or '.join(by_hand.values())}, "
        f"or into {'a' if base is None else 'the'} folder that {MIRROR} names, there called {' or '.join(bare_names)}"
    )
    if base is not None:
        todo += f"; or unset {MIRROR} to fetch it from {files[0].url}"
    old = [str(aside(folder / each)) for each in by_hand if aside(folder / each).exists()]
    left = f". What was there before is damaged or out of date, and called {' and '.join(old)} now" if old else ""
    return f"{met}: {'; '.join(refusals)}. {todo}{left}"
