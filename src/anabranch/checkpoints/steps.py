"""The steps of a pickle as its bytes spell them: a length beyond their end is damage, and what is long stays in place.

Source: the format as `pickletools` describes it.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_COPIED_BYTES = 1 << 16  # shorter than this is cheaper to copy than to look at in place
_LINE_BYTES = 4096
_LENGTH_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_TEXTS = {"BINUNICODE", "BINUNICODE8"}
_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}


class Unreadable(Exception):
    """Why a file cannot be read, and what to do, as a sentence about the file without its name."""


class Source:
    """Bytes read in order. A length beyond their end is refused before memory is taken for it."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def __len__(self) -> int:
        return len(self._data)

    def read(self, count: int) -> bytes | memoryview:
        end = self._at + count
        if end > len(self._data):
            raise Unreadable(
                f"ends in the middle: {count} bytes are said to follow byte {self._at}, and "
                f"{len(self._data) - self._at} do; it was cut short or damaged, take another copy"
            )
        part = self._data[self._at : end]
        self._at = end
        return bytes(part) if count < _COPIED_BYTES else part

    def readline(self) -> bytes:
        part = bytes(self._data[self._at : self._at + _LINE_BYTES])
        line = part[: part.find(b"\n") + 1]  # empty where no line ends, which `pickletools` complains of
        self._at += len(line)
        return line

    def tell(self) -> int:
        return self._at


@dataclass(frozen=True, slots=True)
class Text:
    """Stands for long text, and leaves it where it lies: in UTF-8, if it is text at all."""

    utf8: memoryview


def steps(source: Source) -> Iterator[tuple[str, Any]]:
    """Each step's name and argument, before STOP."""
    while (opcode := _OPCODES[bytes(source.read(1)).decode("latin1")]).name != "STOP":
        yield opcode.name, _argument(opcode, source)


def _argument(opcode: pickletools.OpcodeInfo, source: Source) -> Any:
    """As `pickletools` reads it, which would copy what is long."""
    if opcode.arg is None:
        return None
    if opcode.arg.n not in _LENGTH_BYTES:
        return opcode.arg.reader(source)  # type: ignore[arg-type]  # it asks for no more than we have
    num_bytes = int.from_bytes(source.read(_LENGTH_BYTES[opcode.arg.n]), "little")
    data = source.read(num_bytes)
    if opcode.name not in _TEXTS:
        return data
    return Text(data) if isinstance(data, memoryview) else data.decode("utf-8", "surrogatepass")
