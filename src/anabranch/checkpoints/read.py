"""Any zoo's checkpoint file to tensors by name: told apart by content, nothing run, memory bounded by its size."""

from __future__ import annotations

import stat
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anabranch.checkpoints.containers import innermost, without_prefixes
from anabranch.checkpoints.mapped import Archive, mapped
from anabranch.checkpoints.paddle_file import read_paddle, tensors
from anabranch.checkpoints.steps import Unreadable
from anabranch.checkpoints.torch_file import MAGIC, read_torch_legacy, read_torch_zip
from anabranch.disk import is_text
from anabranch.errors import CheckpointError, need, shown
from anabranch.nets.load import read_trained
from anabranch.nets.store import KEY

_WANTED = "wanted .pth, .safetensors or .pdparams"
_HEAD_BYTES = 512
_MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
_DTYPES = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool),
}
_COMPRESSED = "is a compressed file; unpack it and give the checkpoint inside"
_PAGE = "is a web page and not weights: the address answered with a page; download the file itself"
# How a file begins -> what it is. Looked through in this order, text in lower case.
_OTHERS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the weights it points to; run `git lfs pull`"),
    (b"<!doctype html", _PAGE),
    (b"<html", _PAGE),
    (b"<?xml", f"is an XML file, such as OpenVINO's, and not a checkpoint; {_WANTED}"),
    (b"<", _PAGE),
    (b"{", f"is JSON text and not weights; {_WANTED}"),
    (b"\x1f\x8b", _COMPRESSED),
    (b"bzh", _COMPRESSED),
    (b"\xfd7zxz", _COMPRESSED),
    (b"(\xb5/\xfd", _COMPRESSED),
    (b"7z\xbc\xaf", _COMPRESSED),
    (b"\x89hdf", f"is an HDF5 file, such as Keras writes; {_WANTED}"),
    (b"\x93numpy", f"is a single numpy array; {_WANTED}"),
)
# By suffix, for formats that do not say what they are.
_PROGRAMS = {
    ".onnx": f"is an ONNX graph and not a checkpoint; {_WANTED}, from which `anabranch export` makes one",
    ".pdmodel": "is a Paddle program exported for inference; take the model's .pdparams",
    ".pdiparams": "holds the variables of a Paddle program, under no names; take the model's .pdparams",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a checkpoint file holds, on the CPU, mapped into memory where its format allows."""

    tensors: dict[str, Tensor]  # as the file spells them, without what was taken off
    unwrapped: tuple[str, ...]  # what was taken off, outermost first, for a person: ("model", "module.")
    about: dict[str, Any] | None  # what anabranch wrote beside its own tensors
    kind: str  # safetensors, torch, paddle


def read_checkpoint(path: Path, *, ema: bool = False) -> Held:
    """The weights of a file, or with `ema` their running mean where it holds one beside them.

    Raises CheckpointError that says what the file is instead, what was refused, or where it is damaged.
    """
    try:
        return _read(path, ema=ema)
    except Unreadable as error:
        raise CheckpointError(f"{path}: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None


def _read(path: Path, *, ema: bool) -> Held:
    kind = _kind(path)
    if kind in ("safetensors", "torch") and not is_text(path):  # neither's reader would open it
        raise Unreadable("has a name that is no UTF-8; rename it")
    file_bytes = path.stat().st_size
    about = None
    if kind == "safetensors":
        entries, about = _read_safetensors(path)
    else:
        entries = _read_pickled(path, kind)
    if not isinstance(entries, dict):
        raise Unreadable(f"holds a single {type(entries).__name__}, not tensors by name; save a state_dict()")
    inner, containers = innermost(entries, ema=ema)
    if kind == "paddle":
        inner = tensors(inner, file_bytes=file_bytes)
    named, prefixes = without_prefixes(_only_tensors(inner, file_bytes))
    unwrapped = (*containers, *prefixes)
    return Held(tensors=named, unwrapped=unwrapped, about=about, kind=kind.removesuffix(" legacy"))


def _kind(path: Path) -> str:
    """What a file is by its content. Raises Unreadable for what is no checkpoint."""
    try:
        status = path.stat()
    except ValueError as error:  # a NUL
        raise Unreadable(f"cannot be read ({error})") from None
    if stat.S_ISDIR(status.st_mode):
        raise Unreadable(f"is a folder; {_WANTED}")
    if not stat.S_ISREG(status.st_mode):  # which may never end, and cannot be mapped
        raise Unreadable("is a pipe or a device; save what comes out of it to a file first")
    size = status.st_size
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        raise Unreadable("is empty; the download did not begin, take another copy")
    if head.startswith(b"PK\x03\x04"):
        return "torch"
    if size > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _MAX_HEADER_BYTES:
        return "safetensors"
    if head[0] == 0x80 and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "torch legacy" if MAGIC in head[:32] else "paddle"
    if head[257:262] == b"ustar":
        raise Unreadable(_tar(path))
    begins = head.lstrip().lower()
    for signature, meaning in _OTHERS:
        if begins.startswith(signature):
            raise Unreadable(meaning)
    unknown = f"begins with {head[:16]!a}, which no format of weights does; {_WANTED}"
    raise Unreadable(_PROGRAMS.get(path.suffix.lower(), unknown))


def _tar(path: Path) -> str:
    """What a tar archive is, from the names in it. Nothing is unpacked."""
    with mapped(path) as whole:
        names: list[str] = []
        try:
            with tarfile.open(fileobj=Archive(whole), mode="r:") as archive:  # type: ignore[call-overload]  # it reads no more
                while len(names) < 50 and (member := archive.next()):
                    names.append(member.name)
        except (tarfile.TarError, OSError, OverflowError, RecursionError, ValueError):
            return "is a tar archive that is damaged or cut short; take another copy"
    if any(name.endswith((".pdiparams", ".pdmodel", "__model__")) for name in names):
        return (
            "is a Paddle program exported for inference, whose variables go by other names; "
            "take the .pdparams of the same model"
        )
    if {"storages", "tensors", "pickle"} <= set(names):
        return "was written by a torch of before 2017, which its safe reader does not read; load and save it again"
    inside = ", ".join(map(shown, names[:3])) or "nothing"
    return f"is a tar archive (it holds {inside}); unpack it and give the checkpoint inside"


def _read_pickled(path: Path, kind: str) -> Any:
    whole = mapped(path)  # let go of with the last array that lies in it
    if kind == "paddle":
        return read_paddle(whole)
    return read_torch_zip(path, whole) if kind == "torch" else read_torch_legacy(path, whole)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    need("safetensors.torch", extra="torch")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            if KEY in (file.metadata() or {}):
                return read_trained(path)
            return {name: file.get_tensor(name) for name in file.keys()}, None  # noqa: SIM118  (it is not a mapping)
    except (SafetensorError, RuntimeError, TypeError) as error:  # the last two of torch, for lengths beyond it
        raise Unreadable(
            f"is a safetensors file that is damaged or cut short ({shown(error)}); take another copy"
        ) from None


def _only_tensors(entries: Any, file_bytes: int) -> dict[str, Tensor]:
    """Plain ones, without their gradients' history. Raises Unreadable that names whatever else there is."""
    others = [
        f"{shown(name)} ({type(value).__name__})" for name, value in entries.items() if not isinstance(value, Tensor)
    ]
    others += [f"{shown(name)} (not a name)" for name in entries if not isinstance(name, str)]
    if others:
        raise Unreadable(
            f"holds {len(others)} entries that are not tensors by name: {', '.join(others[:4])}"
            f"{', ...' if len(others) > 4 else ''}; save the state dict alone"
        )
    if not entries:
        raise Unreadable("holds no tensors; save a state dict")
    if odd := [f"{shown(name)} is {value.dtype}" for name, value in entries.items() if value.dtype not in _DTYPES]:
        raise Unreadable(f"holds numbers that no net here has ({', '.join(odd[:3])}); save them as float32")
    if hollow := [f"{shown(name)} {tuple(value.shape)}" for name, value in entries.items() if 0 in value.shape]:
        raise Unreadable(f"holds tensors without values ({', '.join(hollow[:3])}), which no net here has")
    if sum(value.nbytes for value in entries.values()) > file_bytes:
        raise Unreadable(
            "holds tensors that share their values, which take more than the file is long; save each alone"
        )
    return {name: value.detach().resolve_neg() for name, value in entries.items()}
