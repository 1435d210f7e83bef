from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from anabranch.fetch import FetchError, fetch, fetched

FETCHER = """
import sys
from anabranch.catalogue.facts import Input, Weights
from anabranch.fetch import fetched

def report(progress):
    if progress.doing == "waiting":
        print("waiting", flush=True)

weights = Weights(
    name="resnext50_32x4d.tiny", publisher="nobody", dialect="timm", licence="Apache-2.0",
    input=Input(crop_px=224, resize_px=256), urls=(sys.argv[1],),
)
print(fetched(weights, report=report))
"""


def fetcher(url: str) -> subprocess.Popen[str]:
    """Another process that fetches from there into the same cache."""
    return subprocess.Popen([sys.executable, "-c", FETCHER, url], stdout=subprocess.PIPE, text=True)


def until(holds) -> None:
    for _ in range(6000):
        if holds():
            return
        time.sleep(0.02)
    raise AssertionError("it took two minutes")


def test_the_next_address_is_tried_where_one_lacks_the_file(server, get, payload) -> None:
    server.answers = [server.saying(404), server.saying(403), server.whole()]
    fetched = get(server.url("a/weights.pth"), server.url("b/weights.pth"), server.url("c/weights.pth"))
    assert fetched.path.read_bytes() == payload
    assert fetched.url == server.url("c/weights.pth")


def test_a_host_that_cannot_be_reached_gives_way_to_the_next(server, get, payload, closed) -> None:
    assert get(f"http://127.0.0.1:{closed}/weights.pth", server.url()).path.read_bytes() == payload


def test_the_next_address_is_tried_where_one_gives_another_file(server, get, payload, replaced) -> None:
    server.answers = [server.whole(replaced), server.whole()]
    urls = server.url("a/weights.pth"), server.url("b/weights.pth")
    fetched = get(*urls, sha256=hashlib.sha256(payload).hexdigest())
    assert (fetched.path.read_bytes(), fetched.url) == (payload, urls[1])


def test_where_all_give_another_file_all_hashes_are_told(server, get, payload, replaced) -> None:
    server.answers = [server.whole(replaced), server.whole(payload[:1000])]
    with pytest.raises(FetchError) as raised:
        get(server.url("a/weights.pth"), server.url("b/weights.pth"), sha256="0123abcd")
    for met in (replaced, payload[:1000]):
        assert f"{hashlib.sha256(met).hexdigest()[:8]}; the catalogue states 0123abcd" in str(raised.value)


def test_every_file_that_would_do_is_named_with_its_place(server, get, cache) -> None:
    server.answers = [server.saying(404)]
    folder = cache / "weights/resnext50_32x4d.tiny"
    with pytest.raises(FetchError) as raised:
        get(server.url(), server.url("other.pdparams"))
    assert f"put weights.pth at {folder}/weights.pth or put other.pdparams at {folder}/other.pd" in str(raised.value)
    assert "ANABRANCH_MIRROR names, there called weights.pth or other.pdparams" in str(raised.value)


def test_where_all_addresses_lack_it_all_are_told(server, get) -> None:
    server.answers = [server.saying(404), server.saying(410)]
    urls = [server.url("a/weights.pth"), server.url("b/weights.pth")]
    with pytest.raises(FetchError) as raised:
        get(*urls)
    assert all(url in str(raised.value) for url in urls)
    assert "404 Not Found" in str(raised.value)
    assert "410 Gone" in str(raised.value)


@pytest.fixture
def closed() -> int:
    """A port at which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_without_a_network_one_line_says_what_to_put_where(get, cache, closed) -> None:
    with pytest.raises(FetchError) as raised:
        get(f"http://127.0.0.1:{closed}/weights.pth")
    told = str(raised.value)
    assert "\n" not in told
    for part in (
        "cannot reach 127.0.0.1 (Connection refused)",
        f"put weights.pth at {cache / 'weights/resnext50_32x4d.tiny/weights.pth'}",
        "ANABRANCH_MIRROR",
    ):
        assert part in told


def test_a_host_that_has_no_address_is_named(get, monkeypatch) -> None:
    def unknown(*_, **__) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(FetchError, match=r"cannot reach weights.invalid \(Name or service not known\)"):
        get("https://weights.invalid/weights.pth")


def test_two_processes_at_once_fetch_a_file_once(server, payload) -> None:
    server.answers = [server.stalling(sent=100_000), server.whole()]
    first = fetcher(server.url())
    until(lambda: server.sent_bytes >= 100_000)
    second = fetcher(server.url())
    assert second.stdout.readline() == "waiting\n"
    server.closing.set()  # and the first goes on with the rest
    paths = {process.communicate(timeout=120)[0] for process in (first, second)}
    assert len(paths) == 1
    assert Path(paths.pop().strip()).read_bytes() == payload
    assert len(server.asked) == 2
    assert server.sent_bytes < len(payload) + 65_536


def test_a_process_that_was_killed_leaves_what_the_next_goes_on_with(server, get, cache, payload) -> None:
    server.answers = [server.stalling(sent=150_000), server.whole()]
    process = fetcher(server.url())
    part = cache / "weights/resnext50_32x4d.tiny/.weights.pth.part"
    until(lambda: part.exists() and part.stat().st_size >= 100_000)
    process.kill()
    process.communicate()
    assert not part.with_name("weights.pth").exists()
    assert get(server.url(), sha256=hashlib.sha256(payload).hexdigest()).path.read_bytes() == payload
    assert int(server.asked[1].headers["Range"].removeprefix("bytes=").removesuffix("-")) >= 100_000
    assert not part.exists()


def test_what_came_whole_before_a_process_was_killed_is_not_asked_for_again(server, get, monkeypatch, payload) -> None:
    def killed(*_, **__) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("anabranch.fetch.weights.keep", killed)
        with pytest.raises(KeyboardInterrupt):
            get(server.url())
    assert get(server.url()).path.read_bytes() == payload
    assert len(server.asked) == 1


def test_a_file_that_is_there_is_given_where_nothing_may_be_written(server, entry, cache) -> None:
    path = fetched(entry(server.url()))
    (path.parent / ".lock").unlink(missing_ok=True)
    before = {each: each.stat().st_mtime_ns for each in cache.rglob("*")}
    assert fetch(entry(server.url()), verify=True).path == path
    assert {each: each.stat().st_mtime_ns for each in cache.rglob("*")} == before


def test_a_cache_that_cannot_be_written_is_named(server, get, monkeypatch) -> None:
    monkeypatch.setenv("ANABRANCH_CACHE", os.devnull + "/cache")
    with pytest.raises(FetchError, match=f"cannot be kept: {os.devnull}/cache.*Not a directory.*ANABRANCH_CACHE may"):
        get(server.url())
    assert server.asked == []


@contextmanager
def without_privileges() -> Iterator[None]:
    """Root may write anywhere; nobody may not."""
    mine = os.geteuid()
    if mine == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(mine)


def test_a_cache_without_permission_is_named(server, get, cache) -> None:
    cache.mkdir(mode=0o500)
    with without_privileges(), pytest.raises(FetchError, match=f"{cache}.*Permission denied.*ANABRANCH_CACHE may"):
        get(server.url())
    assert server.asked == []
