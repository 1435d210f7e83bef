from __future__ import annotations

import gzip
import hashlib
import os
import resource
import shutil
import ssl
import subprocess
from collections import namedtuple
from pathlib import Path

import pytest

from anabranch.fetch import FetchError, fetch
from anabranch.fetch import download as module
from anabranch.version import VERSION

CHANGED = "Sun, 22 Nov 2026 10:00:00 GMT"


def sha256(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


def started(header: str) -> int:
    return int(header.removeprefix("bytes=").removesuffix("-"))


def test_a_connection_that_drops_is_taken_up_where_it_broke_off(server, get, payload) -> None:
    server.answers = [server.whole(sent=100_000), server.whole(sent=50_000), server.whole()]
    assert get(server.url(), sha256=sha256(payload)).path.read_bytes() == payload
    first, *others = (asked.headers for asked in server.asked)
    assert "Range" not in first
    assert [headers["If-Range"] for headers in others] == ['"one"', '"one"']
    starts = [started(headers["Range"]) for headers in others]
    assert 0 < starts[0] <= 100_000
    assert starts[0] <= starts[1] <= 150_000
    assert server.sent_bytes < len(payload) + 2 * 65_536  # what was on its way when it broke


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_has_trouble_twice_is_asked_again(server, get, payload, status) -> None:
    server.answers = [server.saying(status), server.saying(status, Retry_After="0"), server.whole()]
    assert get(server.url()).path.read_bytes() == payload
    assert len(server.asked) == 3


def test_a_server_is_left_in_peace_for_as_long_as_it_asks(server, get, monkeypatch) -> None:
    slept = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    server.answers = [server.saying(503, Retry_After="7"), server.saying(429, Retry_After="86400"), server.whole()]
    get(server.url())
    assert slept == [7, 60]


def test_trouble_that_lasts_is_told_after_so_many_attempts(server, get, cache) -> None:
    server.answers = [server.saying(502)]
    with pytest.raises(FetchError, match=r"127\.0\.0\.1 answers 502 Bad Gateway; 3 attempts in a row"):
        get(server.url())
    assert len(server.asked) == 3


def test_a_body_that_stays_shorter_than_said_is_an_error(server, get, payload) -> None:
    server.answers = [server.whole(payload[:150_000], Content_Length="200000")]
    with pytest.raises(FetchError, match="127.0.0.1 .*; 3 attempts in a row brought nothing new"):
        get(server.url())


def test_a_server_that_drops_every_time_at_the_same_place_is_given_up(server, get) -> None:
    server.answers = [server.whole(sent=100_000, ETag=None)]
    with pytest.raises(FetchError, match="broke off"):
        get(server.url())
    assert len(server.asked) <= 4


def test_a_body_that_is_longer_than_said_is_an_error(server, get, payload) -> None:
    server.answers = [server.whole(Content_Length="190000")]
    with pytest.raises(FetchError, match=f"SHA-256 is {sha256(payload[:190_000])}"):
        get(server.url(), sha256=sha256(payload))
    with pytest.raises(FetchError, match="190,000 bytes; 200,000 were published"):
        get(server.url(), size_bytes=len(payload))


def test_a_body_without_a_length_may_not_be_longer_than_published(server, get) -> None:
    server.answers = [server.whole(Content_Length=None)]
    with pytest.raises(FetchError, match="more than 100,000 bytes"):
        get(server.url(), size_bytes=100_000)


def test_a_body_without_a_length_is_taken_only_where_something_tells_that_it_is_whole(server, get, payload) -> None:
    server.answers = [server.whole(Content_Length=None)]
    with pytest.raises(FetchError, match="nobody says how long the file is"):
        get(server.url())
    assert get(server.url(), sha256=sha256(payload)[:8]).size_bytes == len(payload)


def test_a_stall_is_cut_short_and_the_rest_asked_for(server, get, payload) -> None:
    server.answers = [server.stalling(sent=100_000), server.whole()]
    assert get(server.url(), read_s=2).path.read_bytes() == payload
    assert started(server.asked[1].headers["Range"]) > 0


def test_a_server_that_says_nothing_is_given_up(server, get) -> None:
    server.answers = [server.stalling(sent=0)]
    with pytest.raises(FetchError, match=r"\(.*timed out.*\); 3 attempts in a row"):
        get(server.url(), read_s=0.3)


def test_a_server_that_ignores_ranges_is_read_from_the_beginning(server, get, payload) -> None:
    server.answers = [server.whole(sent=100_000), lambda asked: asked.give(payload, ETag='"one"')]
    assert get(server.url()).path.read_bytes() == payload
    assert "Range" in server.asked[1].headers
    assert server.sent_bytes == 300_000


@pytest.mark.parametrize("looks", [True, False], ids=["looks at If-Range", "ignores If-Range"])
def test_a_file_that_was_replaced_meanwhile_is_read_from_the_beginning(server, get, replaced, looks) -> None:
    server.answers = [server.whole(sent=100_000), server.whole(replaced, ETag='"two"', looks=looks)]
    assert get(server.url()).path.read_bytes() == replaced


def test_a_range_beyond_the_end_begins_anew(server, get, payload) -> None:
    server.answers = [server.whole(sent=100_000), server.saying(416), server.whole()]
    assert get(server.url()).path.read_bytes() == payload
    assert "Range" not in server.asked[2].headers


def test_a_weak_etag_gives_way_to_the_date(server, get, payload) -> None:
    server.answers = [server.whole(sent=100_000, ETag='W/"one"', Last_Modified=CHANGED), server.whole()]
    assert get(server.url()).path.read_bytes() == payload
    assert server.asked[1].headers["If-Range"] == CHANGED


def test_a_file_that_nothing_marks_is_never_patched_together(server, get, payload) -> None:
    server.answers = [server.whole(sent=100_000, ETag=None), server.whole(ETag=None)]
    assert get(server.url()).path.read_bytes() == payload
    assert "Range" not in server.asked[1].headers


def test_a_server_that_likes_to_compress_is_asked_not_to(server, get, payload) -> None:
    def answer(asked) -> None:
        if "gzip" in asked.headers["Accept-Encoding"]:
            asked.give(gzip.compress(payload), Content_Encoding="gzip")
        else:
            asked.give(payload)

    server.answers = [answer]
    assert get(server.url()).path.read_bytes() == payload


def test_a_server_that_compresses_all_the_same_is_refused(server, get, payload) -> None:
    server.answers = [lambda asked: asked.give(gzip.compress(payload), Content_Encoding="gzip")]
    with pytest.raises(FetchError, match="encoded as gzip"):
        get(server.url())


def test_a_redirect_is_followed(server, get, payload) -> None:
    server.answers = [server.saying(302, Location="/elsewhere?signed=1"), server.whole()]
    assert get(server.url()).path == get(server.url()).path
    assert [asked.path for asked in server.asked] == ["/weights.pth", "/elsewhere?signed=1"]


def test_redirects_in_a_circle_come_to_an_end(server, get) -> None:
    server.answers = [server.saying(302, Location="/weights.pth")]
    with pytest.raises(FetchError, match="redirected 10 times"):
        get(server.url())


def test_nothing_is_sent_but_the_request(server, get, tmp_path, monkeypatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server.answers = [server.saying(302, Location="/elsewhere", Set_Cookie="who=you"), server.whole()]
    get(server.url())
    for asked in server.asked:
        assert asked.headers.keys() <= {"Host", "User-Agent", "Accept", "Accept-Encoding", "Connection"}
        assert asked.headers["User-Agent"] == f"anabranch/{VERSION}"


def test_the_proxy_that_the_environment_names_is_used(server, get, payload, monkeypatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url("").rstrip("/"))
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    assert get("http://weights.invalid/weights.pth").path.read_bytes() == payload
    assert server.asked[0].path == "http://weights.invalid/weights.pth"


def with_tls(server, folder: Path) -> Path:
    """Let the server speak TLS; gives its certificate, which nobody else vouches for."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run([*command, "-keyout", key, "-out", certificate, *subject], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return certificate


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl to make a certificate")
def test_a_certificate_is_checked_and_a_redirect_to_plain_http_refused(server, get, tmp_path, monkeypatch) -> None:
    url = server.url().replace("http:", "https:")
    server.answers = [server.saying(302, Location=server.url())]
    certificate = with_tls(server, tmp_path)
    with pytest.raises(FetchError, match="127.0.0.1 does not prove who it is .*REQUESTS_CA_BUNDLE"):
        get(url)
    assert server.asked == []
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with pytest.raises(FetchError, match="redirected to http://127.0.0.1"):
        get(url)
    assert len(server.asked) == 1


def test_a_disk_without_room_is_told_before_anything_is_written(server, get, cache, monkeypatch) -> None:
    free = namedtuple("Usage", "total used free")(1_000_000, 900_001, 99_999)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: free)
    with pytest.raises(FetchError, match="room for 99,999 bytes, and 200,000 are to come.*ANABRANCH_CACHE"):
        get(server.url())
    assert all(path.stat().st_size < 1000 for path in cache.rglob("*") if path.is_file())


def test_a_disk_that_fills_up_meanwhile_is_told_and_the_rest_fetched_later(server, get, cache, payload) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(FetchError, match="cannot be kept: .*ANABRANCH_CACHE"):
            get(server.url())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert get(server.url()).path.read_bytes() == payload
    assert started(server.asked[1].headers["Range"]) > 0


def test_a_part_of_another_file_is_not_gone_on_with(server, get, cache, payload, replaced) -> None:
    server.answers = [server.whole(replaced, sent=100_000), server.saying(404)]
    with pytest.raises(FetchError):
        get(server.url("old/weights.pth"))
    assert os.listdir(cache / "weights/resnext50_32x4d.tiny") != []
    server.answers = [server.whole()]
    assert get(server.url("new/weights.pth")).path.read_bytes() == payload
    assert "Range" not in server.asked[-1].headers


def test_the_bytes_that_came_are_reported(server, entry, payload) -> None:
    told = []
    fetch(entry(server.url()), report=told.append)
    done = [each.done_bytes for each in told if each.doing == "downloading"]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, len(payload))
    assert {each.total_bytes for each in told} == {len(payload)}
    assert told[-1].doing == "checking"
