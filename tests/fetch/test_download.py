from __future__ import annotations

import hashlib
import json
import random
import resource
from collections import namedtuple

import pytest

from anabranch.fetch import FetchError, Patience, fetch

CHANGED = "Sun, 22 Nov 2026 10:00:00 GMT"
REPLACED = random.Random(2).randbytes(1 << 16)
Usage = namedtuple("Usage", "total used free")


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


def test_trouble_that_lasts_is_told_after_so_many_attempts(server, get, cache) -> None:
    server.answers = [server.saying(502)]
    with pytest.raises(FetchError, match=r"127\.0\.0\.1 answers 502 Bad Gateway; 3 attempts in a row"):
        get(server.url())
    assert len(server.asked) == 3


def test_a_body_that_stays_shorter_than_said_is_an_error(server, get, payload) -> None:
    server.answers = [server.whole(payload[:150_000], Content_Length="200000")]
    with pytest.raises(FetchError, match="127.0.0.1 .*; 3 attempts in a row brought next to nothing"):
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


def test_a_rest_that_is_longer_than_announced_is_an_error(server, get, payload, cache) -> None:
    server.answers = [
        server.whole(sent=100_000),
        lambda asked: asked.give(
            payload, status=206, ETag='"one"', Content_Range=asked.headers["Range"].replace("=", " ") + "199999/200000"
        ),
    ]
    with pytest.raises(FetchError, match="more comes than the 200,000 bytes that 127.0.0.1 announced"):
        get(server.url())
    assert list(cache.rglob("*part*")) == []


def test_a_length_of_thousands_of_digits_is_no_length(server, get, payload) -> None:
    server.answers = [server.whole(Content_Length="9" * 5000)]
    assert get(server.url(), sha256=sha256(payload)).path.read_bytes() == payload


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
def test_a_file_that_was_replaced_meanwhile_is_read_from_the_beginning(server, get, replaced, looks, standing) -> None:
    standing[:] = [replaced]
    server.answers = [server.whole(sent=100_000), server.whole(replaced, ETag='"two"', looks=looks)]
    assert get(server.url()).path.read_bytes() == replaced


def test_a_rest_without_the_etag_that_the_file_began_with_is_not_taken(server, get, replaced, standing) -> None:
    standing[:] = [replaced]
    unmarked = server.whole(replaced, looks=False, ETag=None)
    server.answers = [server.whole(sent=100_000), unmarked, unmarked]
    assert get(server.url()).path.read_bytes() == replaced
    assert "Range" not in server.asked[2].headers


def test_a_rest_may_leave_out_the_date_that_the_file_began_with(server, get, payload) -> None:
    def rest(asked) -> None:
        start = started(asked.headers["Range"])
        span = f"bytes {start}-{len(payload) - 1}/{len(payload)}"
        asked.give(payload[start:], status=206, Content_Range=span)

    server.answers = [server.whole(sent=100_000, ETag=None, Last_Modified=CHANGED), rest]
    assert get(server.url()).path.read_bytes() == payload
    assert len(server.asked) == 2


def test_a_rest_that_nobody_asked_for_is_told_as_such(server, get) -> None:
    server.answers = [server.saying(416)]
    with pytest.raises(FetchError, match="127.0.0.1 answers 416, though asked for the whole file"):
        get(server.url())


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


def test_a_disk_without_room_is_told_before_anything_is_written(server, get, cache, monkeypatch) -> None:
    free = Usage(1_000_000, 900_001, 99_999)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: free)
    with pytest.raises(FetchError, match="room for 99,999 bytes, and 200,000 are wanted.*ANABRANCH_CACHE"):
        get(server.url())
    assert all(path.stat().st_size < 1000 for path in cache.rglob("*") if path.is_file())


def test_a_body_without_an_end_leaves_room_on_the_disk_and_nothing_behind(server, get, cache, monkeypatch) -> None:
    def endless(asked) -> None:
        asked.give(b"", Content_Length=None, Transfer_Encoding="chunked")
        for _ in range(200):  # which is end enough for a test that fails
            asked.wfile.write(b"%x\r\n%b\r\n" % (len(REPLACED), REPLACED))

    left = iter(range(300_000_000, 0, -10_000_000))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: Usage(1 << 40, 0, next(left)))
    server.answers = [endless]
    with pytest.raises(FetchError, match="has room for 260,000,000 bytes, and 268,435,456 are wanted"):
        get(server.url(), sha256="0" * 8)
    assert list(cache.rglob("*part*")) == []


