"""A CSV file that stands under its name once it is complete; until then its rows lie in a part file beside it.

What stops a run, a power cut among it, leaves that part file. It is called after its maker too, so that nobody goes on
with the rows of another model.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from anabranch.errors import UsageError

_TEXT = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}


class Rows:
    """`done`: what the rows that were there already are called, by their first cell."""

    def __init__(self, file: TextIO, done: Iterable[str] = ()):
        self._writer = csv.writer(file, lineterminator="\n")
        self._done = frozenset(done)
        self.count = len(self._done)

    def has(self, name: str) -> bool:
        return bool(self._done) and name.encode(errors="backslashreplace").decode() in self._done

    def write(self, name: str, *cells: str) -> None:
        self._writer.writerow([name, *cells])
        self.count += 1


@contextmanager
def csv_rows(path: str, header: Sequence[str], *, maker: str, resume: bool) -> Iterator[Rows]:
    """Write rows under `header` to the file `path`; `-` is standard output.

    `maker` tells what makes the rows: with `resume`, those that the same maker left are kept. What is no plain file,
    such as a pipe, is written to as it is. Names that are no text are written with backslashes. Raises UsageError.
    """
    if path == "-":
        yield _begun(sys.stdout, header)
        return
    target = Path(path).resolve()
    if target.exists() and not target.is_file():
        if resume:
            raise UsageError(f"{path} is no plain file; only such a one is gone on with")
        with _opened(target, "w", path) as file:
            yield _begun(file, header)
        return
    mark = hashlib.sha256("\n".join((maker, *header)).encode()).hexdigest()[:8]
    part = target.with_name(f"{target.name}.{mark}.part")
    _refuse_others(part, target)
    if resume and target.exists() and not part.exists():
        raise UsageError(f"{path} is complete; remove it, or leave out --resume, to have it written anew")
    rows = None
    try:
        with _opened(part, "a", path) as file:
            _lock(file, part)
            done = _kept(part, header)
            if done and not resume:
                raise UsageError(
                    f"{part} holds {len(done):,} rows of a run that was stopped; --resume goes on with them"
                )
            rows = Rows(file, done) if done else _begun(file, header)
            if done:
                print(f"{part} holds {len(done):,} rows; going on after them", file=sys.stderr)
            yield rows
    except BaseException:
        if rows is not None and rows.count:
            print(f"the rows so far are kept in {part}; --resume goes on with them", file=sys.stderr)
        elif rows is not None:
            part.unlink()
        raise
    part.replace(target)


def _begun(file: TextIO, header: Sequence[str]) -> Rows:
    rows = Rows(file)
    rows.write(*header)
    rows.count = 0
    return rows


def _opened(place: Path, mode: str, told: str) -> TextIO:
    try:
        return place.open(mode, **_TEXT)  # type: ignore[call-overload,no-any-return]
    except OSError as error:
        raise UsageError(f"{told}: cannot be written ({error.strerror})") from None


def _refuse_others(part: Path, target: Path) -> None:
    """Raises UsageError where another maker has left its rows."""
    for other in sorted(target.parent.glob(f"{glob.escape(target.name)}.????????.part")):
        if other != part:
            raise UsageError(
                f"{other} holds the rows of a stopped run with another model or other options: go on with --resume and "
                "those, or remove it"
            )


def _lock(file: TextIO, part: Path) -> None:
    """Raises UsageError where another process writes to it. Held until the file is closed."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UsageError(f"{part}: another process is writing to it") from None


def _kept(part: Path, header: Sequence[str]) -> list[str]:
    """The names of the rows in a part file, from which a row that is cut off is taken away; of none, all is."""
    with part.open("rb") as file:
        names, end = _whole_rows(file, len(header))
    os.truncate(part, end if len(names) > 1 else 0)
    return names[1:]


def _whole_rows(file: BinaryIO, width: int) -> tuple[list[str], int]:
    """The first cell of each row up to the first that is cut off, and where that begins."""
    names: list[str] = []
    read = end = 0

    def lines() -> Iterator[str]:
        nonlocal read
        for line in file:
            if not line.endswith(b"\n"):
                return
            read += len(line)
            yield line.decode(errors="replace")

    try:
        for row in csv.reader(lines(), strict=True):  # strict: a quote that nothing closes is an error
            if len(row) != width:
                break
            names.append(row[0])
            end = read
    except csv.Error:
        pass
    return names, end
