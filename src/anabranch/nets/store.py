"""Tensors and what is said of them in one safetensors file, written atomically and verified by hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anabranch.disk import replacing_file
from anabranch.errors import CheckpointError, need, shown

KEY = "anabranch"  # under which such a file says what its tensors are


def save_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Tensors may share memory: each is written by itself. Raises OSError, whatever safetensors makes of it."""
    safetensors = need("safetensors.torch", extra="torch")
    from safetensors import SafetensorError

    try:
        safetensors.save_file(_apart(tensors), path, metadata=dict(metadata))
    except SafetensorError as error:
        raise OSError(shown(error)) from None


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the processor and contiguous, and none in the memory of another, which safetensors refuses to write."""
    apart = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    end = 0
    for name, tensor in sorted(apart.items(), key=lambda item: item[1].data_ptr()):
        if tensor.data_ptr() < end:
            apart[name] = tensor.clone()
        end = max(end, tensor.data_ptr() + tensor.nbytes)
    return apart


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write beside `path` and move into place: a crash leaves the old file or the new one, never half of one.

    Raises CheckpointError where it cannot be written.
    """
    said = json.loads(json.dumps(about))
    note = json.dumps({**said, "sha256": tensors_sha256(tensors), "said_sha256": _said_sha256(said)})
    with replacing_file(path) as partial:
        save_safetensors(partial, tensors, {KEY: note})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_tensors` wrote, mapped into memory.

    Raises CheckpointError where the file is absent, damaged or not of this kind.
    """
    need("safetensors.torch", extra="torch")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is not a mapping)
    except (OSError, SafetensorError, RuntimeError, TypeError) as error:  # the last two of torch, for lengths beyond it
        raise CheckpointError(f"{path}: not a readable safetensors file ({shown(error)})") from None
    if KEY not in metadata:
        raise CheckpointError(f"{path}: holds tensors but no word of anabranch's on what net they belong to")
    try:
        about = json.loads(metadata[KEY])
        of_tensors, of_said = about.pop("sha256"), about.pop("said_sha256", None)
        intact = isinstance(of_tensors, str) and of_said in (None, _said_sha256(about))  # older files have none of it
    except (AttributeError, ValueError, KeyError, TypeError, RecursionError):
        intact = False
    if not intact:
        raise CheckpointError(f"{path}: what it says of its tensors is damaged; take another copy")
    if tensors_sha256(tensors) != of_tensors:
        raise CheckpointError(f"{path}: its tensors do not match their hash; the file is damaged, take another copy")
    return tensors, about


def _said_sha256(about: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """The hash of name, type, shape and little-endian values of each tensor, in the order of the names."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
