"""torch's own files, through `torch.load(weights_only=True)`, which runs nothing that a file brings.

It may still be made to take memory: by a storage said to be larger than the file, by a compressed archive, by a list
that is copied again and again. So each pickle is first gone through by `pickled.Machine`, with stand-ins that look
whether every tensor lies within a storage and every storage within the file, and torch sees what has passed. What it
refuses is then known by name.

Source: torch/serialization.py, `_load` and `_legacy_load`.
"""

from __future__ import annotations

import argparse
import mmap
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anabranch.checkpoints.arrays import KINDS, NUMBERS
from anabranch.checkpoints.mapped import Archive
from anabranch.checkpoints.pickled import Call, Machine, Stated, by_name
from anabranch.checkpoints.steps import Source, Unreadable
from anabranch.errors import shown

MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # with which the pickles of torch before 1.6 begin
_PROTOCOL = (2,)  # torch's default, and all that its safe reader reads
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ITEM_BYTES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
}
_SCALAR = np.float64(0).__reduce__()[0]  # numpy's, which it has moved about
_SAFE: list[Any] = [
    argparse.Namespace,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *{type(np.dtype(kind)) for kind in KINDS},
]
_LISTING = threading.Lock()  # torch keeps one list of safe names for all threads
_MOST_DIMENSIONS = 64  # of a tensor of torch's


def read_torch_zip(path: Path, mapped: mmap.mmap) -> Any:
    """What `torch.save` wrote, its tensors mapped into memory. Raises Unreadable."""
    _refuse_name(path)
    records = {info.filename: info for info in _directory(mapped)}
    root = _root(list(records))
    prefix = f"{root}/data/"
    sizes = {name.removeprefix(prefix): info.file_size for name, info in records.items() if name.startswith(prefix)}
    pickled = Source(_content(mapped, records[f"{root}/data.pkl"]))
    Machine(pickled, _ALLOWED, protocols=_PROTOCOL, persistent=_Storages(sizes.__getitem__).one).run()
    return _load(path, mapped=True)


def _refuse_name(path: Path) -> None:
    if path.suffix == ".safetensors":
        raise Unreadable("is a torch file by its content, and torch goes by its name; call it .pth")


def read_torch_legacy(path: Path, mapped: mmap.mmap) -> Any:
    """What `torch.save` wrote before torch 1.6. Raises Unreadable."""
    _refuse_name(path)
    source = Source(memoryview(mapped))
    for _ in ("magic number", "version", "the machine that wrote it"):
        Machine(source, {}, protocols=_PROTOCOL).run()
    storages = _Storages(lambda _: len(mapped))
    Machine(source, _ALLOWED, protocols=_PROTOCOL, persistent=storages.one).run()
    keys = Machine(source, {}, protocols=_PROTOCOL).run()
    if not isinstance(keys, list) or set(storages.known) - set(by_name((key, None) for key in keys)):
        raise Unreadable("is damaged or forged: it has no values for some of its tensors; take another copy")
    if storages.total_bytes > len(mapped):
        raise Unreadable(
            f"is damaged or forged: its tensors take {storages.total_bytes} bytes and it holds {len(mapped)}; "
            "take another copy"
        )
    return _load(path, mapped=False)


def _load(path: Path, *, mapped: bool) -> Any:
    with _LISTING:
        known = torch.serialization.get_safe_globals()
        with torch.serialization.safe_globals([each for each in _SAFE if each not in known]):
            try:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
            except Exception as error:  # whatever its readers of zip and pickle raise, on damage that is theirs to find
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise Unreadable(f"is damaged: torch cannot read it ({shown(reason)}); take another copy") from None


# --- the archive -----------------------------------------------------------------------------------------------------


def _directory(mapped: mmap.mmap) -> list[zipfile.ZipInfo]:
    try:
        entries = zipfile.ZipFile(Archive(mapped)).infolist()
    except (zipfile.BadZipFile, NotImplementedError, OverflowError, ValueError, struct.error) as error:
        raise Unreadable(f"is a zip archive that is damaged or cut short ({error}); take another copy") from None
    _refuse_others([entry.filename for entry in entries])
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise Unreadable("is a zip archive with compressed parts, which torch does not write; unpack it")
    if len({entry.filename for entry in entries}) < len(entries):
        raise Unreadable("is a zip archive that holds one name twice; take another copy")
    total = sum(entry.file_size for entry in entries)
    if total > len(mapped):
        raise Unreadable(f"is a forged zip archive: its parts are said to take {total} bytes of {len(mapped)}")
    return entries


