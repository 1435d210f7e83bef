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
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import BinaryIO, Literal, NamedTuple, TextIO

from anabranch.errors import UsageError
from anabranch.screen import csv_output, open_csv

_FLUSHED_S = 1.0  # a process that is killed loses the rows of so long


class Kept(NamedTuple):
    """The cells of a row that was there already by which it is known."""

    name: str  # the first
    error: str  # the last


class Rows:
    """Rows are written, and `done` are there already."""

    def __init__(self, file: TextIO, done: Sequence[Kept] = ()):
        self._file = file
        self._writer = csv.writer(file, lineterminator="\n")
        self._done = Counter(row.name for row in done)
        self._flushed = monotonic()
        self.count = len(done)
        self.unreadable = sum(bool(row.error) for row in done)  # of those that were there already

    def take(self, name: str) -> bool:
        """Whether a row of this name was there already. Each one counts once: a picture may be asked about twice."""
        name = _told(name)
        if not self._done[name]:
            return False
        self._done[name] -= 1
        return True

    def left_over(self) -> list[str]:
        """The names of the rows that were there already and that nobody has taken."""
        return list(self._done.elements())

    def write(self, *cells: str) -> None:
        self._writer.writerow(map(_told, cells))
        self.count += 1
        if monotonic() - self._flushed > _FLUSHED_S:
            self._file.flush()
            self._flushed = monotonic()


@contextmanager
def csv_rows(path: str, header: Sequence[str], *, maker: str, resume: bool) -> Iterator[Rows]:
    """Write rows under `header` to the file `path`; `-` is standard output.

    `maker` tells what makes the rows: with `resume`, those that the same maker left are kept. What is no plain file,
    such as a pipe, is written to as it is. It is UTF-8, whatever the terminal's encoding; what is no text in a name,
    and a carriage return, is written with backslashes. Raises UsageError.
    """
    if path == "-":
        yield _begun(csv_output(), header)
        return
    if Path(path).exists() and not Path(path).is_file():
        if resume:
            raise UsageError(f"{path} is no plain file; only such a one is gone on with")
        with _opened(Path(path), "w", path) as file:
            yield _begun(file, header)
        return
    target = Path(os.path.realpath(path))  # Path.resolve raises where a link leads to itself
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
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        if rows is not None and rows.count:
            print(f"the rows so far are kept in {part}; --resume goes on with them", file=sys.stderr)
        elif rows is not None:
            part.unlink()
        raise
    part.replace(target)


def _told(cell: str) -> str:
    """csv quotes no carriage return, and reads none that is not quoted."""
    return cell.encode(errors="backslashreplace").decode().replace("\r", "\\r")


def _begun(file: TextIO, header: Sequence[str]) -> Rows:
    rows = Rows(file)
    rows.write(*header)
    rows.count = 0
    return rows


def _opened(place: Path, mode: Literal["w", "a"], told: str) -> TextIO:
    try:
        return open_csv(place, mode)
    except OSError as error:
        raise UsageError(f"{told}: cannot be written ({error.strerror})") from None


def _refuse_others(part: Path, target: Path) -> None:
    """Raises UsageError where another maker has left its rows."""
    for other in sorted(target.parent.glob(f"{glob.escape(target.name)}.????????.part")):
        if other != part:
            with _opened(other, "a", str(other)) as file:
                _lock(file, other)
            raise UsageError(
                f"{other} holds the rows of a stopped run with another model, other pictures or other options: go on "
                "with --resume and those, or remove it"
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


def _kept(part: Path, header: Sequence[str]) -> list[Kept]:
    """The rows in a part file, from which one that is cut off is taken away; where there is none, all is."""
    with part.open("rb") as file:
        rows, end = _whole_rows(file, len(header), part)
    os.truncate(part, end if len(rows) > 1 else 0)
    return rows[1:]


def _whole_rows(file: BinaryIO, width: int, part: Path) -> tuple[list[Kept], int]:
    """Each row up to a last one that is cut off, and where that begins; lines that somebody emptied are passed over.

    Raises UsageError where rows stand behind one that is none.
    """
    rows: list[Kept] = []
    read = end = 0
    bad: int | None = None  # the line of what is no row

    def lines() -> Iterator[str]:
        nonlocal read
        for line in file:
            if not line.endswith(b"\n"):
                return
            read += len(line)
            yield line.decode(errors="replace")

    try:
        table = csv.reader(lines(), strict=True)  # strict: a quote that nothing closes is an error
        for row in table:
            if row and bad is not None:
                raise UsageError(f"{part}, line {bad}: this is no row of {width} cells; mend it, or remove the line")
            if len(row) == width:
                rows.append(Kept(row[0], row[-1]))
                end = read
            elif row:
                bad = table.line_num
    except csv.Error:
        pass
    return rows, end
