"""Where the file of a set of weights lies: at its publisher's addresses, or in a mirror of the user's own.

ANABRANCH_MIRROR names the mirror: a folder, or the address of one (file:, http://, https://). Where it is set, nothing
is looked for anywhere else: a machine that may not reach the world never tries to.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit
from urllib.request import url2pathname

from anabranch.cache import from_home
from anabranch.catalogue.facts import HUB, Weights
from anabranch.errors import FetchError, UsageError
from anabranch.fetch.part import Unobtainable, discard, want_room
from anabranch.fetch.progress import Progress, Report

MIRROR = "ANABRANCH_MIRROR"
_ENDPOINT = "HF_ENDPOINT"  # what the hub's own tools read
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

    @property
    def bare_name(self) -> str:
        """What it is called in a folder that holds many weights' files: on the hub they all have one name."""
        return f"{self.weights_name}.safetensors" if self.on_hub else self.file_name


def published(weights: Weights) -> list[Published]:
    """In the order in which they are to be tried. Raises FetchError for weights that lie nowhere, and UsageError."""
    if not weights.urls:
        raise FetchError(
            f"{weights.name}: no address is known that gives its file; get it from {weights.publisher}, "
            "and give the file's path instead of the name"
        )
    return [_published(weights, url) for url in weights.urls]


def _published(weights: Weights, url: str) -> Published:
    on_hub, sha256 = url.startswith(HUB), weights.sha256_of(url)
    if on_hub:
        endpoint = _web_folder(_ENDPOINT, os.environ.get(_ENDPOINT) or "https://huggingface.co")
        url = f"{endpoint}/{url.removeprefix(HUB)}/resolve/main/{_HUB_FILE}"
    file_name = unquote(urlsplit(url).path.rpartition("/")[2])
    if (
        not file_name.isprintable()
        or file_name.startswith(".")
        or not {"/", "\\"}.isdisjoint(file_name)
        or not file_name
    ):
        raise FetchError(f"{weights.name}: its address {url} does not end with the name of a file")
    return Published(weights_name=weights.name, file_name=file_name, url=url, on_hub=on_hub, sha256=sha256)


def mirror() -> str | None:
    """The mirror as the user wrote it, or None where there is none."""
    return os.environ.get(MIRROR) or None


def places(file: Published) -> list[str | Path]:
    """Addresses and paths at which to look for it, in this order.

    Raises UsageError for a mirror that is neither an address nor a folder, FetchError for a folder that is not there.
    """
    base = mirror()
    if base is None:
        return [file.url]
    names = [f"{file.weights_name}/{file.file_name}", file.bare_name]
    scheme = base.partition(":")[0].lower()
    if scheme in ("http", "https"):
        return [f"{_web_folder(MIRROR, base)}/{quote(name)}" for name in names]
    if scheme == "file":
        folder = Path(url2pathname(_address(MIRROR, base, hosts=("", "localhost")).path))
    elif "://" in base:
        raise _no_place(MIRROR, base)
    else:
        folder = from_home(MIRROR, base)
    if not folder.is_dir():
        raise FetchError(f"{MIRROR} names {folder}, and there is no such folder")
    return [folder / name for name in names]


def _web_folder(variable: str, told: str) -> str:
    """An address that can go on with a slash and a name. Raises UsageError."""
    if _address(variable, told).scheme not in ("http", "https"):
        raise _no_place(variable, told)
    return told.rstrip("/")


def _address(variable: str, told: str, *, hosts: Collection[str] | None = None) -> SplitResult:
    """Raises UsageError unless it is the address of a folder, at one of the `hosts` or at any that has a name."""
    if "@" in told.partition("://")[2].partition("/")[0]:
        raise UsageError(
            f"{variable} holds a name or a password, which would not be sent; fetch the files with a tool that sends "
            f"it, and let {MIRROR} name their folder"
        )
    try:
        address = urlsplit(told)
        known_host = bool(address.hostname) if hosts is None else address.netloc in hosts
        address.port  # noqa: B018  raises ValueError where it is no number
    except ValueError:
        raise _no_place(variable, told) from None
    if not known_host or address.query or address.fragment:
        raise _no_place(variable, told)
    return address


def _no_place(variable: str, told: str) -> UsageError:
    folder = "be a folder, or begin with file:/// or " if variable == MIRROR else "begin with "
    return UsageError(
        f"{variable} is {told!r}; it may {folder}http:// or https:// and the name of a host, "
        "so that a file's name can follow: no ? or #"
    )


def copy(source: Path, part: Path, *, report: Report) -> None:
    """A mirror's file into the part. Raises Unobtainable where there is none, FetchError where there is no room."""
    try:
        original = source.open("rb")
    except FileNotFoundError:
        raise Unobtainable(f"{source}: not there") from None
    except OSError as error:
        raise Unobtainable(f"{source}: {error.strerror}") from None
    discard(part)
    with original:
        total_bytes = os.fstat(original.fileno()).st_size
        want_room(part.parent, total_bytes)
        try:
            with part.open("wb") as file:
                while piece := original.read(_COPIED_BYTES):
                    file.write(piece)
                    report(Progress(doing="downloading", done_bytes=file.tell(), total_bytes=total_bytes))
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            discard(part)  # a copy is always begun anew
            raise
