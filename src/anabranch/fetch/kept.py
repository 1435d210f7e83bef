"""A file in the cache, what it was verified against, and the record of that beside it.

    NAME         the file; it gets this name only once it is verified
    NAME.json    `Fetched`, less the path

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
from anabranch.fetch.download import discard
from anabranch.fetch.places import Published


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A published file in the cache."""

    path: Path
    url: str  # where it came from
    size_bytes: int
    sha256: str  # as computed here
    verified: str  # against what, in words
    date: str  # ISO 8601, UTC


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What somebody says that a file is."""

    by: str
    sha256: str | None = None  # lower-case hexadecimal, whole or its first digits
    size_bytes: int | None = None

    def verified(self) -> str:
        """In words what a file that agrees has been verified against."""
        if self.sha256 is not None:
            digits = "is" if len(self.sha256) == 64 else f"begins with {self.sha256},"
            return f"SHA-256 {digits} as {self.by} states"
        if self.size_bytes is not None:
            return f"size is as {self.by} states; nobody states a hash"
        return "not verified: nobody states its hash or size"


def kept(path: Path, file: Published, *, verify: bool) -> Fetched | None:
    """The file at `path` with its record, where the two agree with each other and with what is published."""
    record = _recorded(path)
    if record is None or not path.is_file() or path.stat().st_size != record.size_bytes:
        return None
    if not record.sha256.startswith(file.sha256 or ""):
        return None
    return None if verify and sha256(path) != record.sha256 else record


def adopted(path: Path, file: Published) -> Fetched | None:
    """A file that lies there without a record, as one that a person put there does: verified and recorded.

    Raises FetchError where it is not the published one; it is left there, being the user's.
    """
    if not path.is_file() or _recorded(path) is not None:
        return None
    expected = Expected(by="the catalogue", sha256=file.sha256, size_bytes=file.size_bytes)
    try:
        fetched = _verified(path, expected, path=path, url=path.absolute().as_uri())
    except FetchError as error:
        raise FetchError(f"{error}. Remove it, or put the published file in its place") from None
    _record(fetched)
    return fetched


def keep(part: Path, expected: Expected, *, path: Path, url: str) -> Fetched:
    """Give a whole part its final name, once it is verified, and record it.

    Raises FetchError, with the part removed, where it is not what is expected.
    """
    try:
        fetched = _verified(part, expected, path=path, url=url)
    except FetchError as error:
        discard(part)
        raise FetchError(f"{error}. It was removed; what {url} gives is not what was published") from None
    _record(fetched)  # before the name: a record without a file is no harm
    os.replace(part, path)
    discard(part)
    return fetched


def drop(path: Path) -> None:
    """Remove a file and its record."""
    path.unlink(missing_ok=True)
    _beside(path).unlink(missing_ok=True)


def _verified(met: Path, expected: Expected, *, path: Path, url: str) -> Fetched:
    size_bytes, digest = met.stat().st_size, sha256(met)
    if not digest.startswith(expected.sha256 or ""):
        digits = len(expected.sha256 or "")
        raise FetchError(
            f"{path}: SHA-256 {'is' if digits == 64 else 'begins with'} {digest[:digits]}; "
            f"{expected.by} states {expected.sha256}"
        )
    if expected.size_bytes not in (None, size_bytes):
        raise FetchError(f"{path}: {size_bytes:,} bytes; {expected.by} states {expected.size_bytes:,}")
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
        return Fetched(path=path, **json.loads(_beside(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
