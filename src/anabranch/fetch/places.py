"""Where the file of a set of weights lies: at its publisher's addresses, or in a mirror of the user's own.

ANABRANCH_MIRROR names the mirror: a folder, or the address of one (file://, http://, https://). Where it is set,
nothing is looked for anywhere else: a machine that may not reach the world never tries to.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from anabranch.catalogue.facts import HUB, Weights
from anabranch.errors import FetchError, UsageError
from anabranch.fetch.download import Advance, Unobtainable, discard, want_room

MIRROR = "ANABRANCH_MIRROR"
_HUB_FILE = "model.safetensors"
_COPIED_BYTES = 1 << 20  # at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A file that a publisher offers, and what is known of it beforehand."""

    weights_name: str
    file_name: str
    url: str
    on_hub: bool
    sha256: str | None  # lower-case hexadecimal, whole or its first digits
    size_bytes: int | None


def published(weights: Weights) -> list[Published]:
    """In the order in which they are to be tried. Raises FetchError for weights that lie nowhere."""
    if not weights.urls:
        raise FetchError(
            f"{weights.name}: no address is known that gives its file; get it from {weights.publisher}, "
            "and give the file's path instead of the name"
        )
    return [_published(weights, url) for url in weights.urls]


def _published(weights: Weights, url: str) -> Published:
    on_hub, sha256 = url.startswith(HUB), weights.sha256_of(url)
    if on_hub:
        endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"  # what the hub's own tools read
        url = f"{endpoint.rstrip('/')}/{url.removeprefix(HUB)}/resolve/main/{_HUB_FILE}"
    file_name = urlsplit(url).path.rpartition("/")[2]
    if not file_name or file_name.startswith(".") or "\\" in file_name:
        raise FetchError(f"{weights.name}: its address {url} does not end with the name of a file")
    return Published(
        weights_name=weights.name,
        file_name=file_name,
        url=url,
        on_hub=on_hub,
        sha256=sha256,
        size_bytes=None if on_hub else weights.size_bytes,  # of the publisher's file, not of the hub's safetensors
    )


def mirror() -> str | None:
    """The mirror as the user wrote it, or None where there is none."""
    return os.environ.get(MIRROR) or None


def places(file: Published) -> list[str | Path]:
    """Addresses and paths at which to look for it, in this order. Raises UsageError for a mirror that is neither."""
    base = mirror()
    if base is None:
        return [file.url]
    # every file on the hub is called the same, so that its bare name says nothing of whose it is
    bare = f"{file.weights_name}.safetensors" if file.on_hub else file.file_name
    names = [f"{file.weights_name}/{file.file_name}", bare]
    if base.startswith(("http://", "https://")):
        return [f"{base.rstrip('/')}/{quote(name, safe='/%')}" for name in names]
    folder = Path(url2pathname(urlsplit(base).path)) if base.startswith("file://") else Path(base).expanduser()
    if re.match("[a-z0-9+.-]+://", base) and not base.startswith("file://"):
        raise UsageError(f"{MIRROR} is {base!r}; it may be a folder, or begin with file://, http:// or https://")
    return [folder / name for name in names]


def copy(source: Path, part: Path, *, advance: Advance) -> None:
    """A mirror's file into the part. Raises Unobtainable where there is none, FetchError where there is no room."""
    try:
        original = source.open("rb")
    except FileNotFoundError:
        raise Unobtainable(f"{source}: not there") from None
    except OSError as error:
        raise Unobtainable(f"{source}: {error.strerror}") from None
    discard(part)
    with original, part.open("wb") as file:
        total_bytes = os.fstat(original.fileno()).st_size
        want_room(part.parent, total_bytes)
        while piece := original.read(_COPIED_BYTES):
            file.write(piece)
            advance(file.tell(), total_bytes)
        file.flush()
        os.fsync(file.fileno())
