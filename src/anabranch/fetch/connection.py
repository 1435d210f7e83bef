"""One request over HTTP, and the answer that it ends at: redirects, and the network's failures in our words.

Whatever a server says is shown without the control codes that a terminal obeys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from anabranch.errors import shown
from anabranch.fetch.part import Unobtainable
from anabranch.version import VERSION

if TYPE_CHECKING:
    from requests import Response, Session

_PIECE_BYTES = 1 << 16
_MAX_REDIRECTS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a server is waited for, and how often it is asked again."""

    connect_s: float = 10
    read_s: float = 30  # between two pieces
    pace_s: float = 60  # in which at least `least_bytes` must come
    least_bytes: int = 1 << 16  # an attempt that brings less counts as one that brings nothing
    attempts: int = 5  # in a row that bring next to nothing
    backoff_s: float = 0.5  # before the next attempt; doubles with each that brings next to nothing


class BrokenOff(Exception):
    """An attempt that came to nothing, or not to the end; the next one may."""

    def __init__(self, why: str, *, wait_s: float = 0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


def plain_session() -> Session:
    """It sends nothing but the request: no cookies, no name or password from a .netrc file."""
    import requests

    class Plain(requests.Session):
        def resolve_redirects(self, *_: Any, **__: Any) -> Iterator[Any]:  # type: ignore[override]
            """None: it would read the whole body of a redirect into memory, even where none is to be followed."""
            return iter(())

    plain = Plain()  # which reads HTTPS_PROXY, NO_PROXY and REQUESTS_CA_BUNDLE
    plain.headers.clear()
    plain.headers.update({"User-Agent": f"anabranch/{VERSION}", "Accept": "*/*", "Accept-Encoding": "identity"})
    plain.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    plain.auth = lambda request: request
    return plain


def answered(session: Session, url: str, headers: dict[str, str], patience: Patience) -> tuple[Response, str | None]:
    """The first answer that leads nowhere else, and the SHA-256 that a hub states on the way.

    Raises BrokenOff and Unobtainable.
    """
    linked_sha256: str | None = None
    address = url
    for _ in range(_MAX_REDIRECTS):
        with network(address, f"cannot reach {host(address)}"):
            response = session.get(
                address,
                headers=headers,
                stream=True,
                allow_redirects=False,
                timeout=(patience.connect_s, patience.read_s),
            )
        linked = header(response, "X-Linked-Etag").strip('"')
        linked_sha256 = linked_sha256 or (linked if re.fullmatch("[0-9a-f]{64}", linked) else None)
        if not response.is_redirect:
            return response, linked_sha256
        response.close()
        address = _followed(address, header(response, "Location"))
    raise Unobtainable(f"{url}: redirected {_MAX_REDIRECTS} times")


def check_answer(response: Response, url: str) -> None:
    """Raises Unobtainable or BrokenOff for an answer that holds nothing of the file."""
    status = f"{response.status_code} {response.reason or ''}".rstrip()
    met = f"{host(url)} answers {shown(status)}"
    if response.status_code in (408, 429) or response.status_code >= 500:
        raise BrokenOff(met, wait_s=_wanted_wait_s(header(response, "Retry-After")))
    if response.status_code not in (200, 206, 416):
        raise Unobtainable(f"{url}: {met}")
    encoding = header(response, "Content-Encoding")
    if encoding not in ("", "identity"):
        raise Unobtainable(f"{url}: {host(url)} sends it encoded as {shown(encoding)}, though asked for it as it is")
    if header(response, "Content-Type").lower().startswith("text/html"):
        raise Unobtainable(f"{url}: {host(url)} gives a web page, as a network does that wants one to log in")


def pieces(response: Response, url: str) -> Iterator[bytes]:
    """The body as it comes. Raises BrokenOff where it ends too early or stalls."""
    while True:
        with network(url, f"{host(url)} broke off"):
            piece: bytes = response.raw.read1(_PIECE_BYTES, decode_content=False)  # `read` waits until it is full
        if not piece:
            return
        yield piece


@contextmanager
def network(url: str, what: str) -> Iterator[None]:
    """The network's failures in our words: BrokenOff for those that may pass, Unobtainable for the others."""
    from requests import exceptions
    from urllib3 import exceptions as below

    try:
        yield
    except exceptions.SSLError as error:
        raise Unobtainable(
            f"{url}: {host(url)} does not prove who it is ({_cause(error)}). Behind a proxy that shows certificates "
            "of its own, let REQUESTS_CA_BUNDLE name the file that holds them"
        ) from None
    except exceptions.ProxyError as error:
        raise BrokenOff(f"{what} through the proxy that the environment names ({_cause(error)})") from None
    except (exceptions.ConnectionError, exceptions.Timeout) as error:
        raise BrokenOff(f"{what} ({_cause(error)})") from None
    except (
        below.ProtocolError,
        below.TimeoutError,
        below.SSLError,
    ) as error:  # of a body, which is read below requests
        raise BrokenOff(f"{what} ({_cause(error)})") from None
    except (exceptions.RequestException, below.HTTPError, ValueError) as error:
        raise Unobtainable(f"{url}: {shown(error)}") from None


def header(response: Response, name: str) -> str:
    return response.headers.get(name, "").strip()


def host(url: str) -> str:
    return shown(urlsplit(url).hostname or url)


def _followed(address: str, location: str) -> str:
    """Where a redirect leads. Raises Unobtainable where that is less safe than what was asked for."""
    try:
        leads_to = urljoin(address, location.encode("latin-1").decode())  # http.client takes every header for latin-1
        scheme = urlsplit(leads_to).scheme
    except ValueError:
        raise Unobtainable(f"{address}: redirected to {shown(location)}, which is no address") from None
    if scheme not in ("http", "https"):
        raise Unobtainable(f"{address}: redirected to {shown(leads_to)}, which is no web address")
    if scheme == "http" and urlsplit(address).scheme == "https":
        raise Unobtainable(f"{address}: redirected to {shown(leads_to)}, where anybody on the way may change the file")
    return leads_to


def _wanted_wait_s(told: str) -> float:
    """What Retry-After asks for, in seconds or as a date; nothing where it is neither."""
    if told.isdecimal():
        return float(told)
    try:
        until = parsedate_to_datetime(told)
        return (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):
        return 0


def _cause(error: BaseException) -> str:
    """What the libraries below wrapped: 'Connection refused', 'timed out'."""
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    told = getattr(error, "verify_message", None) or getattr(error, "strerror", None)
    return shown(told or str(error) or type(error).__name__)
