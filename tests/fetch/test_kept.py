from __future__ import annotations

import hashlib
import json

import pytest

from anabranch.fetch import FetchError


def sha256(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


def test_a_file_that_is_there_is_not_fetched_again(server, get) -> None:
    assert get(server.url()) == get(server.url())
    assert len(server.asked) == 1


def test_the_record_beside_a_file_says_where_it_came_from_and_what_it_is(server, get, payload) -> None:
    fetched = get(server.url())
    record = json.loads(fetched.path.with_name("weights.pth.json").read_text())
    assert record["url"] == server.url()
    assert record["size_bytes"] == len(payload)
    assert record["sha256"] == sha256(payload)
    assert record["verified"] == fetched.verified
    assert record["date"].endswith("+00:00")
    assert [path.name for path in fetched.path.parent.iterdir() if "part" in path.name] == []


@pytest.mark.parametrize(
    ("digits", "words"), [(64, "SHA-256 is as the catalogue states"), (8, "SHA-256 begins with {}, as the catalogue")]
)
def test_a_file_is_verified_by_what_is_published_of_its_hash(server, get, payload, digits, words) -> None:
    published = sha256(payload)[:digits]
    fetched = get(server.url(), sha256=published)
    assert fetched.verified.startswith(words.format(published))
    assert fetched.is_verified


def test_where_nothing_is_published_nothing_is_claimed(server, get) -> None:
    fetched = get(server.url())
    assert fetched.verified == "not verified: the catalogue states no hash"
    assert not fetched.is_verified


@pytest.mark.parametrize(
    ("met", "told"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html>log", "it is a web page"),
        (b"\xef\xbb\xbf\n <html>", "it is a web page"),
    ],
)
def test_what_cannot_be_weights_is_refused_though_nothing_is_published_of_them(server, get, cache, met, told) -> None:
    server.answers = [server.whole(met)]
    with pytest.raises(FetchError, match=f"{server.url()} gives another file than was published: {told}"):
        get(server.url())
    assert list(cache.rglob("*weights.pth*")) == []


@pytest.mark.parametrize("digits", [8, 64])
def test_a_file_with_another_hash_is_removed_and_both_hashes_told(
    server, get, cache, payload, replaced, digits
) -> None:
    server.answers = [server.whole(replaced), server.whole()]
    published = sha256(payload)[:digits]
    with pytest.raises(FetchError, match=f"{sha256(replaced)[:digits]}; the catalogue states {published}"):
        get(server.url(), sha256=published)
    assert list(cache.rglob("*weights.pth*")) == []
    assert get(server.url(), sha256=published).path.read_bytes() == payload


def test_a_file_that_has_lost_its_end_is_fetched_again(server, get, payload) -> None:
    published = sha256(payload)[:8]
    get(server.url(), sha256=published).path.write_bytes(payload[:1000])
    assert get(server.url(), sha256=published).path.read_bytes() == payload
    assert len(server.asked) == 2


def test_a_changed_byte_is_found_on_demand_and_mended(server, get, payload) -> None:
    path = get(server.url()).path
    path.write_bytes(b"\0" + payload[1:])
    assert get(server.url()).path.read_bytes() != payload
    assert get(server.url(), verify=True).path.read_bytes() == payload
    assert len(server.asked) == 2


def test_a_damaged_file_loses_its_name_where_it_cannot_be_fetched_again(server, get, payload) -> None:
    path = get(server.url()).path
    path.write_bytes(b"\0" + payload[1:])
    server.answers = [server.saying(404)]
    aside = path.with_name(".weights.pth.old")
    with pytest.raises(FetchError, match=f"404.*damaged or out of date, and called {aside} now"):
        get(server.url(), verify=True)
    assert not path.exists()
    assert aside.read_bytes() == b"\0" + payload[1:]


def test_a_damaged_file_goes_once_another_has_taken_its_place(server, get, payload) -> None:
    path = get(server.url()).path
    path.write_bytes(b"\0" + payload[1:])
    server.answers = [server.saying(404)]
    with pytest.raises(FetchError):
        get(server.url(), verify=True)
    server.answers = [server.whole()]
    get(server.url())
    assert {each.name for each in path.parent.iterdir()} - {".lock"} == {"weights.pth", "weights.pth.json"}


def test_a_file_of_another_hash_than_the_catalogue_has_learned_is_fetched_again(server, get, payload, replaced) -> None:
    server.answers = [server.whole(replaced), server.whole()]
    assert get(server.url()).path.read_bytes() == replaced
    assert get(server.url(), sha256=sha256(payload)).path.read_bytes() == payload


@pytest.mark.parametrize("published", [True, False], ids=["published hash", "no hash"])
def test_a_file_put_by_hand_over_one_that_was_fetched_is_taken(server, get, payload, published) -> None:
    server.answers = [server.whole(b"a page to log in")]
    path = get(server.url()).path
    path.write_bytes(payload)
    server.answers = [server.saying(503)]
    facts = {"sha256": sha256(payload)} if published else {}
    fetched = get(server.url(), **facts)
    assert (fetched.path.read_bytes(), fetched.url) == (payload, path.as_uri())
    assert fetched.is_verified == published
    assert len(server.asked) == 1


def test_a_file_of_the_same_size_put_by_hand_over_a_damaged_one_is_taken_by_its_hash(
    server, get, payload, replaced
) -> None:
    server.answers = [server.whole(replaced), server.saying(404)]
    path = get(server.url()).path
    path.write_bytes(payload)
    assert get(server.url(), sha256=sha256(payload), verify=True).path.read_bytes() == payload
    assert len(server.asked) == 1


def test_a_file_put_there_by_hand_is_verified_and_taken(server, get, cache, payload) -> None:
    path = cache / "weights/resnext50_32x4d.tiny/weights.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(payload)
    fetched = get(server.url(), sha256=sha256(payload)[:8])
    assert (fetched.path, fetched.url) == (path, path.as_uri())
    assert fetched.verified.startswith("SHA-256 begins with")
    assert get(server.url(), sha256=sha256(payload)[:8]) == fetched
    assert server.asked == []


def test_a_wrong_file_put_there_by_hand_is_refused_and_left_to_its_owner(
    server, get, cache, payload, replaced, standing
) -> None:
    standing.append(replaced)
    path = cache / "weights/resnext50_32x4d.tiny/weights.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(replaced)
    with pytest.raises(FetchError, match=f"{path}: its SHA-256 begins with {sha256(replaced)[:8]}.*Remove it"):
        get(server.url(), sha256=sha256(payload)[:8])
    assert path.read_bytes() == replaced


@pytest.mark.parametrize(
    "change", [('"sha256": "', '"sha256": null, "verified": "'), ('"url"', ""), (": 200000", ": 2e5")]
)
def test_a_record_that_cannot_be_read_counts_for_nothing(server, get, payload, change) -> None:
    path = get(server.url()).path
    record = path.with_name("weights.pth.json")
    assert change[0] in record.read_text()
    record.write_text(record.read_text().replace(*change))
    assert get(server.url(), sha256=sha256(payload)).verified == "SHA-256 is as the catalogue states"
