"""One file over HTTP into a part file: resumed where it broke off, retried, a stall cut short.

    .NAME.part         the bytes so far
    .NAME.part.json    what the server said of the file when they began to come: `Stated`

The next attempt, in this process or a later one, asks for the rest with Range, on the condition (If-Range) that the
file is still the same; otherwise it begins anew. Source: RFC 9110, sections 13.1.5 and 14.2.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from anabranch.errors import FetchError
from anabranch.version import VERSION

if TYPE_CHECKING:
    from requests import Response, Session

Advance = Callable[[int, int | None], None]  # bytes so far, bytes in all

_CHUNK_BYTES = 1 << 16  # at most this much is lost where a connection breaks
_MAX_REDIRECTS = 10
_MAX_WAIT_S = 60.0


class Unobtainable(FetchError):
    """This address does not give the file; another may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a server is waited for, and how often it is asked again."""

    connect_s: float = 10
    read_s: float = 30  # between two pieces
    attempts: int = 5  # in a row that bring nothing new
    backoff_s: float = 0.5  # before the next attempt; doubles with each that brings nothing new


PATIENCE = Patience()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """What a server says of a file."""

    url: str
    total_bytes: int | None
    validator: str | None = None  # for If-Range: a strong ETag, or when the file was last changed
    linked_sha256: str | None = None  # the Hugging Face hub's word on the file that it redirects to


class _BrokenOff(Exception):
    """An attempt that came to nothing, or not to the end; the next one may."""

    def __init__(self, why: str, *, wait_s: float = 0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


def download(
    url: str, part: Path, *, size_bytes: int | None = None, patience: Patience = PATIENCE, advance: Advance
) -> Stated:
    """The whole of `url` in the file `part`, which may hold its beginning, and what the server says of it.

    `size_bytes` is what the file must hold, where that is known. Raises Unobtainable where this address does not give
    the file, FetchError where there is no room for it, and OSError as the disk does.
    """
    furthest = fruitless = 0
    with _session() as session:
        while True:
            try:
                return _attempt(session, url, part, size_bytes=size_bytes, patience=patience, advance=advance)
            except _BrokenOff as stop:
                reached = _size(part)
                fruitless = 0 if reached > furthest else fruitless + 1
                furthest = max(furthest, reached)
                if fruitless >= patience.attempts:
                    tried = f"{fruitless} attempt{'' if fruitless == 1 else 's'} in a row brought nothing new"
                    raise Unobtainable(f"{url}: {stop}; {tried}") from None
                time.sleep(min(_MAX_WAIT_S, max(stop.wait_s, patience.backoff_s * 2 ** (fruitless - 1))))


def discard(part: Path) -> None:
    """Remove a part and what is kept beside it."""
    part.unlink(missing_ok=True)
    _beside(part).unlink(missing_ok=True)


def want_room(folder: Path, size_bytes: int) -> None:
    """Raises FetchError unless so many bytes are free."""
    free = shutil.disk_usage(folder).free
    if size_bytes > free:
        raise FetchError(
            f"{folder} has room for {free:,} bytes, and {size_bytes:,} are to come; "
            "make room, or let ANABRANCH_CACHE name a folder on another disk"
        )


def _attempt(
    session: Session, url: str, part: Path, *, size_bytes: int | None, patience: Patience, advance: Advance
) -> Stated:
    """One request for the file, or for what is missing of it. Raises _BrokenOff where another may bring more."""
    begun, have = _begun(part, url), _size(part)
    if begun is not None and have == begun.total_bytes:
        return begun
    if begun is None:
        discard(part)
        have = 0
    resuming = {}
    if have and begun is not None and begun.validator is not None:
        resuming = {"Range": f"bytes={have}-", "If-Range": begun.validator}
    response, linked_sha256 = _answered(session, url, resuming, patience)
    with response:
        _check_answer(response, url)
        if response.status_code == 200:
            begun = _begin(response, url, part, size_bytes=size_bytes, linked_sha256=linked_sha256)
            have = 0
        elif begun is None or not _continues(response, begun, have):  # 206 of another file or place, or 416
            discard(part)
            raise _BrokenOff(f"{_host(url)} has no bytes from {have:,} on of the file that was begun")
        want_room(part.parent, (begun.total_bytes or have) - have)
        _receive(response, begun, part, have=have, advance=advance)
    return begun


def _begin(response: Response, url: str, part: Path, *, size_bytes: int | None, linked_sha256: str | None) -> Stated:
    """An empty part, and beside it what the server says of the file that is about to come."""
    length = _header(response, "Content-Length")
    total_bytes = int(length) if length.isdecimal() else size_bytes
    if total_bytes is not None and size_bytes is not None and total_bytes != size_bytes:
        raise Unobtainable(f"{url}: a file of {total_bytes:,} bytes; {size_bytes:,} were published")
    stated = Stated(url=url, total_bytes=total_bytes, validator=_validator(response), linked_sha256=linked_sha256)
    part.write_bytes(b"")
    _beside(part).write_text(json.dumps(asdict(stated)), encoding="utf-8")
    return stated


def _receive(response: Response, stated: Stated, part: Path, *, have: int, advance: Advance) -> None:
    """Add what comes to the part until it is whole."""
    total_bytes, host = stated.total_bytes, _host(stated.url)
    advance(have, total_bytes)
    with part.open("ab") as file:
        with _network(stated.url, f"{host} broke off"):
            for piece in response.iter_content(_CHUNK_BYTES):
                have += len(piece)
                if total_bytes is not None and have > total_bytes:
                    break
                file.write(piece)
                advance(have, total_bytes)
        file.flush()
        os.fsync(file.fileno())  # it is about to get a name that says that it is whole
    if total_bytes is not None and have > total_bytes:
        discard(part)
        raise Unobtainable(f"{stated.url}: a file of more than {total_bytes:,} bytes; so many were published")
    if total_bytes is not None and have < total_bytes:
        raise _BrokenOff(f"{host} broke off after {have:,} of {total_bytes:,} bytes")


def _begun(part: Path, url: str) -> Stated | None:
    """What the server said when this part was begun, where the part can be gone on with."""
    try:
        stated = Stated(**json.loads(_beside(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    have = _size(part)
    if stated.url != url or stated.total_bytes is None or have > stated.total_bytes:
        return None
    return stated if stated.validator is not None or have == stated.total_bytes else None


def _continues(response: Response, begun: Stated, have: int) -> bool:
    """Whether these bytes follow the ones that are there; some servers never look at If-Range."""
    same = _validator(response) in (None, begun.validator)
    return (
        same and re.fullmatch(rf"bytes {have}-\d+/{begun.total_bytes}", _header(response, "Content-Range")) is not None
    )


def _check_answer(response: Response, url: str) -> None:
    """Raises Unobtainable or _BrokenOff for an answer that holds nothing of the file."""
    status = f"{response.status_code} {response.reason or ''}".rstrip()
    if response.status_code in (408, 429) or response.status_code >= 500:
        wait = _header(response, "Retry-After")
        raise _BrokenOff(f"{_host(url)} answers {status}", wait_s=float(wait) if wait.isdecimal() else 0)
    if response.status_code not in (200, 206, 416):
        raise Unobtainable(f"{url}: {_host(url)} answers {status}")
    encoding = _header(response, "Content-Encoding")
    if encoding not in ("", "identity"):
        raise Unobtainable(f"{url}: {_host(url)} sends it encoded as {encoding}, though asked for the file as it is")


def _answered(session: Session, url: str, headers: dict[str, str], patience: Patience) -> tuple[Response, str | None]:
    """The first answer that leads nowhere else, and the SHA-256 that a hub states on the way."""
    linked_sha256: str | None = None
    address = url
    for _ in range(_MAX_REDIRECTS):
        with _network(address, f"cannot reach {_host(address)}"):
            response = session.get(
                address,
                headers=headers,
                stream=True,
                allow_redirects=False,
                timeout=(patience.connect_s, patience.read_s),
            )
        linked = _header(response, "X-Linked-Etag").strip('"')
        linked_sha256 = linked_sha256 or (linked if re.fullmatch("[0-9a-f]{64}", linked) else None)
        target = session.get_redirect_target(response)
        if target is None:
            return response, linked_sha256
        response.close()
        address = _followed(address, target)
    raise Unobtainable(f"{url}: redirected {_MAX_REDIRECTS} times")


def _followed(address: str, target: str) -> str:
    """Where a redirect leads. Raises Unobtainable where that is less safe than what was asked for."""
    leads_to = urljoin(address, target)
    scheme = urlsplit(leads_to).scheme
    if scheme not in ("http", "https") or (scheme == "http" and urlsplit(address).scheme == "https"):
        raise Unobtainable(f"{address}: redirected to {leads_to}, where anybody on the way may change the file")
    return leads_to


@contextmanager
def _network(url: str, what: str) -> Iterator[None]:
    """The network's failures in our words: _BrokenOff for those that may pass, Unobtainable for the others."""
    from requests import exceptions

    try:
        yield
    except exceptions.SSLError as error:
        raise Unobtainable(
            f"{url}: {_host(url)} does not prove who it is ({_cause(error)}). Behind a proxy that shows certificates "
            "of its own, let REQUESTS_CA_BUNDLE name the file that holds them"
        ) from None
    except exceptions.ProxyError as error:
        raise _BrokenOff(f"{what} through the proxy that the environment names ({_cause(error)})") from None
    except (exceptions.ConnectionError, exceptions.Timeout, exceptions.ChunkedEncodingError) as error:
        raise _BrokenOff(f"{what} ({_cause(error)})") from None
    except exceptions.RequestException as error:
        raise Unobtainable(f"{url}: {error}") from None


def _cause(error: BaseException) -> str:
    """What the libraries below wrapped: 'Connection refused', 'timed out'."""
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _session() -> Session:
    """It sends nothing but the request: no cookies, no name or password from a .netrc file."""
    import requests

    session = requests.Session()  # which reads HTTPS_PROXY, NO_PROXY and REQUESTS_CA_BUNDLE
    session.headers.clear()
    session.headers.update({"User-Agent": f"anabranch/{VERSION}", "Accept": "*/*", "Accept-Encoding": "identity"})
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    session.auth = lambda request: request
    return session


def _validator(response: Response) -> str | None:
    etag = _header(response, "ETag")
    if etag and not etag.startswith("W/"):  # a weak one may stand for other bytes
        return etag
    return response.headers.get("Last-Modified")


def _header(response: Response, name: str) -> str:
    return response.headers.get(name, "").strip()


def _host(url: str) -> str:
    return urlsplit(url).hostname or url


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _beside(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")
