from __future__ import annotations

import gzip
import json
import os
import pickle
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from anabranch.checkpoints.read import read_checkpoint
from anabranch.errors import CheckpointError
from anabranch.nets.store import write_tensors

TENSORS = {"conv1.weight": torch.randn(4, 3, 3, 3), "fc.bias": torch.randn(5)}


def write(path: Path, kind: str) -> None:
    if kind == "safetensors":
        save_file(TENSORS, path)
    elif kind == "paddle":
        path.write_bytes(pickle.dumps({name: tensor.numpy() for name, tensor in TENSORS.items()}, 4))
    else:
        torch.save(TENSORS, path, _use_new_zipfile_serialization=kind == "torch")


@pytest.mark.parametrize("kind", ["torch", "torch legacy", "safetensors", "paddle"])
@pytest.mark.parametrize("suffix", [".pth", ".pdparams", ".bin", ""])
def test_a_file_is_what_its_content_says_whatever_its_name(kind: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{suffix}"
    write(path, kind)
    held = read_checkpoint(path)
    assert held.kind == kind.removesuffix(" legacy")
    assert list(held.tensors) == list(TENSORS)
    assert all(torch.equal(held.tensors[name], tensor) for name, tensor in TENSORS.items())


def test_what_anabranch_wrote_beside_its_tensors_comes_with_them(tmp_path: Path) -> None:
    write_tensors(tmp_path / "model.safetensors", TENSORS, {"kind": "net", "class_names": ["ant"]})
    held = read_checkpoint(tmp_path / "model.safetensors")
    assert held.about == {"kind": "net", "class_names": ["ant"]}
    assert held.tensors.keys() == TENSORS.keys()


def test_what_others_wrote_beside_their_tensors_does_not(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert read_checkpoint(tmp_path / "model.safetensors").about is None


def test_all_that_was_taken_off_is_told_outermost_first(tmp_path: Path) -> None:
    torch.save(
        {"model": {"state_dict": {f"module.{name}": 2 * each for name, each in TENSORS.items()}}}, tmp_path / "x"
    )
    held = read_checkpoint(tmp_path / "x")
    assert held.unwrapped == ("model", "state_dict", "module.")
    assert held.tensors.keys() == TENSORS.keys()


def test_averaged_weights_are_read_where_they_are_asked_for(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(2)}, "state_dict_ema": {"a": torch.ones(2)}}, tmp_path / "x")
    assert read_checkpoint(tmp_path / "x").tensors["a"].tolist() == [0, 0]
    assert read_checkpoint(tmp_path / "x", ema=True).tensors["a"].tolist() == [1, 1]


@pytest.mark.parametrize("kind", ["torch", "safetensors", "paddle"])
def test_averaged_weights_that_a_file_does_not_hold_are_an_error(kind: str, tmp_path: Path) -> None:
    write(tmp_path / "x", kind)
    with pytest.raises(CheckpointError, match="holds no averaged weights"):
        read_checkpoint(tmp_path / "x", ema=True)


NOT_CHECKPOINTS = {
    "nothing": ("a.pth", b"", "is empty"),
    "a page": ("a.pth", b"\r\n<!DOCTYPE html><html>404</html>", "is a web page and not weights"),
    "a page without a type": ("a.pth", b"<html><head>", "is a web page"),
    "an answer": ("a.pth", b'{"error": "not found"}', "is JSON text"),
    "a pointer": ("a.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS pointer"),
    "an ONNX graph": ("a.onnx", b"\x08\x08\x12\x07pytorch\x1a\x052.0.1:", "is an ONNX graph"),
    "OpenVINO's": ("a.xml", b'<?xml version="1.0"?><net>', "is an XML file"),
    "Keras'": ("a.h5", b"\x89HDF\r\n\x1a\n\0\0", "is an HDF5 file"),
    "one array": ("a.npy", b"\x93NUMPY\x01\0", "is a single numpy array"),
    "compressed": ("a.pth.gz", gzip.compress(b"x"), "is a compressed file; unpack it"),
    "a Paddle program": ("inference.pdmodel", b"\x0a\x9a\x01\x08\x00", r"take the model's \.pdparams"),
    "its variables": ("inference.pdiparams", bytes(24), r"take the model's \.pdparams"),
    "words": ("a.pth", b"404: Not Found", "begins with b'404: Not Found'"),
    "noise": ("a.pth", bytes(range(200, 230)), "which no format of weights does; wanted .pth"),
    "tensors pickled by hand": ("a.pkl", pickle.dumps(TENSORS), r"pickled by hand; save them with torch\.save"),
    "a pickle of text": ("a.pdparams", pickle.dumps("x"), "holds a single str"),
}


@pytest.mark.parametrize(("name", "content", "reason"), NOT_CHECKPOINTS.values(), ids=NOT_CHECKPOINTS)
def test_what_is_no_checkpoint_is_told_what_it_is(name: str, content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=reason) as raised:
        read_checkpoint(tmp_path / name)
    assert str(raised.value).startswith(str(tmp_path / name))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="is a pipe or a device; save what comes out of it to a file first"):
        read_checkpoint(tmp_path / "net.pth")


