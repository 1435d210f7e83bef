"""The forms that `paddle.save` writes, imitated with pickle alone, and forgeries of them."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from anabranch.checkpoints.read import read_checkpoint
from anabranch.errors import CheckpointError

PROTOCOLS = (2, 3, 4)
RANDOM = np.random.default_rng(0)
ARRAYS: dict[str, NDArray[Any]] = {
    "conv1._conv.weight": RANDOM.normal(size=(8, 3, 3, 3)).astype("f4"),
    "conv1._batch_norm._mean": RANDOM.normal(size=8).astype("f4"),
    "fc.weight": RANDOM.normal(size=(8, 5)).astype("f2"),
    "steps": np.array(7, "i8"),
}
VARIABLES = {name: f"{name}_0" for name in ARRAYS}


class Parameter:
    """Pickles as Paddle 2.1 and later pickle a tensor in a nested dict: a call of tuple with its name and array."""

    def __init__(self, name: str, values: NDArray[Any]) -> None:
        self.pair = (name, values)

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (self.pair,)


def saved(folder: Path, held: object, protocol: int = 4) -> Path:
    path = folder / "net.pdparams"
    path.write_bytes(pickle.dumps(held, protocol))
    return path


FORMS = {
    "arrays by name": ARRAYS,
    "with the table of variables": {**ARRAYS, "StructuredToParameterName@@": VARIABLES},
    "an ordered dict": OrderedDict(ARRAYS),
    "pairs of variable and array": {name: (VARIABLES[name], values) for name, values in ARRAYS.items()},
    "pairs as Paddle reduces them": {name: Parameter(VARIABLES[name], values) for name, values in ARRAYS.items()},
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_that_paddle_writes_is_read(form: dict[str, Any], protocol: int, tmp_path: Path) -> None:
    held = read_checkpoint(saved(tmp_path, form, protocol))
    assert (held.kind, held.unwrapped, held.about) == ("paddle", (), None)
    assert list(held.tensors) == list(ARRAYS)
    for name, tensor in held.tensors.items():
        np.testing.assert_array_equal(tensor.numpy(), ARRAYS[name], strict=True)


def test_a_dict_of_several_things_gives_its_model(tmp_path: Path) -> None:
    form = {"model": FORMS["pairs as Paddle reduces them"], "opt": {"lr": 0.1}, "epoch": 100}
    held = read_checkpoint(saved(tmp_path, form))
    assert held.unwrapped == ("model",)
    assert held.tensors.keys() == ARRAYS.keys()


@pytest.mark.parametrize("protocol", [2, 3])
def test_an_array_in_slices_is_joined(protocol: int, tmp_path: Path) -> None:
    whole = RANDOM.normal(size=(4, 5)).astype("f4")
    slices = {f"fc.weight@@.{place}": part for place, part in enumerate(np.split(whole.flatten(), [9, 18]))}
    how = {"fc.weight": {"OriginShape": whole.shape, "slices": list(slices)}}
    form = {"fc.bias": whole[0], **slices, "StructuredToParameterName@@": {}, "UnpackBigParamInfor@@": how}
    tensors = read_checkpoint(saved(tmp_path, form, protocol)).tensors
    assert list(tensors) == ["fc.bias", "fc.weight"]
    np.testing.assert_array_equal(tensors["fc.weight"].numpy(), whole, strict=True)


WRONG_SLICES = {
    "one is absent": {"a": {"OriginShape": (4,), "slices": ["a@@.0", "a@@.1"]}},
    "their shape does not fit": {"a": {"OriginShape": (5,), "slices": ["a@@.0"]}},
    "one is taken twice": {"a": {"OriginShape": (4,), "slices": ["a@@.0", "a@@.0"]}},
    "there are none": {"a": {"OriginShape": (4,), "slices": []}},
    "one is no array": {"a": {"OriginShape": (4,), "slices": ["name"]}},
    "nothing says how": {"a": 3},
    "it is no table": 3,
}


@pytest.mark.parametrize("how", WRONG_SLICES.values(), ids=WRONG_SLICES)
def test_slices_that_do_not_fit_are_damage(how: object, tmp_path: Path) -> None:
    form = {"a@@.0": np.zeros(4, "f4"), "name": "a", "UnpackBigParamInfor@@": how}
    with pytest.raises(CheckpointError, match="the slices of its large arrays do not fit"):
        read_checkpoint(saved(tmp_path, form))


def test_tensors_are_ones_own_to_write_to_and_the_file_stays_as_it_was(tmp_path: Path) -> None:
    path = saved(tmp_path, ARRAYS)
    before = path.read_bytes()
    for tensor in read_checkpoint(path).tensors.values():
        tensor.zero_()
    assert path.read_bytes() == before


def test_uint16_is_refused_for_it_may_be_bfloat16(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"uint16 values \(b\).*bfloat16.*save it as float32"):
        read_checkpoint(saved(tmp_path, {"a": np.zeros(2), "b": np.zeros(2, "u2")}))


@pytest.mark.parametrize("held", [[np.zeros(2)], np.zeros(2), "weights", None])
def test_what_is_not_a_dict_is_refused(held: object, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds a single .*, not tensors by name"):
        read_checkpoint(saved(tmp_path, held))


def test_entries_that_are_no_arrays_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"2 entries that are not tensors by name: lr \(float\), names \(list\)"):
        read_checkpoint(saved(tmp_path, {**ARRAYS, "lr": 0.1, "names": ["a"]}))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_command_in_a_file_is_not_run(protocol: int, tmp_path: Path) -> None:
    import os

    class Command:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path / 'marker'}",)

    path = saved(tmp_path, {**ARRAYS, "x": Command()}, protocol)
    with pytest.raises(
        CheckpointError, match=r"net\.pdparams: is refused, and nothing of it was run: it asks for .*system"
    ):
        read_checkpoint(path)
    assert [file.name for file in tmp_path.iterdir()] == ["net.pdparams"]


def test_one_array_under_many_names_is_refused_before_it_is_copied(tmp_path: Path) -> None:
    values = np.zeros(1000)
    with pytest.raises(CheckpointError, match="its arrays repeat each other"):
        read_checkpoint(saved(tmp_path, {f"w{place}": values for place in range(9)}))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_file_cut_short_anywhere_is_an_error(protocol: int, tmp_path: Path) -> None:
    path = saved(tmp_path, ARRAYS, protocol)
    whole = path.read_bytes()
    for length in range(0, len(whole), len(whole) // 25):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"net\.pdparams: "):
            read_checkpoint(path)


def _stream(*steps: bytes) -> bytes:
    return b"\x80\x04" + b"".join(steps) + b"."


def _array_of(data: bytes, shape: bytes) -> bytes:
    whole = pickle.dumps({"a": np.frombuffer(data, "u1")}, 4)
    length = b"K" + bytes([len(data)])
    assert whole.count(length + b"\x85") == 1
    return whole.replace(length + b"\x85", shape + b"\x85")


MEGABYTE = 1 << 20
FORGERIES = {
    "a huge shape": _array_of(b"x" * 77, b"\x8a\x06" + (1 << 44).to_bytes(6, "little")),
    "a length beyond the end": _stream(b"}\x8c\x01a\x8e", (1 << 50).to_bytes(8, "little"), b"s"),
    "a bytearray beyond the end": _stream(b"}\x8c\x01a\x96", (1 << 50).to_bytes(8, "little"), b"s"),
    "a large index": _stream(b"}\x8c\x01ar\xff\xff\xff\x7fNs"),
    "doubled lists": _stream(b"}\x8c\x01a(", b"]\x94", *(b"](h%ch%ce\x94" % (n, n) for n in range(60)), b"ts"),
    "text made bytes again and again": _stream(
        b"c_codecs\nencode\n\x94X", (60_000).to_bytes(4, "little"), b"x" * 60_000, b"\x94\x8c\x06latin1\x94",
        b"h\x00h\x01h\x02\x86R" * 2000,
    ),
    "a list copied again and again": _stream(
        b"ccollections\nOrderedDict\n\x94](", *(b"K%cK\x01\x86" % (n % 256) for n in range(100_000)), b"e\x94",
        b"h\x00h\x01\x85R" * 2000,
    ),
    "deep nesting": _stream(b"}\x8c\x01a)", b"\x85" * 500_000, b"s"),
    "many steps": _stream(b"(", b"]" * 3_000_000, b"t"),
}  # fmt: skip


@pytest.mark.slow
def test_forgeries_take_no_more_memory_than_their_size_allows(tmp_path: Path, measured: Any) -> None:
    paths = {"sound": saved(tmp_path, ARRAYS)}  # the first, so that what reading itself loads is not counted
    for name, content in FORGERIES.items():
        paths[name] = tmp_path / f"{name}.pdparams"
        paths[name].write_bytes(content)
    met = measured(*paths.values())
    assert met.pop(paths.pop("sound"))[1] == ""
    for name, path in paths.items():
        taken, error = met[path]
        assert error, name
        assert taken < 100 * MEGABYTE + 4 * path.stat().st_size, (name, taken, error)


LONG = {
    "text": b"\x80\x02X" + (1 << 28).to_bytes(4, "little"),
    "long text": b"\x80\x04\x8d" + (1 << 28).to_bytes(8, "little"),
    "a bytearray": b"\x80\x05\x96" + (1 << 28).to_bytes(8, "little"),
    "a whole number": b"\x80\x02\x8b" + (1 << 28).to_bytes(4, "little"),
}


@pytest.mark.slow
def test_what_is_long_takes_no_memory_before_it_is_wanted(tmp_path: Path, measured: Any) -> None:
    paths = {"sound": saved(tmp_path, ARRAYS)}
    for name, beginning in LONG.items():
        paths[name] = tmp_path / f"{name}.pdparams"
        with paths[name].open("wb") as file:
            file.write(beginning)
            file.truncate((1 << 28) + 100)  # which takes no room on the disk
    met = measured(*paths.values())
    assert met.pop(paths.pop("sound"))[1] == ""
    for name, path in paths.items():
        taken, error = met[path]
        assert error, name
        assert taken < 8 * MEGABYTE, (name, taken, error)


@pytest.mark.slow
def test_of_many_arrays_in_text_none_is_held_twice(tmp_path: Path, measured: Any) -> None:
    small, large = saved(tmp_path, ARRAYS), tmp_path / "large.pdparams"
    arrays = {f"w{place}": RANDOM.normal(size=2 * MEGABYTE).astype("f4") for place in range(8)}
    with large.open("wb") as file:
        pickle.dump(arrays, file, 2)
    taken, error = measured(small, large)[large]
    assert not error
    assert taken < large.stat().st_size + (8 * 8 + 12) * MEGABYTE


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_large_array_is_held_once(protocol: int, tmp_path: Path, measured: Any) -> None:
    num_bytes = 64 * MEGABYTE
    small = saved(tmp_path, ARRAYS)
    large = tmp_path / "large.pdparams"
    with large.open("wb") as file:
        pickle.dump({"a": torch.ones(num_bytes // 4).numpy()}, file, protocol)
    taken, error = measured(small, large)[large]
    assert not error
    # beside the file's own pages, which the system takes back as it needs them
    assert taken < large.stat().st_size + num_bytes + 12 * MEGABYTE
