"""Text for people, JSON and CSV for machines. Plain strings: `list` must not wait for a rendering library."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

# Control characters, and those that turn the order of text around.
_UNSEEN = {*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)}
_SPELT = {code: f"\\u{code:04x}" if code > 255 else f"\\x{code:02x}" for code in _UNSEEN}


class Column(NamedTuple):
    title: str
    right: bool = False  # numbers


def print_json(value: Any) -> None:
    """As it is where standard output takes any character, elsewhere with the escapes of JSON."""
    print(_as_json(value))


def print_json_list(values: Iterable[Any]) -> None:
    """`print_json` of their list, each as it comes, so that no more than one is held."""
    before = "["
    for value in values:
        print(before, "  " + _as_json(value).replace("\n", "\n  "), sep="\n", end="")
        before = ","
    print("[]" if before == "[" else "\n]")


def _as_json(value: Any) -> str:
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return json.dumps(value, indent=2, ensure_ascii=not unicode)


def csv_output() -> TextIO:
    """Standard output as `open_csv` would open it, whatever the screen takes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="")
    return sys.stdout


def open_csv(place: Path, mode: Literal["w", "a"]) -> TextIO:
    """UTF-8, lines ended as they are written, and what is no text in a name with backslashes. Raises OSError."""
    return place.open(mode, encoding="utf-8", errors="backslashreplace", newline="")


def spelt(text: str) -> str:
    """What others named, for a terminal: no character of it moves the cursor, changes colours or turns text around."""
    return text.translate(_SPELT)


def counted(number: int, noun: str) -> str:
    """1 picture, 2 pictures, 1,234 pictures."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def width_of(stream: TextIO) -> int | None:
    """Characters in a line of a terminal; none behind a pipe, where nothing is cut."""
    if not stream.isatty():
        return None
    import shutil  # with its compressors it is a tenth of what `list` takes

    return shutil.get_terminal_size().columns


def bold(text: str, stream: TextIO | None = None) -> str:
    """In bold on a terminal that has it and whose user has not said NO_COLOR."""
    plain = not (stream or sys.stdout).isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return text if plain else f"\x1b[1m{text}\x1b[0m"


def table(
    columns: Sequence[Column], rows: Iterable[Sequence[str]], *, width: int | None = None, indent: int = 0
) -> list[str]:
    """Aligned lines, the titles first. Where `width` is too small the last column is cut with an ellipsis."""
    rows = [[column.title for column in columns], *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    if width is not None:
        widths[-1] = max(8, min(widths[-1], width - indent - sum(widths[:-1]) - 2 * (len(widths) - 1)))
    lines = []
    for row in rows:
        cells = [
            cell.rjust(size) if column.right else _cut(cell, size).ljust(size)
            for cell, size, column in zip(row, widths, columns, strict=True)
        ]
        lines.append((" " * indent + "  ".join(cells)).rstrip())
    return lines


def wrapped(label: str, text: str, *, width: int | None, label_width: int = 10) -> list[str]:
    """A label and its text, the text's further lines under its first."""
    lead = f"  {label:<{label_width}}"
    if width is None:
        return [lead + text]
    import textwrap

    return textwrap.wrap(
        text,
        width,
        initial_indent=lead,
        subsequent_indent=" " * len(lead),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[: size - 1] + "…"
