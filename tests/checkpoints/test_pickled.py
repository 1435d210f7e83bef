"""The machine that reads pickles, on streams written by `pickle` itself and by hand."""

from __future__ import annotations

import collections
import os
import pickle
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anabranch.checkpoints import pickled
from anabranch.checkpoints.pickled import Call, Machine, Stated, by_name
from anabranch.checkpoints.steps import Source, Text, Unreadable

PROTOCOLS = (2, 3, 4, 5)
ORDERED = {"collections.OrderedDict": Call(lambda pairs=(): by_name(pairs))}
PLAIN = {
    "text": "weight",
    "long": "x" * 300,
    "many": "é" * 30_000,
    "numbers": [0, 255, 65536, -1, 1 << 200, 1.5],
    "nothing": None,
    "said": (True, False),
    "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    "inner": {"a": {7: "b"}},
}


def run(data: bytes, allowed: dict[str, object] | None = None) -> Any:
    return Machine(Source(memoryview(data)), allowed or {}, protocols=PROTOCOLS).run()


def by_hand(*steps: bytes) -> bytes:
    return b"\x80\x04" + b"".join(steps) + b"."


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values_come_out_as_pickle_wrote_them(protocol: int) -> None:
    assert run(pickle.dumps(PLAIN, protocol)) == PLAIN


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_held_twice_is_built_once(protocol: int) -> None:
    shared = [1]
    first, second = run(pickle.dumps([shared, shared], protocol))
    assert first is second


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_long_bytes_are_a_view_of_the_file_and_no_copy(protocol: int) -> None:
    data = pickle.dumps(bytes(1 << 17), protocol)
    result = run(data)
    assert isinstance(result, memoryview)
    assert result.obj is data


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_long_text_is_a_view_of_the_file_and_no_copy(protocol: int) -> None:
    data = pickle.dumps("é" * 40_000, protocol)
    result = run(data)
    assert isinstance(result, Text)
    assert result.utf8.obj is data
    assert bytes(result.utf8).decode() == "é" * 40_000


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_ordered_dict_is_a_dict_in_its_order(protocol: int) -> None:
    ordered = collections.OrderedDict(b=1, a=2)
    assert list(run(pickle.dumps(ordered, protocol), ORDERED).items()) == [("b", 1), ("a", 2)]


