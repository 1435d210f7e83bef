"""In which files beside it an ONNX graph has its tensors, read from its bytes: the onnx package comes with no engine.

Only lengths are read, and the entries of `external_data`; the values of tensors are stepped over. Sources: onnx.proto
for the numbers of the fields, and protobuf's "Encoding" for their bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path

# Message -> number of a field -> what that holds, of all on the way to a tensor.
_FIELDS = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_KEY, _VALUE = 1, 2  # of an entry
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5  # how a field is written
_DEEPEST = 100  # messages within one another, as protobuf's own readers have it


def external_files(path: Path) -> set[str]:
    """The names of the files, relative to the graph's folder. Raises ValueError where it is no ONNX graph."""
    if not path.stat().st_size:
        raise ValueError("it is empty")
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as held:
        return set(_within(held, 0, len(held), "model", 0))


def _within(held: mmap, start: int, end: int, kind: str, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        raise ValueError("its parts lie too deep in one another")
    for number, first, last in _fields(held, start, end):
        part = _FIELDS[kind].get(number)
        if part == "entry":
            entry = {each: held[at:until] for each, at, until in _fields(held, first, last)}
            if entry.get(_KEY) == b"location":
                yield entry.get(_VALUE, b"").decode(errors="replace")
        elif part is not None:
            yield from _within(held, first, last, part, depth + 1)


def _fields(held: mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The number of each field that has a length, and from where to where it reaches."""
    while at < end:
        tag, at = _varint(held, at, end)
        written = tag & 7
        if written == _BYTES:
            length, at = _varint(held, at, end)
            if length > end - at:
                raise ValueError("a part reaches beyond its end")
            yield tag >> 3, at, at + length
            at += length
        elif written == _VARINT:
            _, at = _varint(held, at, end)
        elif written in (_EIGHT_BYTES, _FOUR_BYTES):
            at += 8 if written == _EIGHT_BYTES else 4
        else:
            raise ValueError("it is not written as protobuf writes")


def _varint(held: mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = held[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise ValueError("a number has no end")
