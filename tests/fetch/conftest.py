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
from anabranch.fetch import Fetched, Patience, fetch

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

    def give(self, body: bytes, *, status: int = 200, **headers: str | None) -> None:
        """Headers spelled with _ for -; their length is there unless it is given, None leaves it out."""
        self.send_response(status)
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


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache. Whatever a test does, at its end no name in it may stand for anything but a whole file."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("ANABRANCH_CACHE", str(folder))
    for name in ("ANABRANCH_MIRROR", "HF_ENDPOINT", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield folder
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".json" and not path.name.startswith("."):
            assert path.read_bytes() in (PAYLOAD, REPLACED), f"{path} holds something else"


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

    def fetched(*urls: str, verify: bool = False, read_s: float = 60, **facts: Any) -> Fetched:
        patience = Patience(connect_s=60, read_s=read_s, attempts=3, backoff_s=0.01)
        return fetch(entry(*urls, **facts), verify=verify, patience=patience)

    return fetched
