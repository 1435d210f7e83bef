"""A checkpoint from any zoo's layout into any other's."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anabranch.arch import Arch
from anabranch.checkpoints.identify import OUR_OWN
from anabranch.checkpoints.load import our_tensors
from anabranch.checkpoints.read import read_checkpoint
from anabranch.checkpoints.trained import open_trained
from anabranch.errors import UsageError, need
from anabranch.nets.dialects import dialect
from anabranch.nets.load import save_trained
from anabranch.nets.spelling import to_theirs


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    spec: Arch
    dialect: str
    num_tensors: int


def convert(
    source: Path,
    out: Path,
    *,
    to: str,
    architecture: str | None = None,
    told: str = "auto",
    like: str | None = None,
    ema: bool = False,
    overwrite: bool = False,
) -> Converted:
    """Write the tensors of `source` to `out` as the dialect `to` spells them; `out`'s suffix says the kind of file.

    .safetensors, .pth and .pt hold any dialect, .pdparams PaddleClas'. To "anabranch" goes a .safetensors file that
    holds classes and preprocessing too: those of the published weights that `source` is, or that it is `like`. A crash
    leaves the old file or the new one. Raises CheckpointError, WeightsMismatch, UnknownName, UsageError.
    """
    write = writer(out, to)
    if out.exists() and (not overwrite or out.samefile(source)):
        raise UsageError(f"{out} is there already; choose another place, or ask to overwrite it")
    if to == OUR_OWN:
        trained = open_trained(source, like=like)
        save_trained(out, trained)
        return Converted(spec=trained.net.arch, dialect=to, num_tensors=len(trained.net.state_dict()))
    held = read_checkpoint(source, ema=ema)
    spec, ours = our_tensors(held, architecture=architecture, told=told, where=str(source))
    theirs = to_theirs(spec, ours, dialect(to))
    partial = out.with_name(f".{out.name}.part")
    try:
        write(theirs, partial)
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    return Converted(spec=spec, dialect=dialect(to).name, num_tensors=len(theirs))


def writer(out: Path, to: str) -> Callable[[Mapping[str, Tensor], Path], None]:
    """What writes tensors by their names in the dialect `to` to a file of `out`'s kind. Raises UsageError."""
    if out.suffix not in _WRITERS:
        raise UsageError(f"{out}: files end in {', '.join(_WRITERS)}; what kind {out.name!r} would be is not said")
    if to == OUR_OWN:
        if out.suffix != ".safetensors":
            raise UsageError(f"{out}: anabranch's own checkpoints are .safetensors files")
    elif (out.suffix == ".pdparams") and dialect(to).name != "paddleclas":
        raise UsageError(f"{out}: a .pdparams file is read by Paddle, which spells tensors as paddleclas, not as {to}")
    return _WRITERS[out.suffix]


def _write_safetensors(theirs: Mapping[str, Tensor], path: Path) -> None:
    save = need("safetensors.torch", extra="torch").save_file
    save({name: tensor.contiguous() for name, tensor in theirs.items()}, path, metadata={"format": "pt"})


def _write_torch(theirs: Mapping[str, Tensor], path: Path) -> None:
    torch.save({name: tensor.contiguous() for name, tensor in theirs.items()}, path)


def _write_paddle(theirs: Mapping[str, Tensor], path: Path) -> None:
    """As `paddle.save` writes a state dict: a pickle of arrays by name."""
    with path.open("wb") as file:
        _ForAnyNumpy(file, protocol=4).dump({name: tensor.contiguous().numpy() for name, tensor in theirs.items()})


_Pickler: Any = pickle._Pickler  # the one in C lets nobody choose a name


class _ForAnyNumpy(_Pickler):  # type: ignore[misc]
    """Calls NumPy's module of arrays as NumPy 1 does, which PaddleClas pins; NumPy 2 still reads that."""

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if getattr(obj, "__module__", None) != "numpy._core.multiarray":
            super().save_global(obj, name)
            return
        self.save("numpy.core.multiarray")
        self.save(obj.__name__)
        self.write(pickle.STACK_GLOBAL)
        self.memoize(obj)


_WRITERS = {
    ".safetensors": _write_safetensors,
    ".pth": _write_torch,
    ".pt": _write_torch,
    ".pdparams": _write_paddle,
}
