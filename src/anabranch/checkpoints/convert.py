"""A checkpoint from any zoo's layout into any other's."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anabranch.arch import Arch
from anabranch.checkpoints.load import our_tensors
from anabranch.checkpoints.read import read_checkpoint
from anabranch.checkpoints.trained import open_trained
from anabranch.disk import replacing_file
from anabranch.errors import UsageError, shown
from anabranch.nets.dialects import OUR_OWN, dialect
from anabranch.nets.load import save_trained
from anabranch.nets.spelling import to_theirs
from anabranch.nets.store import save_safetensors


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
    _want_place(out, source, overwrite=overwrite)
    if to == OUR_OWN:
        trained = open_trained(source, like=like, architecture=architecture, told=told, ema=ema)
        save_trained(out, trained)
        return Converted(spec=trained.net.arch, dialect=to, num_tensors=len(trained.net.state_dict()))
    if like is not None:
        raise UsageError(
            f"like = {like!r} says what goes into an anabranch file beside its tensors, not into one of {to}"
        )
    held = read_checkpoint(source, ema=ema)
    spec, ours = our_tensors(held, architecture=architecture, told=told, where=str(source))
    theirs = to_theirs(spec, ours, dialect(to))
    with replacing_file(out) as partial:
        write(theirs, partial)
    return Converted(spec=spec, dialect=dialect(to).name, num_tensors=len(theirs))


def _want_place(out: Path, source: Path, *, overwrite: bool) -> None:
    """Raises UsageError, before a large file is read, for a place that cannot be written to."""
    try:
        if not out.parent.is_dir():
            raise UsageError(f"{out}: there is no folder {out.parent}; make it first")
        if out.is_dir():
            raise UsageError(f"{out} is a folder; give the name of a file")
        if not _is_there(out):
            return
        if source.exists() and out.samefile(source):
            raise UsageError(f"{out} is the file that is to be converted; choose another place for the new one")
    except (OSError, ValueError) as error:
        raise UsageError(f"{out}: is no place for a file ({getattr(error, 'strerror', None) or error})") from None
    if not overwrite:
        raise UsageError(f"{out} is there already; choose another place, or replace it with --overwrite")


def _is_there(path: Path) -> bool:
    """Raises OSError, ValueError for a name that no file can have, which `exists` keeps to itself."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True


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
    save_safetensors(path, theirs, {"format": "pt"})


def _write_torch(theirs: Mapping[str, Tensor], path: Path) -> None:
    try:
        torch.save({name: _in_its_own_storage(tensor) for name, tensor in theirs.items()}, path)
    except RuntimeError as error:  # what its writer makes of a full disk
        raise OSError(shown(str(error).partition("\n")[0])) from None


def _in_its_own_storage(tensor: Tensor) -> Tensor:
    """Contiguous, and no part of a larger storage, of which torch would write the whole."""
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor


def _write_paddle(theirs: Mapping[str, Tensor], path: Path) -> None:
    """As `paddle.save` writes a state dict: a pickle of arrays by name."""
    with path.open("wb") as file:
        pickler = _ForAnyNumpy(file, protocol=4)
        pickler.fast = True  # without a memo, which would keep a copy of every array to the end
        pickler.dump({name: tensor.contiguous().numpy() for name, tensor in theirs.items()})


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
