"""Tensors and what is said of them in one safetensors file, written atomically and verified by hash."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anabranch.errors import CheckpointError, need

_KEY = "anabranch"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write beside `path` and move into place: a crash leaves the old file or the new one, never half of one."""
    safetensors = need("safetensors.torch", extra="torch")
    packed = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    note = json.dumps({**about, "sha256": tensors_sha256(packed)})
    partial = path.with_name(f".{path.name}.part")
    try:
        safetensors.save_file(packed, partial, metadata={_KEY: note})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_tensors` wrote. Raises CheckpointError where the file is absent, damaged or not of this kind."""
    need("safetensors.torch", extra="torch")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is not a mapping)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from None
    if _KEY not in metadata:
        raise CheckpointError(f"{path}: holds tensors but no word of anabranch's on what net they belong to")
    try:
        about = json.loads(metadata[_KEY])
        wanted = about.pop("sha256")
    except (ValueError, KeyError, AttributeError):
        raise CheckpointError(f"{path}: what it says of its tensors is damaged; take another copy") from None
    if tensors_sha256(tensors) != wanted:
        raise CheckpointError(f"{path}: its tensors do not match their hash; the file is damaged, take another copy")
    return tensors, about


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """The hash of name, type, shape and little-endian values of each tensor, in the order of the names."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
