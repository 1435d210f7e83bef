"""A file in the cache, what it was verified against, and the record of that beside it.

    NAME         the file; it gets this name only once it is verified
    NAME.json    `Fetched`, less the path
    .NAME.old    a file that was found damaged or out of date, until another has taken its place

A file is trusted as long as its size is the recorded one; its hash is computed again only on demand.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from anabranch.artefact import sha256
from anabranch.errors import FetchError
from anabranch.fetch.part import Unobtainable, discard
from anabranch.fetch.places import Published

_NOT_VERIFIED = "not verified"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A published file in the cache."""

    path: Path
    url: str  # where it came from
    size_bytes: int
    sha256: str  # as computed here
    verified: str  # against what, in words
    date: str  # ISO 8601, UTC

    @property
    def is_verified(self) -> bool:
        return self.doubt is None

    @property
    def doubt(self) -> str | None:
        """Why it is not verified, in words, if so."""
        return self.verified.partition(": ")[2] if self.verified.startswith(_NOT_VERIFIED) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What somebody says that a file is."""

    by: str
    sha256: str | None = None  # lower-case hexadecimal, whole or its first digits

    def verified(self) -> str:
        """In words what a file that agrees has been verified against."""
        if self.sha256 is None:
            return f"{_NOT_VERIFIED}: {self.by} states no hash"
        digits = "is" if len(self.sha256) == 64 else f"begins with {self.sha256},"
        return f"SHA-256 {digits} as {self.by} states"


class _Wrong(Exception):
    """A file that is not what is expected; says why."""


def kept(path: Path, file: Published, *, verify: bool) -> Fetched | None:
    """The file at `path` with its record, where the two agree with each other and with what is published."""
    record = _recorded(path)
    if record is None or not path.is_file() or path.stat().st_size != record.size_bytes:
        return None
    if not record.sha256.startswith(file.sha256 or ""):
        return None
    return None if verify and sha256(path) != record.sha256 else record


def adopted(path: Path, file: Published) -> Fetched | None:
    """A file that a person put there, verified and recorded: it lacks a record, or is another than the recorded one.

    One of the recorded size may as well be damaged, so that only a published hash tells. Raises FetchError where a
    file without a record is not the published one; it is left there, being the user's.
    """
    if not path.is_file():
        return None
    record = _recorded(path)
    if record is not None and record.size_bytes == path.stat().st_size and file.sha256 is None:
        return None
    expected = Expected(by="the catalogue", sha256=file.sha256)
    try:
        fetched = _verified(path, expected, path=path, url=path.absolute().as_uri())
    except _Wrong as wrong:
        if record is not None:
            return None
        raise FetchError(f"{path}: {wrong}. Remove it, or put the published file in its place") from None
    _record(fetched)
    return fetched


def keep(part: Path, expected: Expected, *, path: Path, url: str) -> Fetched:
    """Give a whole part its final name, once it is verified, and record it.

    Raises Unobtainable, with the part removed, where it is not what is expected.
    """
    try:
        fetched = _verified(part, expected, path=path, url=url)
    except _Wrong as wrong:
        discard(part)
        raise Unobtainable(f"{url} gives another file than was published: {wrong}") from None
    _beside(path).unlink(missing_ok=True)  # a file is never met with the record of another
    os.replace(part, path)
    _record(fetched)
    discard(part)
    return fetched


def set_aside(path: Path) -> None:
    """Take its name and record from a file that was found damaged or out of date."""
    if path.is_file():
        path.replace(aside(path))
    _beside(path).unlink(missing_ok=True)


def aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _verified(met: Path, expected: Expected, *, path: Path, url: str) -> Fetched:
    """The facts of the file `met`, to be kept at `path`. Raises _Wrong."""
    size_bytes = met.stat().st_size
    if size_bytes == 0:
        raise _Wrong("it is empty")
    with met.open("rb") as file:
        if file.read(64).lstrip(b"\xef\xbb\xbf\t\r\n ").startswith(b"<"):
            raise _Wrong("it is a web page")
    digest, wanted = sha256(met), expected.sha256 or ""
    if not digest.startswith(wanted):
        digits = "is" if len(wanted) == 64 else "begins with"
        raise _Wrong(f"its SHA-256 {digits} {digest[: len(wanted)]}; {expected.by} states {wanted}")
    return Fetched(
        path=path,
        url=url,
        size_bytes=size_bytes,
        sha256=digest,
        verified=expected.verified(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _record(fetched: Fetched) -> None:
    facts = {key: value for key, value in asdict(fetched).items() if key != "path"}
    written = _beside(fetched.path).with_name(f".{fetched.path.name}.json.part")
    written.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    written.replace(_beside(fetched.path))


def _recorded(path: Path) -> Fetched | None:
    """The record beside `path`, if there is one that can be read."""
    try:
        record = Fetched(path=path, **json.loads(_beside(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    words = (record.url, record.sha256, record.verified, record.date)
    return record if type(record.size_bytes) is int and all(isinstance(word, str) for word in words) else None


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