def test_a_name_that_no_file_can_have_is_told() -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(Path("a\0b.pth"))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_name_that_is_no_text_is_not_called_damage(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"r\udcff18.{suffix}"
    tensors = {"weight": torch.ones(2)}
    made = tmp_path / f"made.{suffix}"
    torch.save(tensors, made) if suffix == "pth" else save_file(tensors, made)
    made.rename(path)
    with pytest.raises(CheckpointError, match="has a name that is no UTF-8; rename it"):
        read_checkpoint(path)


def test_a_folder_and_a_file_that_is_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a folder"):
        read_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="No such file"):
        read_checkpoint(tmp_path / "nowhere.pth")


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["net/inference.pdmodel", "net/inference.pdiparams", "../../evil"], r"Paddle program.*take the \.pdparams"),
        (["sys_info", "pickle", "storages", "tensors"], "a torch of before 2017"),
        (["../../evil", "/tmp/evil"], r"is a tar archive \(it holds \.\./\.\./evil, /tmp/evil\); unpack it"),
    ],
)
def test_a_tar_archive_is_told_by_its_names_and_left_packed(names: list[str], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "net.tar"
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 5
            archive.addfile(member, BytesIO(b"evil\n"))
    with pytest.raises(CheckpointError, match=reason):
        read_checkpoint(path)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_tar_archive_of_headers_about_headers_is_damage(kind: bytes, tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 12
    block = header.tobuf(tarfile.USTAR_FORMAT) + b"12 path=abc\n".ljust(512, b"\0")
    (tmp_path / "x.tar").write_bytes(3000 * block + tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT) + bytes(1024))
    with pytest.raises(CheckpointError, match="tar archive that is damaged"):
        read_checkpoint(tmp_path / "x.tar")


def test_a_tar_archive_whose_header_has_no_end_is_damage(tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 30
    with (tmp_path / "x.tar").open("wb") as file:
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        file.truncate((1 << 30) + 1024)  # which takes no room on the disk
    with pytest.raises(CheckpointError, match="tar archive that is damaged"):
        read_checkpoint(tmp_path / "x.tar")


def safetensors(header: object, data: bytes) -> bytes:
    written = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(written).to_bytes(8, "little") + written + data


def entry(begin: int, end: int, shape: list[int], kind: str = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


def test_a_safetensors_file_made_by_hand_is_read_where_it_is_sound(tmp_path: Path) -> None:
    values = np.arange(4, dtype="<f4")
    (tmp_path / "x").write_bytes(safetensors({"a": entry(0, 16, [4])}, values.tobytes()))
    assert read_checkpoint(tmp_path / "x").tensors["a"].tolist() == values.tolist()


DAMAGED = {
    "a header that is no JSON": safetensors(b'{"a": ', bytes(16)),
    "offsets beyond the end": safetensors({"a": entry(0, 1 << 40, [1 << 38])}, bytes(16)),
    "overlapping offsets": safetensors({"a": entry(0, 16, [4]), "b": entry(8, 16, [2])}, bytes(16)),
    "a shape that does not fit": safetensors({"a": entry(0, 16, [1 << 40])}, bytes(16)),
    "a shape beyond counting": safetensors({"a": entry(0, 16, [1 << 62, 1 << 62])}, bytes(16)),
    "values that nobody names": safetensors({"a": entry(0, 8, [2])}, bytes(16)),
    "an unknown type": safetensors({"a": entry(0, 16, [4], "F7")}, bytes(16)),
    "a length beyond torch's": safetensors({"a": entry(0, 0, [1 << 63, 0])}, b""),
    "lengths beyond torch's": safetensors({"a": entry(0, 0, [1 << 62, 1 << 62, 0])}, b""),
    "a header longer than the file": (1 << 20).to_bytes(8, "little") + b'{"a": {}}',
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_safetensors_file_is_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(CheckpointError, match="safetensors file that is damaged or cut short"):
        read_checkpoint(tmp_path / "x")


def test_a_safetensors_file_cut_short_anywhere_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write(path, "safetensors")
    whole = path.read_bytes()
    for length in range(0, len(whole), len(whole) // 22):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"x\.safetensors: "):
            read_checkpoint(path)


def test_numbers_of_a_kind_that_no_net_here_has_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2).to(torch.float8_e4m3fn), "b": torch.zeros(2)}, tmp_path / "x")
    with pytest.raises(CheckpointError, match=r"numbers that no net here has \(a is torch\.float8_e4m3fn\)"):
        read_checkpoint(tmp_path / "x")


def test_tensors_without_values_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(safetensors({"fc.weight": entry(0, 0, [0, 512])}, b""))
    with pytest.raises(CheckpointError, match=r"tensors without values \(fc\.weight \(0, 512\)\)"):
        read_checkpoint(tmp_path / "x")


@pytest.mark.slow
def test_a_large_safetensors_file_is_mapped_and_not_copied(tmp_path: Path, measured: Any) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    save_file(TENSORS, small)
    save_file({"a": torch.ones(1 << 24)}, large)
    taken, error = measured(small, large)[large]
    assert not error
    assert taken < 16_000_000