def _refuse_others(names: list[str]) -> None:
    """What is known by its parts' names, whether they are compressed or not."""
    if any(name.endswith("/constants.pkl") for name in names):
        raise Unreadable("is a TorchScript program and not weights; save the net's state_dict() with torch.save")
    if any(name.endswith(".npy") for name in names):
        raise Unreadable(
            "is a numpy archive (.npz), which no zoo of this family publishes; wanted .pth or .safetensors"
        )


def _root(names: list[str]) -> str:
    """The folder that torch puts its parts in."""
    roots = [name.removesuffix("/data.pkl") for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
        inside = ", ".join(map(shown, names[:3])) or "nothing"
        raise Unreadable(f"is a zip archive and not one of torch.save (it holds {inside}); unpack it")
    return roots[0]


def _content(mapped: mmap.mmap, entry: zipfile.ZipInfo) -> memoryview:
    begin = entry.header_offset
    header = mapped[begin : begin + _LOCAL_HEADER.size]
    if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
        raise Unreadable("is a zip archive whose directory points nowhere; take another copy")
    _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
    begin += _LOCAL_HEADER.size + name_bytes + extra_bytes
    return memoryview(mapped)[begin : begin + entry.file_size]


# --- what a state dict's pickle may name -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Type:
    item_bytes: int


@dataclass(frozen=True, slots=True)
class _Storage:
    num_items: int


class _Storages:
    """The storages that a pickle asks for, each against the room that the file has for it."""

    def __init__(self, room: Callable[[str], int]) -> None:
        self._room = room
        self.known: dict[str, _Storage] = {}
        self.total_bytes = 0

    def one(self, identity: Any) -> _Storage:
        word, kind, key, _, num_items, *view = identity
        if word != "storage" or not isinstance(kind, _Type) or type(key) is not str or view not in ([], [None]):
            raise ValueError("not a storage")
        if not _is_count(num_items):
            raise ValueError("not a length")
        wanted = num_items * kind.item_bytes
        if key not in self.known:
            if wanted > self._room(key):
                raise Unreadable(
                    f"is damaged or forged: a storage of {wanted} bytes is said to lie in {self._room(key)}; "
                    "take another copy"
                )
            self.known[key] = _Storage(num_items)
            self.total_bytes += wanted
        return self.known[key]


class _Unheeded(Stated):
    """What a training script left beside its weights, and nobody looks at here."""

    def set_state(self, state: Any) -> None:
        pass


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> _Unheeded:
    """As `torch._utils._rebuild_tensor_v2`: `rest` is whether it learns, its hooks, and whether it is negated."""
    hooks, *metadata = rest[1:] or [None]
    if not isinstance(storage, _Storage) or hooks or type(size) is not tuple or type(stride) is not tuple:
        raise TypeError("not a plain tensor")
    if any(type(each) is not dict or each.keys() - {"neg", "conj"} for each in metadata if each is not None):
        raise TypeError("not a plain tensor")
    # before any arithmetic, which takes as long as the numbers are
    if len(size) != len(stride) or len(size) > _MOST_DIMENSIONS or not all(map(_is_count, (offset, *size, *stride))):
        raise ValueError("not a shape")
    reach = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) + 1
    if 0 not in size and reach > storage.num_items:
        raise Unreadable(
            f"is damaged or forged: a tensor of shape {str(tuple(size))[:60]} is said to lie in {storage.num_items} "
            "numbers; take another copy"
        )
    return _Unheeded()


def _copied(*_: Any) -> dict[Any, Any]:
    return {}


def _unheeded(*_: Any) -> _Unheeded:
    return _Unheeded()


def _names() -> Iterator[tuple[str, object]]:
    yield from NUMBERS.items()
    yield from ((f"torch.{name}", _Type(item_bytes)) for name, item_bytes in _ITEM_BYTES.items())
    yield "torch._utils._rebuild_tensor_v2", Call(_tensor)
    yield "torch._utils._rebuild_tensor", Call(_tensor)
    yield "torch._utils._rebuild_parameter", Call(lambda tensor, *_: tensor)
    yield "torch._utils._rebuild_parameter_with_state", Call(lambda tensor, *_: tensor)
    yield "torch.Size", Call(lambda lengths: tuple(lengths))
    yield "torch.device", Call(_unheeded)
    yield from ((f"{dtype}", _Unheeded()) for dtype in vars(torch).values() if isinstance(dtype, torch.dtype))
    yield "builtins.complex", Call(_unheeded)
    yield "collections.OrderedDict", Call(lambda pairs=(): by_name(pairs))
    yield "collections.Counter", Call(_copied)
    yield "builtins.set", Call(lambda members: by_name((member, None) for member in members))
    yield "argparse.Namespace", Call(_unheeded)


_ALLOWED: Mapping[str, object] = dict(_names())
