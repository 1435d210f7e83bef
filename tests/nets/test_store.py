from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from anabranch.errors import CheckpointError
from anabranch.nets.store import read_tensors, write_tensors

TENSORS = {
    "a": torch.randn(3, 4),
    "b/c": torch.tensor(7),
    "d": torch.zeros(0, 2),
    "e": torch.randn(2, 2).bfloat16().float(),
}


def test_what_is_written_is_read_and_any_reader_of_safetensors_reads_it_too(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.safetensors", TENSORS, {"kind": "test", "list": [1, 2]})
    tensors, about = read_tensors(tmp_path / "x.safetensors")
    assert about == {"kind": "test", "list": [1, 2]}
    plain = load_file(tmp_path / "x.safetensors")
    assert tensors.keys() == plain.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert torch.equal(tensors[name], value)
        assert torch.equal(plain[name], value)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS, {"kind": "old"})
    with pytest.raises(TypeError):
        write_tensors(path, TENSORS, {"kind": object()})
    assert read_tensors(path)[1] == {"kind": "old"}
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


def test_every_damaged_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.arange(4.0)}, {"kind": "test"})
    whole = path.read_bytes()
    for position in range(len(whole) - 16, len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="do not match their hash"):
            read_tensors(path)
    for length in (0, 4, 8, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="not a readable safetensors file"):
            read_tensors(path)


def test_a_file_of_another_tool_is_told_apart(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="no word of anabranch's"):
        read_tensors(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"nowhere\.safetensors"):
        read_tensors(tmp_path / "nowhere.safetensors")


def test_the_file_has_the_rights_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    write_tensors(tmp_path / "x.safetensors", TENSORS, {})
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_what_cannot_be_written_is_an_error_that_says_where_and_why(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere/x: cannot be written \(No such file or directory\)"):
        write_tensors(tmp_path / "nowhere/x", TENSORS, {})


def test_tensors_in_one_anothers_memory_are_written_each_by_itself(tmp_path: Path) -> None:
    flat = torch.arange(10.0)
    tensors = {"whole": flat, "again": flat, "part": flat[2:7], "other part": flat[5:], "one": flat[:1]}
    write_tensors(tmp_path / "x", tensors, {})
    met, _ = read_tensors(tmp_path / "x")
    assert {name: tensor.tolist() for name, tensor in met.items()} == {
        name: tensor.tolist() for name, tensor in tensors.items()
    }


@pytest.mark.parametrize("note", ["[]", "3", "null", "{", "[" * 100_000, '{"sha256": null}', "{}"])
def test_a_note_that_is_no_table_is_damage(tmp_path: Path, note: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "x", metadata={"anabranch": note})
    with pytest.raises(CheckpointError, match="what it says of its tensors is damaged"):
        read_tensors(tmp_path / "x")


def test_what_is_said_is_hashed_and_files_of_before_that_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS, {"kind": "test", "loss": float("nan"), "name": "née \udcff", "rate": 0.1})
    with safe_open(path, framework="pt") as file:
        note = json.loads(file.metadata()["anabranch"])
    for changed, wanted in (
        ({**note, "rate": 0.2}, "what it says of its tensors is damaged"),
        ({**note, "more": 1}, "what it says of its tensors is damaged"),
        ({key: value for key, value in note.items() if key != "said_sha256"}, None),
    ):
        save_file(load_file(path), tmp_path / "changed.safetensors", metadata={"anabranch": json.dumps(changed)})
        if wanted is None:
            assert read_tensors(tmp_path / "changed.safetensors")[1]["rate"] == 0.1
        else:
            with pytest.raises(CheckpointError, match=wanted):
                read_tensors(tmp_path / "changed.safetensors")
