from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from anabranch.checkpoints.arrays import ARRAYS, NUMBERS, Array
from anabranch.checkpoints.pickled import Machine
from anabranch.checkpoints.steps import Source, Unreadable

ALLOWED = {**NUMBERS, **ARRAYS}
RECONSTRUCT = np.zeros(1).__reduce__()[0]
PROTOCOLS = (2, 3, 4, 5)
RANDOM = np.random.default_rng(0)
WRITTEN: dict[str, NDArray[Any]] = {
    **{kind: RANDOM.uniform(0, 99, (2, 3)).astype(kind) for kind in ("f2", "f4", "f8", "i1", "i4", "i8", "u1", "?")},
    "a single number": np.float32([7]).reshape(()),
    "no values": np.zeros((0, 3), "f4"),
    "columns first": np.asfortranarray(RANDOM.uniform(0, 9, (3, 4))),
    "every second": np.arange(12)[::2],
    "many": RANDOM.uniform(0, 9, 70_000).astype("f4"),
}


def run(data: bytes) -> Any:
    return Machine(Source(memoryview(data)), ALLOWED, protocols=PROTOCOLS).run()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("values", WRITTEN.values(), ids=WRITTEN)
def test_arrays_come_out_as_numpy_wrote_them(values: NDArray[Any], protocol: int) -> None:
    read = run(pickle.dumps(values, protocol))
    assert isinstance(read, Array)
    assert read.values.dtype == values.dtype
    np.testing.assert_array_equal(read.values, values, strict=True)


def test_numpys_inner_modules_go_by_their_old_names_too() -> None:
    data = pickle.dumps(np.arange(3), 2).replace(b"numpy._core", b"numpy.core")
    assert b"cnumpy.core.multiarray\n_reconstruct\n" in data
    assert run(data).values.tolist() == [0, 1, 2]


@pytest.mark.parametrize("protocol", [3, 4])
def test_many_values_are_a_view_of_the_file(protocol: int) -> None:
    values = run(pickle.dumps(WRITTEN["many"], protocol)).values
    assert not values.flags.owndata


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_number_of_numpys_is_a_number(protocol: int) -> None:
    assert run(pickle.dumps([np.float64(1.5), np.int64(-3)], protocol)) == [1.5, -3]


class Forged:
    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


def array(shape: tuple[int, ...], data: object, kind: object = np.dtype("f4")) -> Forged:
    return Forged(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, shape, kind, False, data))


FORGED: dict[str, tuple[Callable[[], Any], str]] = {
    "a huge shape": (lambda: array((1 << 40,), b"1234"), r"shape \(1099511627776,\) takes 4398046511104 bytes"),
    "a shape beyond counting": (lambda: array((1 << 60,) * 30, b"1234"), "take another copy"),
    "too few values": (lambda: array((2,), b"1234"), "takes 8 bytes and the file gives it 4"),
    "too many values": (lambda: array((), b"12345"), "takes 4 bytes and the file gives it 5"),
    "no bytes": (lambda: array((1,), ["x"]), "the file gives it 0"),
    "a negative length": (lambda: array((-1, -1), b"1234"), "makes no sense"),
    "lengths that are no numbers": (lambda: array(("a",), b"1234"), "makes no sense"),  # type: ignore[arg-type]
    "more dimensions than numpy has": (lambda: array((1,) * 65, b"1234"), "makes no sense"),
    "a kind that is text": (lambda: array((1,), b"1234", "f4"), "makes no sense"),
    "a huge first shape": (lambda: Forged(RECONSTRUCT, (np.ndarray, (1 << 40,), b"b")), "makes no sense"),
    "Python objects": (lambda: np.array([{}], dtype=object), "numpy's kind O8, not plain numbers"),
    "records": (lambda: np.zeros(2, [("a", "f4"), ("b", "i4")]), "numpy's kind V8, not plain numbers"),
    "text": (lambda: np.array(["a"]), "numpy's kind U1, not plain numbers"),
    "big-endian numbers": (lambda: np.zeros(2, ">f4"), "big-endian"),
    "a dtype of a dtype": (lambda: Forged(np.dtype, (Forged(np.dtype, ("f4",)),)), "makes no sense"),
    "a dtype's state": (
        lambda: Forged(np.dtype, ("f4",), (3, "<", (1,), ("a",), {}, 1 << 40, 1, 63)),
        "makes no sense",
    ),
}


@pytest.mark.parametrize(("make", "reason"), FORGED.values(), ids=FORGED)
def test_a_forged_array_is_refused(make: Callable[[], Any], reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        run(pickle.dumps(make(), 4))


def test_an_array_whose_values_never_came_is_refused_when_they_are_asked_for() -> None:
    begun = run(pickle.dumps(Forged(RECONSTRUCT, (np.ndarray, (0,), b"b")), 4))
    with pytest.raises(Unreadable, match="an array without values"):
        _ = begun.values


def test_objects_in_an_array_are_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    payload = Forged(exec, (f"open({str(marker)!r}, 'w')",))
    with pytest.raises(Unreadable):
        run(pickle.dumps(np.array([payload], dtype=object), 4))
    assert not marker.exists()


@pytest.mark.parametrize("codec", ["hex", "utf-32", "zip"])
def test_bytes_spelt_as_text_are_spelt_in_no_other_codec_than_pickles_own(codec: str) -> None:
    data = pickle.dumps(b"\xff", 2).replace(b"latin1", codec.encode()).replace(b"X\x06", b"X" + bytes([len(codec)]))
    with pytest.raises(Unreadable, match="makes no sense"):
        run(data)
