from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from anabranch.errors import UsageError
from anabranch.fetch import FetchError

ELSEWHERE = "https://publisher.invalid/weights.pth"  # nothing may ever be asked there


def sha256(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


@pytest.fixture
def mirror(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv("ANABRANCH_MIRROR", str(folder))
    return folder


def put(path: Path, payload: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(payload)


@pytest.mark.parametrize("name", ["weights.pth", "resnext50_32x4d.tiny/weights.pth"])
def test_a_mirror_may_hold_a_file_by_its_name_or_under_its_weights(get, mirror, payload, name) -> None:
    put(mirror / name, payload)
    fetched = get(ELSEWHERE, sha256=sha256(payload))
    assert fetched.path.read_bytes() == payload
    assert fetched.url == (mirror / name).as_uri()


@pytest.mark.parametrize("name", ["resnext50_32x4d.tiny.safetensors", "resnext50_32x4d.tiny/model.safetensors"])
def test_a_mirror_holds_a_file_of_the_hub_by_its_weights_name(get, mirror, payload, name) -> None:
    put(mirror / name, payload)
    fetched = get("hf:somebody/something")
    assert fetched.path.name == "model.safetensors"
    assert fetched.path.read_bytes() == payload


def test_the_name_that_all_files_of_the_hub_share_says_nothing_of_whose_it_is(get, mirror, payload) -> None:
    put(mirror / "model.safetensors", payload)
    with pytest.raises(FetchError, match="cannot be had from .*, there called resnext50_32x4d.tiny.safetensors"):
        get("hf:somebody/something")


@pytest.mark.parametrize("form", ["file://{}", "FILE://{}", "file:{}", "file://localhost{}"])
def test_a_mirror_may_be_given_as_a_files_address(get, mirror, payload, monkeypatch, form) -> None:
    monkeypatch.setenv("ANABRANCH_MIRROR", form.format(mirror))
    put(mirror / "weights.pth", payload)
    assert get(ELSEWHERE).path.read_bytes() == payload


def test_a_mirror_may_lie_in_ones_home(get, mirror, payload, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(mirror.parent))
    monkeypatch.setenv("ANABRANCH_MIRROR", "~/mirror")
    put(mirror / "weights.pth", payload)
    assert get(ELSEWHERE).path.read_bytes() == payload


@pytest.mark.parametrize("scheme", ["http", "HTTP"])
def test_a_mirror_may_be_a_web_address(server, get, payload, monkeypatch, scheme) -> None:
    monkeypatch.setenv("ANABRANCH_MIRROR", server.url("base/").replace("http", scheme))
    server.answers = [server.saying(404), server.whole()]
    fetched = get(ELSEWHERE)
    assert fetched.path.read_bytes() == payload
    assert [asked.path for asked in server.asked] == ["/base/resnext50_32x4d.tiny/weights.pth", "/base/weights.pth"]


def test_what_a_mirror_lacks_is_not_looked_for_in_the_world(server, get, mirror) -> None:
    with pytest.raises(FetchError) as raised:
        get(server.url())
    assert server.asked == []
    told = str(raised.value)
    for part in (str(mirror / "weights.pth"), str(mirror / "resnext50_32x4d.tiny/weights.pth"), "unset", server.url()):
        assert part in told


def test_what_a_web_mirror_lacks_is_told_in_the_same_way(server, get, monkeypatch) -> None:
    monkeypatch.setenv("ANABRANCH_MIRROR", server.url("base"))
    server.answers = [server.saying(404)]
    with pytest.raises(FetchError, match="base/weights.pth: 127.0.0.1 answers 404 .*unset ANABRANCH_MIRROR"):
        get(ELSEWHERE)


def test_a_mirrors_file_is_verified_as_any_other(get, mirror, payload, replaced) -> None:
    put(mirror / "weights.pth", replaced)
    with pytest.raises(FetchError, match=f"the catalogue states {sha256(payload)}"):
        get(ELSEWHERE, sha256=sha256(payload))


def test_a_mirrors_word_on_a_hash_is_not_the_hubs(server, get, payload, monkeypatch) -> None:
    monkeypatch.setenv("ANABRANCH_MIRROR", server.url("base"))
    server.answers = [server.whole(X_Linked_Etag=f'"{sha256(payload)}"')]
    assert get("hf:somebody/something").doubt == "ANABRANCH_MIRROR states no hash"


@pytest.mark.parametrize(
    "base",
    [
        "ftp://somewhere",
        "http://[::1",
        "http://",
        "http:///base",
        "http://host:port/base",
        "https://host/base?token=1",
        "https://host/base#there",
        "file://host/base",
        "file://[::1",
        "file:///base?token=1",
    ],
)
def test_a_mirror_that_is_no_place_is_refused(get, monkeypatch, base) -> None:
    monkeypatch.setenv("ANABRANCH_MIRROR", base)
    with pytest.raises(UsageError, match=f"ANABRANCH_MIRROR is '{re.escape(base)}'; it may be a folder"):
        get(ELSEWHERE)


@pytest.mark.parametrize("base", ["http://user:secret@host/base", "https://secret@host", "http://u:secret@host:port/"])
@pytest.mark.parametrize("variable", ["ANABRANCH_MIRROR", "HF_ENDPOINT"])
def test_a_password_is_refused_and_not_shown(get, monkeypatch, variable, base) -> None:
    monkeypatch.setenv(variable, base)
    with pytest.raises(UsageError, match=f"{variable} holds a name or a password, which would not be sent") as caught:
        get("hf:somebody/something")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["http://[::1", "hub.invalid", "file:///hub"])
def test_a_hub_that_is_no_web_address_is_refused(get, monkeypatch, endpoint) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(UsageError, match=f"HF_ENDPOINT is '{re.escape(endpoint)}'; it may begin with http://"):
        get("hf:somebody/something")


def test_a_mirrors_folder_that_is_missing_is_called_so(get, mirror, monkeypatch) -> None:
    monkeypatch.setenv("ANABRANCH_MIRROR", str(mirror / "nowhere"))
    with pytest.raises(FetchError, match=f"ANABRANCH_MIRROR names {mirror}/nowhere, and there is no such folder"):
        get(ELSEWHERE)


def test_a_name_that_an_address_spells_with_percent_signs_is_kept_as_it_is_read(get, mirror, payload) -> None:
    put(mirror / "my weights.pth", payload)
    assert get("https://publisher.invalid/my%20weights.pth").path.name == "my weights.pth"


def test_a_web_mirror_is_asked_for_such_a_name_as_the_web_spells_it(server, get, payload, monkeypatch) -> None:
    monkeypatch.setenv("ANABRANCH_MIRROR", server.url("base"))
    assert get("https://publisher.invalid/100%25%20weights.pth").path.name == "100% weights.pth"
    assert server.asked[0].path == "/base/resnext50_32x4d.tiny/100%25%20weights.pth"


def test_a_mirror_is_gone_on_with_in_a_later_run_in_either_layout(server, get, payload, monkeypatch) -> None:
    monkeypatch.setenv("ANABRANCH_MIRROR", server.url("base"))
    server.answers = [server.saying(404), server.whole(sent=100_000), server.saying(404)]
    with pytest.raises(FetchError):
        get(ELSEWHERE)
    server.answers = [server.whole()]
    assert get(ELSEWHERE).path.read_bytes() == payload
    assert server.asked[-1].path == "/base/weights.pth"
    assert "Range" in server.asked[-1].headers


def test_the_hub_is_asked_for_the_one_file_and_its_word_taken(server, get, payload, monkeypatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url("").rstrip("/"))
    redirect = server.saying(302, Location="/storage", X_Linked_Etag=f'"{sha256(payload)}"', ETag='"other"')
    server.answers = [redirect, server.whole(sent=100_000), redirect, server.whole()]
    fetched = get("hf:somebody/something", sha256="00000000")  # which is the publisher's file's
    assert server.asked[0].path == "/somebody/something/resolve/main/model.safetensors"
    assert fetched.path.read_bytes() == payload
    assert fetched.verified == "SHA-256 is as the hub states"


def test_a_file_that_is_not_what_the_hub_says_is_refused(server, get, payload, replaced, monkeypatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url(""))
    redirect = server.saying(302, Location="/storage", X_Linked_Etag=f'"{sha256(payload)}"')
    server.answers = [redirect, server.whole(replaced)]
    with pytest.raises(FetchError, match=f"{sha256(replaced)}; the hub states {sha256(payload)}"):
        get("hf:somebody/something")


def test_a_hub_that_says_nothing_of_a_hash_verifies_nothing(server, get, monkeypatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url(""))
    server.answers = [server.whole(X_Linked_Etag='"4f2a"')]
    assert get("hf:somebody/something").verified == "not verified: the hub states no hash"


def test_weights_that_lie_nowhere_are_told_apart(get) -> None:
    with pytest.raises(FetchError, match=r"no address is known.*nobody.*path instead of the name"):
        get()


@pytest.mark.parametrize("path", ["", ".hidden", "%2e%2e", "..%2fweights.pth", "a%5Cb.pth", "a%00.pth"])
def test_an_address_without_a_files_name_is_refused(get, path) -> None:
    url = f"https://publisher.invalid/{path}"
    with pytest.raises(FetchError, match="does not end with the name of a file"):
        get(url)
