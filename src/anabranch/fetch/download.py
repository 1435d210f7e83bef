"""One file over HTTP into a part file: resumed where it broke off, retried, a stall cut short.

The next attempt, in this process or a later one, asks for the rest with Range, on the condition (If-Range) that the
file is still the same; otherwise it begins anew. A part of one address outlives whatever others answer, until one of
them gives the file. Source: RFC 9110, sections 13.1.5, 14.2 and 15.3.7.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from anabranch.fetch.connection import BrokenOff, Patience, answered, check_answer, header, host, pieces, plain_session
from anabranch.fetch.part import Stated, Unobtainable, begin, begun, discard, size_of, want_room
from anabranch.fetch.progress import Progress, Report

if TYPE_CHECKING:
    from requests import Response, Session

_MAX_WAIT_S = 60.0
_SPARE_BYTES = 1 << 28  # left free on the disk by a body of which nobody says how long it is


def download(url: str, part: Path, *, needs_length: bool, patience: Patience, report: Report) -> Stated:
    """The whole of `url` in the file `part`, which may hold its beginning, and what the server says of it.

    `needs_length` where nothing but its length can tell that it is whole. Raises Unobtainable where this address does
    not give the file, FetchError where there is no room for it, and OSError as the disk does; what is left of the part
    can be gone on with.
    """
    try:
        return _downloaded(url, part, needs_length=needs_length, patience=patience, report=report)
    except BaseException:
        if begun(part) is None:
            discard(part)
        raise


def _downloaded(url: str, part: Path, *, needs_length: bool, patience: Patience, report: Report) -> Stated:
    """As many attempts as it takes, or as `patience` allows."""
    furthest, fruitless = 0 if _begun(part, url) is None else size_of(part), 0
    with plain_session() as session:
        while True:
            try:
                return _attempt(session, url, part, needs_length=needs_length, patience=patience, report=report)
            except BrokenOff as stop:
                reached = size_of(part)
                fruitless = 0 if reached - furthest >= patience.least_bytes else fruitless + 1
                furthest = max(furthest, reached)
                if fruitless >= patience.attempts:
                    tried = f"{fruitless} attempt{'' if fruitless == 1 else 's'} in a row brought next to nothing"
                    raise Unobtainable(f"{url}: {stop}; {tried}") from None
                backoff_s = patience.backoff_s * 2 ** max(0, fruitless - 1)
                wait_s = min(_MAX_WAIT_S, max(stop.wait_s, backoff_s))
                report(Progress(doing="retrying", done_bytes=reached, why=f"{stop}; trying again in {wait_s:.3g} s"))
                time.sleep(wait_s)


def _attempt(
    session: Session, url: str, part: Path, *, needs_length: bool, patience: Patience, report: Report
) -> Stated:
    """One request for the file, or for what is missing of it. Raises BrokenOff where another may bring more."""
    stated, have = _begun(part, url), size_of(part)
    if stated is not None and have == stated.total_bytes:
        return stated
    rest = {}
    if stated is not None and stated.validator is not None:
        rest = {"Range": f"bytes={have}-", "If-Range": stated.validator}
    response, linked_sha256 = answered(session, url, rest, patience)
    with response:
        check_answer(response, url)
        if response.status_code == 200:
            stated, have = _stated(response, url, linked_sha256), 0
            if stated.total_bytes is None and needs_length:
                raise Unobtainable(f"{url}: nobody says how long the file is, so that it may be a part of it")
            begin(part, stated)
        elif stated is None:
            raise BrokenOff(f"{host(url)} answers {response.status_code}, though asked for the whole file")
        elif not _continues(response, stated, have):  # 206 of another file or place, or 416
            discard(part)
            raise BrokenOff(f"{host(url)} no longer gives the rest of the file that was begun")
        want_room(part.parent, (stated.total_bytes or have) - have)
        _receive(response, stated, part, have=have, patience=patience, report=report)
    return stated


def _receive(response: Response, stated: Stated, part: Path, *, have: int, patience: Patience, report: Report) -> None:
    """Add what comes to the part until it is whole."""
    total_bytes = stated.total_bytes
    report(Progress(doing="downloading", done_bytes=have, total_bytes=total_bytes))
    since, had = time.monotonic(), have
    with part.open("ab") as file:
        for piece in pieces(response, stated.url):
            have += len(piece)
            if total_bytes is None:
                want_room(part.parent, _SPARE_BYTES)
            elif have > total_bytes:
                break
            file.write(piece)
            report(Progress(doing="downloading", done_bytes=have, total_bytes=total_bytes))
            if time.monotonic() - since > patience.pace_s:
                if have - had < patience.least_bytes and have != total_bytes:
                    raise BrokenOff(f"{host(stated.url)} gave {have - had:,} bytes in {patience.pace_s:g} s")
                since, had = time.monotonic(), have
        file.flush()
        os.fsync(file.fileno())  # it is about to get a name that says that it is whole
    if total_bytes is not None and have > total_bytes:
        discard(part)
        raise Unobtainable(f"{stated.url}: more comes than the {total_bytes:,} bytes that {host(stated.url)} announced")
    if total_bytes is not None and have < total_bytes:
        raise BrokenOff(f"{host(stated.url)} broke off after {have:,} of {total_bytes:,} bytes")


def _stated(response: Response, url: str, linked_sha256: str | None) -> Stated:
    length = header(response, "Content-Length")
    return Stated(
        url=url,
        total_bytes=int(length) if re.fullmatch("[0-9]{1,18}", length) else None,
        validator=_validator(response),
        linked_sha256=linked_sha256,
    )


def _begun(part: Path, url: str) -> Stated | None:
    """What was said of this part, where it is one of this address."""
    stated = begun(part)
    return stated if stated is not None and stated.url == url else None


def _continues(response: Response, stated: Stated, have: int) -> bool:
    """Whether these bytes follow the ones that are there; some servers never look at If-Range.

    An answer must repeat the ETag that the whole file came with; the date it may leave out.
    """
    validator = _validator(response)
    marked = (stated.validator or "").startswith('"')
    same = validator == stated.validator or (validator is None and not marked)
    follows = rf"bytes {have}-[0-9]+/{stated.total_bytes}"
    return same and re.fullmatch(follows, header(response, "Content-Range")) is not None


def _validator(response: Response) -> str | None:
    etag = header(response, "ETag")
    if etag.startswith('"'):  # a weak one, W/"...", may stand for other bytes
        return etag
    return response.headers.get("Last-Modified")
