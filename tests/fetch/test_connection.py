from __future__ import annotations

import gzip
import shutil
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from anabranch.fetch import FetchError
from anabranch.fetch import download as module
from anabranch.version import VERSION


@pytest.fixture
def slept(monkeypatch) -> list[float]:
    """The waits, which nobody waits for."""
    slept = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    return slept


def test_a_server_is_left_in_peace_for_as_long_as_it_asks(server, get, slept) -> None:
    server.answers = [server.saying(503, Retry_After="7"), server.saying(429, Retry_After="86400"), server.whole()]
    get(server.url())
    assert slept == [7, 60]


def test_a_server_is_left_in_peace_until_the_date_that_it_names(server, get, slept) -> None:
    def busy(asked) -> None:
        until = datetime.now(UTC) + timedelta(seconds=30)
        asked.give(b"", status=503, Retry_After=format_datetime(until, usegmt=True))

    server.answers = [busy, server.whole()]
    get(server.url())
    assert 20 < slept[0] <= 30  # the date has whole seconds


@pytest.mark.parametrize("told", ["Sun, 22 Nov 2015 10:00:00 GMT", "Sun, 99999999999999999999 Nov 2026", "soon", "-3"])
def test_a_wait_that_is_over_or_makes_no_sense_is_none(server, get, slept, told) -> None:
    server.answers = [server.saying(503, Retry_After=told), server.whole()]
    get(server.url())
    assert slept == [0.01]


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
    with pytest.raises(FetchError, match="redirected to http://127.0.0.1.*where anybody on the way"):
        get(url)
    assert len(server.asked) == 1


def test_the_body_of_a_redirect_is_not_read(server, get, payload) -> None:
    def endless(asked) -> None:
        asked.give(b"", status=302, Location="/elsewhere", Content_Length="800000000")
        asked.wfile.flush()
        server.closing.wait()

    server.answers = [endless, server.whole()]
    assert get(server.url(), read_s=2).path.read_bytes() == payload
    assert [asked.path for asked in server.asked] == ["/weights.pth", "/elsewhere"]


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("http://[::1/x", r"redirected to http://\[::1/x, which is no address"),
        ("http://127.0.0.1/\xff", "which is no address"),
        ("file:///etc/passwd", "redirected to file:///etc/passwd, which is no web address"),
        (f"http://{'a' * 70}.com/", "http://a+.com/: Failed to parse"),
        ("http://127.0.0.1:99999/", "http://127.0.0.1:99999/: "),
    ],
)
def test_a_redirect_to_no_address_is_told(server, get, location, told) -> None:
    server.answers = [server.saying(302, Location=location)]
    with pytest.raises(FetchError, match=told):
        get(server.url())


def raw(line: bytes):
    """An answer that begins with this line."""

    def answer(asked) -> None:
        asked.wfile.write(line + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        lambda server: server.saying(404, reason="\x1b]0;gone\x07\x1b[2J"),
        lambda server: server.saying(503, reason="\x1b[31mred"),
        lambda server: server.saying(302, Location="file:///\x1bc"),
        lambda server: server.saying(200, Content_Encoding="\x1b[2J"),
        lambda server: raw(b"HTTP/9.9 what\x1b[2J is\x1b[2J this"),
        lambda server: raw(b"\x1b[2J no http"),
    ],
    ids=["404", "503", "redirect", "encoding", "version", "no http"],
)
def test_what_a_server_says_cannot_command_a_terminal_or_break_a_line(server, get, answer) -> None:
    server.answers = [answer(server)]
    with pytest.raises(FetchError) as raised:
        get(server.url())
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("kind", ["text/html", "Text/HTML; charset=utf-8"])
def test_a_web_page_is_refused_before_a_part_is_given_up_for_it(server, get, payload, kind) -> None:
    server.answers = [server.whole(sent=100_000), server.whole(b"log in", Content_Type=kind)]
    with pytest.raises(FetchError, match="gives a web page, as a network does that wants one to log in"):
        get(server.url())
    server.answers = [server.whole()]
    assert get(server.url()).path.read_bytes() == payload
    assert "Range" in server.asked[-1].headers
