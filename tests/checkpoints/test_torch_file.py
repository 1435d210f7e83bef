"""What `torch.save` writes in both of its formats, and forgeries of it."""

from __future__ import annotations

import argparse
import collections
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anabranch.checkpoints import mapped
from anabranch.checkpoints.read import read_checkpoint
from anabranch.errors import CheckpointError

torch.manual_seed(0)
STATE = OrderedDict(
    {
        "conv1.weight": torch.randn(8, 3, 3, 3),
        "fc.weight": torch.nn.Parameter(torch.randn(5, 8)),
        "half": torch.randn(4).half(),
        "brain": torch.randn(4).bfloat16(),
        "bn1.num_batches_tracked": torch.tensor(7),
        "turned": torch.randn(3, 4).t(),
        "part": torch.randn(9)[2:5],
    }
)
FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def saved(folder: Path, held: object, zipped: bool = True) -> Path:
    path = folder / "net.pth"
    torch.save(held, path, _use_new_zipfile_serialization=zipped)
    return path


def same(met: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert list(met) == list(wanted)
    for name, tensor in met.items():
        assert tensor.dtype == wanted[name].dtype
        assert torch.equal(tensor, wanted[name])
        assert not tensor.requires_grad


@FORMATS
def test_a_state_dict_is_read(zipped: bool, tmp_path: Path) -> None:
    held = read_checkpoint(saved(tmp_path, STATE, zipped))
    assert (held.kind, held.unwrapped, held.about) == ("torch", (), None)
    same(held.tensors, STATE)


def test_a_nets_own_state_dict_with_its_versions_is_read(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    same(read_checkpoint(saved(tmp_path, net.state_dict())).tensors, net.state_dict())


def _with_state(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    parameter.note = 1  # type: ignore[attr-defined]
    return parameter


@FORMATS
def test_a_training_checkpoint_is_read_with_what_scripts_leave_in_it(zipped: bool, tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.randn(2))
    sgd = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.grad = torch.ones(2)
    sgd.step()
    held = {
        "state_dict": {f"module.{name}": tensor for name, tensor in STATE.items()},
        "optimizer": sgd.state_dict(),
        "lr_scheduler": {"milestones": collections.Counter([30, 60]), "gamma": 0.1},
        "args": argparse.Namespace(lr=0.1, device=torch.device("cuda", 0), resume=None, tags={"a", "b"}),
        "best": (np.float64(77.5), np.int64(3), torch.Size([1, 2])),
        "arch": "resnext50_32x4d",
        "epoch": 90,
        "dtype": torch.float32,
        "loss": 1j,
        "by": {None: 1, True: 2, 0.5: 3},
        "mean": torch.zeros(1).expand(10),
        "negated": torch.zeros(2)._neg_view(),
        "kept": _with_state(torch.nn.Parameter(torch.zeros(3))),
    }
    met = read_checkpoint(saved(tmp_path, held, zipped))
    assert met.unwrapped == ("state_dict", "module.")
    same(met.tensors, STATE)


def test_a_mapped_tensor_may_be_written_to_and_the_file_stays_as_it_was(tmp_path: Path) -> None:
    path = saved(tmp_path, {"a": torch.ones(3)})
    before = path.read_bytes()
    read_checkpoint(path).tensors["a"].zero_()
    assert path.read_bytes() == before


class Reduced:
    """Pickles as a call of whatever one likes."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


@FORMATS
def test_a_command_in_a_file_is_not_run(zipped: bool, tmp_path: Path) -> None:
    command = Reduced(os.system, (f"touch {tmp_path / 'marker'}",))
    path = saved(tmp_path, {**STATE, "x": command}, zipped)
    with pytest.raises(CheckpointError, match=r"nothing of it was run: it asks for .*system, which tensors by name"):
        read_checkpoint(path)
    assert [file.name for file in tmp_path.iterdir()] == ["net.pth"]


def test_a_command_before_the_weights_of_a_legacy_file_is_not_run(tmp_path: Path) -> None:
    path = saved(tmp_path, STATE, zipped=False)
    command = pickle.dumps(Reduced(os.system, (f"touch {tmp_path / 'marker'}",)), 2)
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    assert path.read_bytes().startswith(magic)
    path.write_bytes(magic + command + path.read_bytes()[len(magic) :])
    with pytest.raises(CheckpointError, match="nothing of it was run"):
        read_checkpoint(path)
    assert [file.name for file in tmp_path.iterdir()] == ["net.pth"]


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a whole network": (lambda: torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1)), "whole pickled network"),
    "quantised": (lambda: {"a": Reduced(torch._utils._rebuild_qtensor, ())}, r"quantised \(int8\) tensors"),
    "sparse": (lambda: {"a": torch.eye(3).to_sparse()}, "sparse tensors"),
    "on meta": (lambda: {"a": torch.empty(3, device="meta")}, "shapes without values"),
    "complex": (lambda: {"a": torch.zeros(2, dtype=torch.complex64)}, "asks for torch.ComplexFloatStorage"),
    "a bytearray of any size": (lambda: {"a": Reduced(bytearray, (1 << 40,))}, "asks for builtins.bytearray"),
    "a tensor of any size": (lambda: {"a": Reduced(torch.FloatTensor, (1 << 40,))}, "asks for torch.FloatTensor"),
    "a path": (lambda: {"args": argparse.Namespace(data=Path("x"))}, "asks for pathlib"),
    "expanded": (lambda: {"a": torch.zeros(1).expand(1000)}, "tensors that share their values"),
    "without values": (lambda: {"a": torch.zeros(0, 2)}, r"tensors without values \(a \(0, 2\)\)"),
    "keyed by a tuple": (lambda: {"w": torch.zeros(1), "x": {(1, 2): 3}}, "has a dict keyed by tuple"),
    "a list": (lambda: [torch.zeros(1)], "holds a single list, not tensors by name"),
    "no tensors": (dict, "holds no tensors"),
    "under a key of one's own": (lambda: {"net": dict(STATE)}, r"1 entries that are not tensors by name: net \(dict\)"),
    "under numbers": (lambda: {0: torch.zeros(1)}, r"0 \(not a name\)"),
}


@FORMATS
@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_plain_tensors_by_name_is_refused(
    make: Callable[[], Any], reason: str, zipped: bool, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=reason):
        read_checkpoint(saved(tmp_path, make(), zipped))


def test_another_protocol_than_torchs_own_is_refused(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "net.pth", pickle_protocol=4)
    with pytest.raises(CheckpointError, match="pickle protocol 4; wanted 2"):
        read_checkpoint(tmp_path / "net.pth")


def test_torchscript_is_told_apart(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.pt", "w") as archive:
        for name in ("net/data.pkl", "net/constants.pkl"):
            archive.writestr(name, b"x")
        archive.writestr("net/code/__torch__.py", b"x" * 100, zipfile.ZIP_DEFLATED)  # as torch.jit.save writes it
    with pytest.raises(CheckpointError, match="TorchScript program"):
        read_checkpoint(tmp_path / "net.pt")


@FORMATS
def test_a_torch_file_by_the_name_of_another_kind_is_refused_because_torch_goes_by_names(
    zipped: bool, tmp_path: Path
) -> None:
    path = saved(tmp_path, STATE, zipped).rename(tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match=r"a torch file by its content.*call it \.pth"):
        read_checkpoint(path)


@FORMATS
def test_a_file_cut_short_anywhere_is_an_error(zipped: bool, tmp_path: Path) -> None:
    path = saved(tmp_path, {name: STATE[name] for name in ("conv1.weight", "part")}, zipped)
    whole = path.read_bytes()
    for length in range(0, len(whole), len(whole) // 22):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"net\.pth: "):
            read_checkpoint(path)


# --- forged by hand: a pickle of torch's whose storages say what one likes --------------------------------------------


class Storage:
    def __init__(self, num_items: int, key: str = "0", kind: Any = torch.FloatStorage) -> None:
        self.identity = ("storage", kind, key, "cpu", num_items)


class TorchPickler(pickle.Pickler):
    def persistent_id(self, held: Any) -> Any:
        return held.identity if isinstance(held, Storage) else None


def pickled(held: object) -> bytes:
    stream = io.BytesIO()
    TorchPickler(stream, 2).dump(held)
    return stream.getvalue()


def tensor(
    num_items: int = 4, size: Any = (4,), stride: Any = (1,), offset: int = 0, key: str = "0", hooks: Any = None
) -> Reduced:
    arguments = (Storage(num_items, key), offset, size, stride, False, OrderedDict() if hooks is None else hooks)
    return Reduced(torch._utils._rebuild_tensor_v2, arguments)


VALUES = np.arange(4, dtype="f4").tobytes()


def archive(folder: Path, data: bytes, *, compression: int = zipfile.ZIP_STORED, values: bytes = VALUES) -> Path:
    path = folder / "net.pth"
    with zipfile.ZipFile(path, "w", compression) as written:
        for name, content in (("data.pkl", data), ("byteorder", b"little"), ("data/0", values), ("version", b"3\n")):
            written.writestr(f"net/{name}", content)
    return path


def legacy(folder: Path, data: bytes, *, keys: tuple[str, ...] = ("0",), values: bytes = VALUES) -> Path:
    path = folder / "net.pth"
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    # the storages' identities carry one value more here
    head = b"".join(pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, system))
    stored = (len(values) // 4).to_bytes(8, "little") + values
    path.write_bytes(head + data + pickle.dumps(list(keys), 2) + stored * len(keys))
    return path


class LegacyStorage(Storage):
    def __init__(self, num_items: int, key: str = "0", view: Any = None) -> None:
        super().__init__(num_items, key)
        self.identity = (*self.identity, view)  # type: ignore[assignment]


def legacy_tensor(num_items: int = 4, size: Any = (4,), key: str = "0", view: Any = None) -> Reduced:
    arguments = (LegacyStorage(num_items, key, view), 0, size, (1,), False, OrderedDict())
    return Reduced(torch._utils._rebuild_tensor_v2, arguments)


def test_what_is_made_by_hand_here_is_read_where_it_is_sound(tmp_path: Path) -> None:
    wanted = {"a": torch.arange(4.0)}
    same(read_checkpoint(archive(tmp_path, pickled({"a": tensor()}))).tensors, wanted)
    same(read_checkpoint(legacy(tmp_path, pickled({"a": legacy_tensor()}))).tensors, wanted)


FORGED: dict[str, tuple[Callable[[], object], str]] = {
    "a huge storage": (lambda: tensor(1 << 40, (1 << 40,)), "storage of 4398046511104 bytes is said to lie in 16"),
    "a huge shape": (lambda: tensor(4, (1 << 40,)), r"shape \(1099511627776,\) is said to lie in 4 numbers"),
    "a huge stride": (lambda: tensor(4, (2,), (1 << 40,)), "is said to lie in 4 numbers"),
    "a far offset": (lambda: tensor(4, (1,), (1,), 4), "is said to lie in 4 numbers"),
    "a negative offset": (lambda: tensor(4, (1,), (1,), -1), "makes no sense"),
    "a negative stride": (lambda: tensor(4, (2,), (-1,), 3), "makes no sense"),
    "a shape without strides": (lambda: tensor(4, (2, 2), (1,)), "makes no sense"),
    "a shape of text": (lambda: tensor(4, ("4",), (1,)), "makes no sense"),
    "a part that is not there": (lambda: tensor(key="1"), "makes no sense"),
    "a negative storage": (lambda: tensor(-1), "makes no sense"),
    "hooks": (lambda: tensor(hooks=OrderedDict(a=1)), "makes no sense"),
    "lengths beyond counting": (lambda: tensor(4, (1 << 63,), (0,)), "makes no sense"),
    "more dimensions than torch has": (lambda: tensor(4, (1,) * 65, (0,) * 65), "makes no sense"),
}


@pytest.mark.parametrize(("make", "reason"), FORGED.values(), ids=FORGED)
def test_a_forged_tensor_is_refused_before_torch_sees_it(
    make: Callable[[], object], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=reason):
        read_checkpoint(archive(tmp_path, pickled({"a": make()})))


def test_a_forged_legacy_tensor_is_refused_before_torch_sees_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="storage of 4398046511104 bytes is said to lie in"):
        read_checkpoint(legacy(tmp_path, pickled({"a": legacy_tensor(1 << 40)})))
    many = {f"{place}": legacy_tensor(40, key=f"{place}") for place in range(100)}
    with pytest.raises(CheckpointError, match="its tensors take 16000 bytes and it holds"):
        read_checkpoint(legacy(tmp_path, pickled(many), keys=tuple(many), values=b""))
    with pytest.raises(CheckpointError, match="no values for some of its tensors"):
        read_checkpoint(legacy(tmp_path, pickled({"a": legacy_tensor(key="1")})))
    with pytest.raises(CheckpointError, match="makes no sense"):
        read_checkpoint(legacy(tmp_path, pickled({"a": legacy_tensor(view=("v", 0, 1 << 40))})))


def test_one_tensor_under_many_names_is_refused(tmp_path: Path) -> None:
    one = torch.zeros(10_000)
    with pytest.raises(CheckpointError, match="share their values"):
        read_checkpoint(saved(tmp_path, {f"w{place}": one for place in range(9)}))


def test_a_compressed_archive_is_refused_unread(tmp_path: Path) -> None:
    bomb = archive(tmp_path, pickled({"a": tensor()}), compression=zipfile.ZIP_DEFLATED, values=bytes(50_000_000))
    assert bomb.stat().st_size < 100_000
    with pytest.raises(CheckpointError, match="zip archive with compressed parts"):
        read_checkpoint(bomb)


def test_an_archive_whose_parts_are_said_to_be_larger_than_it_is_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path, pickled({"a": tensor()}))
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 20 : entry + 28] = (1 << 31).to_bytes(4, "little") * 2  # both of its sizes
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"parts are said to take 2147\d+ bytes"):
        read_checkpoint(path)


def test_an_archive_whose_directory_points_nowhere_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path, pickled({"a": tensor()}))
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 42 : entry + 46] = (7).to_bytes(4, "little")  # where its part begins
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="directory points nowhere"):
        read_checkpoint(path)


def test_an_archive_with_a_directory_of_any_length_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = archive(tmp_path, pickled({"a": tensor()}))
    monkeypatch.setattr(mapped, "MAX_DIRECTORY_BYTES", 100)
    with pytest.raises(CheckpointError, match=r"damaged or cut short \(a directory of more than 100 bytes\)"):
        read_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")  # from zipfile, which is made to write them
def test_an_archive_that_holds_a_name_twice_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path, pickled({"a": tensor()}))
    with zipfile.ZipFile(path, "a") as again:
        again.writestr("net/data.pkl", b"x")
    with pytest.raises(CheckpointError, match="holds one name twice"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["a.npy"], "numpy archive"),
        (["../../evil.pth"], r"not one of torch\.save \(it holds \.\./\.\./evil\.pth\); unpack it"),
        (["x/data.pkl", "y/data.pkl"], r"not one of torch\.save"),
    ],
)
def test_an_archive_of_other_things_is_told_apart_and_left_packed(
    names: list[str], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "deep" / "er" / "net.pth"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as written:
        for name in names:
            written.writestr(name, b"x")
    with pytest.raises(CheckpointError, match=reason):
        read_checkpoint(path)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]


def _again(first: bytes, step: bytes, times: int) -> bytes:
    return b"\x80\x02" + first + step * times + b"."


BOMBS = {
    "a list made a dict again and again": _again(
        b"ccollections\nOrderedDict\nq\x00](" + b"K\x07K\x01\x86" * 50_000 + b"eq\x01",
        b"h\x00h\x01\x85R", 5000,
    ),
    "hexadecimal of hexadecimal": _again(
        b"c_codecs\nencode\nq\x00X\x03\0\0\0hexq\x01h\x00X\x01\0\0\0aX\x06\0\0\0latin1\x86Rq\x02",
        b"h\x00h\x02h\x01\x86Rq\x02", 40,
    ),
    "a storage larger than the file": pickled({"a": tensor(1 << 31, (1 << 31,))}),
    "a shape larger than its storage": pickled({"a": tensor(4, (1 << 31,))}),
}  # fmt: skip


def test_a_shape_of_numbers_without_end_is_refused_before_they_are_multiplied(tmp_path: Path) -> None:
    number = b"\x8a\xff" + b"\xff" * 254 + b"\x7fq\x50"  # 2039 bits, and kept to be named again
    begin = pickled({"a": tensor(4, (4,), (1,))})
    at = begin.index(b"K\x04\x85q")  # the shape
    many = b"(" + number + b"h\x50" * 30_000 + b"t"
    forged = begin[:at] + many + begin[at + 3 :].replace(b"K\x01\x85", b"(" + b"K\0" * 30_001 + b"t", 1)
    with pytest.raises(CheckpointError, match="makes no sense"):
        read_checkpoint(archive(tmp_path, forged))


def test_bytes_that_torchs_safe_reader_refuses_are_said_to_be_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"it asks for builtins\.bytes"):
        read_checkpoint(saved(tmp_path, {"w": torch.zeros(1), "rng": b""}))


def test_threads_that_read_at_once_do_not_take_away_each_others_names(tmp_path: Path) -> None:
    path = saved(tmp_path, {"state_dict": {"w": torch.zeros(1)}, "args": argparse.Namespace(lr=0.1)})
    with ThreadPoolExecutor(6) as threads:
        assert all(held.tensors for held in threads.map(read_checkpoint, [path] * 60))


def test_a_name_that_the_caller_lets_torch_read_is_left_to_him(tmp_path: Path) -> None:
    path = saved(tmp_path, {"state_dict": {"w": torch.zeros(1)}, "args": argparse.Namespace(lr=0.1)})
    with torch.serialization.safe_globals([argparse.Namespace]):
        read_checkpoint(path)
        assert argparse.Namespace in torch.serialization.get_safe_globals()
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


@pytest.mark.slow
def test_forgeries_take_no_more_memory_than_their_size_allows(tmp_path: Path, measured: Any) -> None:
    paths = {}
    for kind, write in (("zip", archive), ("legacy", legacy)):
        for name, data in {"sound": b"", **BOMBS}.items():
            folder = tmp_path / kind / name
            folder.mkdir(parents=True)
            sound = pickled({"a": tensor() if kind == "zip" else legacy_tensor()})
            paths[kind, name] = write(folder, data or sound)
    met = measured(*sorted(paths.values(), key=lambda path: "sound" not in str(path)))
    for (_, name), path in paths.items():
        taken, error = met[path]
        assert bool(error) == (name != "sound"), error
        assert name == "sound" or taken < 100_000_000, (name, taken, error)


@pytest.mark.slow
@FORMATS
def test_a_large_file_is_mapped_or_where_it_is_legacy_held_once(zipped: bool, tmp_path: Path, measured: Any) -> None:
    (tmp_path / "small").mkdir()
    large = saved(tmp_path, {"a": torch.ones(1 << 24)}, zipped)
    taken, error = measured(saved(tmp_path / "small", STATE, zipped), large)[large]
    assert not error
    assert taken < (0 if zipped else large.stat().st_size) + 16_000_000
