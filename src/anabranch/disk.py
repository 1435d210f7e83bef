"""Room on a disk, asked for before much is written to it, and files that are there whole or not at all."""

from __future__ import annotations

import glob
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anabranch.errors import CheckpointError, Error

UNIQUE = "[0-9a-f]" * 8  # a pattern, of what stands in the names of folders that are built


def is_text(name: str | Path) -> bool:
    """Whether it has UTF-8 bytes, as the name of a file need not have; ONNX, torch and safetensors open no other."""
    try:
        str(name).encode()
    except UnicodeEncodeError:
        return False
    return True


def want_room(folder: Path, size_bytes: int, *, error: type[Error], otherwise: str) -> None:
    """Raises `error` unless so many bytes are free; `otherwise` is what to do where no room can be made."""
    free = shutil.disk_usage(folder).free
    if size_bytes > free:
        raise error(f"{folder} has room for {free:,} bytes, and {size_bytes:,} are wanted; make room, or {otherwise}")


@contextmanager
def building_folder(folder: Path) -> Iterator[Path]:
    """A fresh hidden folder beside `folder`, whose folder must exist, to be built in and then renamed.

    What is not renamed is taken away at the end; what a process left that was killed, by the next one.
    """
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.{UNIQUE}.partial"):  # and none of NAME.more's
        lock = _locked(left)
        if lock is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)
    unique = secrets.token_hex(4)  # of the form UNIQUE
    staging = folder.with_name(f".{folder.name}.{unique}.partial")
    unseen = folder.with_name(f".{folder.name}.{unique}.new")  # under this name nobody sweeps it before it is held
    lock = None
    try:  # a signal may come at any time
        unseen.mkdir()
        lock = _locked(unseen)
        unseen.rename(staging)
        yield staging
    finally:
        for each in (unseen, staging):
            shutil.rmtree(each, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked(folder: Path) -> int | None:
    """A descriptor that holds the folder until it is closed; None where another process holds it, or none can."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """A new file beside `path` to be written to, which takes its place at the end: whole and on the disk, or never.

    It has a name of its own, so that two who write at once do not meet, and the rights that any new file gets. Raises
    CheckpointError that says why it cannot be written, also for what a library raises that writes to it.
    """
    partial = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        made = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        rights = stat.S_IMODE(os.fstat(made).st_mode)
        os.close(made)
        try:
            yield partial
            os.chmod(partial, rights)  # safetensors puts a file of its own in the place, for its owner's eyes alone
            _flush(partial)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from None


def unwritable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{path}: cannot be written ({error.strerror or error}); make room there, or see who may write to it"
    )


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