class Payload:
    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.reduced


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("function", [os.system, eval, exec, subprocess.Popen])
def test_a_name_that_no_table_holds_is_never_called(
    protocol: int, function: Callable[..., Any], tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    code = f"touch {marker}" if function in (os.system, subprocess.Popen) else f"open({str(marker)!r}, 'w')"
    with pytest.raises(Unreadable, match="nothing of it was run") as raised:
        run(pickle.dumps({"a": Payload(function, code)}, protocol))
    assert function.__name__ in str(raised.value)
    assert not marker.exists()


def test_every_refused_name_is_collected_and_the_first_three_are_told() -> None:
    held = [pickle.PickleBuffer, pickle.Pickler, collections.deque, collections.ChainMap]
    with pytest.raises(Unreadable, match=r"it asks for .*, .*, collections\.deque, \.\.\., which"):
        run(pickle.dumps(held, 4))


def test_a_refused_name_is_told_without_the_codes_that_a_terminal_obeys() -> None:
    with pytest.raises(Unreadable, match=r"asks for a\.\\x1b\[2Jb,"):
        run(by_hand(b"ca\n\x1b[2Jb\n"))


def test_what_is_made_of_a_refused_name_may_be_filled_without_hiding_the_refusal() -> None:
    held = collections.defaultdict(list, {"a": [1]})
    with pytest.raises(Unreadable, match=r"asks for collections\.defaultdict, builtins\.list"):
        run(pickle.dumps(held, 2))


def test_a_whole_network_is_called_so() -> None:
    with pytest.raises(Unreadable, match="whole pickled network"):
        run(by_hand(b"cmine\nNet\n)\x81}", b"ctorch.nn.modules.conv\nConv2d\n)\x81", b"X\x01\0\0\0as", b"b"))


class Notes(Stated):
    def __init__(self) -> None:
        self.state: Any = None

    def set_state(self, state: Any) -> None:
        self.state = state


def test_only_what_a_stand_in_made_may_have_its_state_set() -> None:
    table = {"a.b": Call(Notes)}
    assert run(by_hand(b"ca\nb\n)R", b"K\x05b"), table).state == 5
    for target in (b"ca\nb\n", b"]", b"K\x01", b"\x8c\x01x"):  # the stand-in itself, a list, a number, text
        with pytest.raises(Unreadable, match="makes no sense"):
            run(by_hand(target, b"}\x8c\x07__doc__K\x01sb"), table)


def test_a_dict_takes_no_state_but_the_versions_that_torch_notes() -> None:
    assert run(by_hand(b"}", b"}\x8c\x09_metadata}sb")) == {}
    with pytest.raises(Unreadable, match="makes no sense"):
        run(by_hand(b"}", b"}\x8c\x05itemsK\x01sb"))


LENGTHS = {
    "bytes": b"B" + struct.pack("<I", 0xFFFFFFFF),
    "long bytes": b"\x8e" + struct.pack("<Q", 1 << 50),
    "bytearray": b"\x96" + struct.pack("<Q", 1 << 50),
    "text": b"X" + struct.pack("<I", 0xFFFFFFFF),
    "long text": b"\x8d" + struct.pack("<Q", 1 << 50),
    "whole number": b"\x8b" + struct.pack("<i", 0x7FFFFFFF),
}


@pytest.mark.parametrize("step", LENGTHS.values(), ids=LENGTHS)
def test_a_length_beyond_the_end_is_refused(step: bytes) -> None:
    with pytest.raises(Unreadable, match="ends in the middle"):
        run(by_hand(step, b"abc"))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_stream_cut_short_anywhere_is_an_error(protocol: int) -> None:
    data = pickle.dumps({**PLAIN, "many": None}, protocol)
    for length in range(len(data)):
        with pytest.raises(Unreadable, match="take another copy"):
            run(data[:length])


NONSENSE = {
    "a mark that was never set": b"t",
    "an index that was never filled": b"h\x07",
    "an item without a list": b"K\x01K\x02a",
    "a key without a value": b"}(K\x01u",
    "a call of text": b"\x8c\x01x)R",
    "a call without a tuple": b"ca\nb\n]R",
    "a name that is no text": b"K\x01K\x02\x93",
    "a name without a line's end": b"ca",
    "an unknown step": b"\xf1",
}


def test_a_key_that_may_be_nested_is_refused_by_its_kind() -> None:
    with pytest.raises(Unreadable, match="has a dict keyed by tuple"):
        run(by_hand(b"}K\x01\x85K\x02s"))


@pytest.mark.parametrize("steps", NONSENSE.values(), ids=NONSENSE)
def test_a_step_that_makes_no_sense_is_damage(steps: bytes) -> None:
    with pytest.raises(Unreadable, match=r"makes no sense before byte \d+"):
        run(by_hand(steps), {"a.b": Call(Notes)})


@pytest.mark.parametrize("step", [b"0", b"2", b"I1\n", b"Q", b"P1\n", b"\x8f", b"\x82\x01", b"i__main__\nx\n"])
def test_a_step_that_tensors_need_not_is_refused(step: bytes) -> None:
    with pytest.raises(Unreadable, match="is a pickle that does"):
        run(by_hand(b"(K\x01", step))


def test_another_protocol_is_refused() -> None:
    with pytest.raises(Unreadable, match="protocol 4; wanted 2"):
        Machine(Source(memoryview(pickle.dumps({}, 4))), {}, protocols=(2,)).run()


def test_the_largest_index_that_a_file_names_takes_no_memory() -> None:
    assert run(by_hand(b"}r\xff\xff\xff\xff")) == {}


def test_nesting_of_any_depth_is_built_without_recursion() -> None:
    depth = 50_000
    nested = run(by_hand(b")", b"\x85" * depth))
    for _ in range(depth):
        (nested,) = nested
    assert nested == ()


def test_doubling_by_index_takes_no_more_memory_than_steps() -> None:
    levels = 200  # 2 ** 200 leaves
    assert len(run(by_hand(b")\x94", *(b"h" + bytes([level]) + b"\x86\x94" for level in range(levels))))) == 2


def test_steps_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickled, "MAX_STEPS", 1000)
    assert run(by_hand(b"]")) == []
    with pytest.raises(Unreadable, match="more than 1000 steps"):
        run(by_hand(b"]" * 1001))


def test_what_a_call_copies_counts_as_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickled, "MAX_STEPS", 10_000)
    long_list = b"](" + b"K\x01" * 1000 + b"e\x94"
    copies = b"ca\nb\nh\x00\x85R" * 10
    table = {"a.b": Call(list)}
    assert len(run(by_hand(long_list, b"ca\nb\nh\x00\x85R"), table)) == 1000
    with pytest.raises(Unreadable, match="more than 10000 steps"):
        run(by_hand(long_list, copies), table)


def test_text_that_is_converted_again_and_again_is_refused() -> None:
    text = b"X" + struct.pack("<I", 1000) + b"x" * 1000 + b"\x94"
    with pytest.raises(Unreadable, match="makes more of its text than it holds"):
        run(by_hand(text, b"ca\nb\nh\x00\x85R" * 3), {"a.b": Call(str)})


def test_ids_outside_the_pickle_are_asked_of_the_caller() -> None:
    machine = Machine(Source(memoryview(by_hand(b"K\x07Q"))), {}, protocols=PROTOCOLS, persistent=lambda key: [key])
    assert machine.run() == [7]
