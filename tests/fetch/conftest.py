"""A server on the loopback that misbehaves as it is told, and a cache that may hold nothing but whole files."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from anabranch.catalogue.facts import Input, Weights
from anabranch.fetch import Fetched, Patience, Report, fetch
from anabranch.fetch.progress import silent

PAYLOAD = random.Random(0).randbytes(200_000)
REPLACED = random.Random(1).randbytes(200_000)


class Asked(NamedTuple):
    path: str
    headers: dict[str, str]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        answers = self.server.answers
        self.server.asked.append(Asked(self.path, dict(self.headers)))
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def give(self, body: bytes, *, status: int = 200, reason: str | None = None, **headers: str | None) -> None:
        """Headers spelled with _ for -; their length is there unless it is given, None leaves it out."""
        self.send_response(status, reason)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), value)
        self.send_header("Connection", "close")  # or a client asks its next over a connection about to go
        self.end_headers()
        self.wfile.write(body)
        self.server.sent_bytes += len(body)

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""


Answer = Callable[[Handler], None]


class Server(ThreadingHTTPServer):
    """Each request gets the next of `answers`, and the last of them for ever."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Answer] = [self.whole()]
        self.asked: list[Asked] = []
        self.sent_bytes = 0
        self.closing = threading.Event()

    def url(self, path: str = "weights.pth") -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"

    def whole(
        self, payload: bytes = PAYLOAD, *, sent: int | None = None, looks: bool = True, **headers: str | None
    ) -> Answer:
        """The file as a good server gives it, or what is asked of it; then `sent` bytes of that and no more.

        Unless it `looks` at If-Range, it gives the rest of whatever file was begun.
        """
        headers = {"ETag": '"one"', **headers}

        def answer(asked: Handler) -> None:
            same = asked.headers["If-Range"] in (headers["ETag"], headers.get("Last_Modified"))
            begin = re.fullmatch(r"bytes=(\d+)-", asked.headers["Range"] or "")
            start = int(begin[1]) if begin and (same or not looks) else 0
            about = {"Content_Length": str(len(payload) - start), **headers}
            if start:
                about["Content_Range"] = f"bytes {start}-{len(payload) - 1}/{len(payload)}"
            asked.give(payload[start:][:sent], status=206 if start else 200, **about)

        return answer

    def stalling(self, *, sent: int) -> Answer:
        def answer(asked: Handler) -> None:
            self.whole(sent=sent)(asked)
            asked.wfile.flush()
            self.closing.wait()

        return answer

    def trickling(self, *, every_s: float) -> Answer:
        """One byte after the other, for as long as anybody listens."""

        def answer(asked: Handler) -> None:
            self.whole(sent=0)(asked)
            while not self.closing.wait(every_s):
                asked.wfile.write(b"\0")
                self.sent_bytes += 1

        return answer

    def saying(self, status: int, **headers: str) -> Answer:
        return lambda asked: asked.give(b"no such thing", status=status, **headers)

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is no news."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.02))
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def payload() -> bytes:
    return PAYLOAD


@pytest.fixture
def replaced() -> bytes:
    """What a publisher put in its place."""
    return REPLACED


@pytest.fixture
def standing() -> list[bytes]:
    """What may lie in the cache under a final name; a test in which another file may do so adds it."""
    return [PAYLOAD]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, standing: list[bytes]) -> Iterator[Path]:
    """An empty cache. Whatever a test does, at its end no name in it may stand for anything but a whole file."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("ANABRANCH_CACHE", str(folder))
    for name in ("ANABRANCH_MIRROR", "HF_ENDPOINT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    yield folder
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".json" and not path.name.startswith("."):
            assert path.read_bytes() in standing, f"{path} holds something else"


@pytest.fixture
def entry() -> Callable[..., Weights]:
    """A function that gives an entry of the catalogue with these addresses."""

    def of(*urls: str, **facts: Any) -> Weights:
        given = {"name": "resnext50_32x4d.tiny", "licence": "Apache-2.0", **facts}
        return Weights(publisher="nobody", dialect="timm", input=Input(crop_px=224, resize_px=256), urls=urls, **given)

    return of


@pytest.fixture
def get(entry: Callable[..., Weights]) -> Callable[..., Fetched]:
    """A function that fetches such an entry, less patiently than a person would."""

    def fetched(
        *urls: str, verify: bool = False, read_s: float = 60, pace_s: float = 60, report: Report = silent, **facts: Any
    ) -> Fetched:
        patience = Patience(connect_s=60, read_s=read_s, pace_s=pace_s, attempts=3, backoff_s=0.01)
        return fetch(entry(*urls, **facts), verify=verify, report=report, patience=patience)

    return fetched