def test_a_body_that_nothing_could_tell_to_be_whole_is_not_even_begun(server, get, cache) -> None:
    server.answers = [server.whole(Content_Length=None)]
    with pytest.raises(FetchError, match="nobody says how long"):
        get(server.url())
    assert list(cache.rglob("*part*")) == []


def test_a_part_that_cannot_be_gone_on_with_does_not_stay(server, get, cache) -> None:
    server.answers = [server.whole(sent=100_000, ETag=None)]
    with pytest.raises(FetchError, match="broke off"):
        get(server.url())
    assert list(cache.rglob("*part*")) == []


def test_a_server_that_trickles_is_given_up_and_every_byte_reported_until_then(server, get) -> None:
    told = []
    server.answers = [server.trickling(every_s=0.02)]
    with pytest.raises(FetchError, match=r"127.0.0.1 gave \d+ bytes in 0.4 s; 3 attempts in a row"):
        get(server.url(), pace_s=0.4, report=told.append)
    assert len({each.done_bytes for each in told if each.doing == "downloading"}) > 3


def test_a_slow_server_that_brings_enough_is_not_hurried(server, entry, payload) -> None:
    server.answers = [server.whole(), server.saying(404)]
    fetched = fetch(entry(server.url()), patience=Patience(pace_s=0, least_bytes=1))
    assert fetched.path.read_bytes() == payload


def test_each_further_attempt_is_told_with_its_reason(server, get) -> None:
    told = []
    server.answers = [server.saying(503), server.whole(sent=100_000), server.whole()]
    get(server.url(), report=told.append)
    first, second = (each.why for each in told if each.doing == "retrying")
    assert first == "127.0.0.1 answers 503 Service Unavailable; trying again in 0.01 s"
    assert second.startswith("127.0.0.1 broke off")


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


def test_a_part_of_another_address_is_not_gone_on_with(server, get, cache, payload, replaced) -> None:
    server.answers = [server.whole(replaced, sent=100_000), server.saying(404)]
    with pytest.raises(FetchError):
        get(server.url("old/weights.pth"))
    assert list(cache.rglob(".weights.pth.part")) != []
    server.answers = [server.whole()]
    assert get(server.url("new/weights.pth")).path.read_bytes() == payload
    assert "Range" not in server.asked[-1].headers


def test_a_part_outlives_other_addresses_that_lack_the_file(server, get, payload) -> None:
    first, second = server.url("first/weights.pth"), server.url("second/weights.pth")
    server.answers = [server.saying(404), server.whole(sent=100_000), server.saying(404)]
    with pytest.raises(FetchError):
        get(first, second)
    server.asked.clear()
    server.answers = [server.whole()]
    assert get(first, second).url == second
    assert [asked.path for asked in server.asked] == ["/second/weights.pth"]
    assert started(server.asked[0].headers["Range"]) > 0


def test_a_part_outlives_the_addresses_that_are_asked_after_its_own(server, get, payload) -> None:
    urls = server.url("first/weights.pth"), server.url("second/weights.pth")
    server.answers = [server.whole(sent=100_000), *[server.saying(503)] * 3, server.saying(404)]
    with pytest.raises(FetchError):
        get(*urls)
    assert server.asked[-1].path == "/second/weights.pth"
    server.answers = [server.whole()]
    assert get(*urls).path.read_bytes() == payload
    assert started(server.asked[-1].headers["Range"]) > 0


@pytest.mark.parametrize(
    "fact", ['"total_bytes": "many"', '"total_bytes": null', '"validator": 1', '"url": null', '"unheard": "of"']
)
def test_a_record_of_a_part_that_makes_no_sense_begins_anew(server, get, cache, payload, fact) -> None:
    server.answers = [server.whole(sent=100_000), server.saying(404)]
    with pytest.raises(FetchError):
        get(server.url())
    [record] = cache.rglob(".weights.pth.part.json")
    facts = json.loads(record.read_text())
    record.write_text(json.dumps({**facts, **json.loads(f"{{{fact}}}")}))
    server.answers = [server.whole()]
    assert get(server.url()).path.read_bytes() == payload
    assert "Range" not in server.asked[-1].headers


def test_the_bytes_that_came_are_reported(server, entry, payload) -> None:
    told = []
    fetch(entry(server.url()), report=told.append)
    done = [each.done_bytes for each in told if each.doing == "downloading"]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, len(payload))
    assert {each.total_bytes for each in told} == {len(payload)}
    assert told[-1].doing == "checking"
