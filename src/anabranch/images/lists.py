"""Which label each picture has, from a text file: `path label` lines, or CSV with the columns path and label."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anabranch.errors import DatasetError

Rows = tuple[list[str], NDArray[np.int64], tuple[str, ...] | None]
_MOST_DIGITS = 9

_DEVKIT = (
    "these are numbers without pictures. ILSVRC2012_validation_ground_truth.txt counts classes in the order of its "
    "devkit's meta.mat, not in the sorted order of the synsets that every published net is trained on. Give a list of "
    "'path label' lines with labels 0..999, such as PaddleClas' val_list.txt, or a folder for each synset"
)


def read_rows(path: Path) -> Rows:
    """Paths as written, labels (N,) and, where a CSV gives names, the classes sorted by name.

    Raises DatasetError naming file and line. A path may hold spaces: the label is what follows the last space or tab.
    """
    paths, labels, lines = [], [], []
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _list_rows(path)
    for line, picture, label in rows:
        paths.append(picture)
        labels.append(label)
        lines.append(line)
    if not paths:
        raise DatasetError(f"{path}: no pictures are listed in it")
    named = [not _is_number(label) for label in labels]
    if all(named) and path.suffix.lower() == ".csv":
        classes = tuple(sorted(set(labels)))
        index = {name: number for number, name in enumerate(classes)}
        return paths, np.array([index[label] for label in labels], np.int64), classes
    if any(named):
        at = named.index(True)
        raise DatasetError(
            f"{path}: line {lines[at]}: label {labels[at]!r} is not a whole number from 0 on{_also(path)}"
        )
    return paths, np.array([int(label) for label in labels], np.int64), None


def _also(path: Path) -> str:
    return ", while others are: use numbers or names in all of them" if path.suffix.lower() == ".csv" else ""


def _is_number(label: str) -> bool:
    return label.isascii() and label.isdigit() and len(label) <= _MOST_DIGITS


def _list_rows(path: Path) -> Iterator[tuple[int, str, str]]:
    for line, text in enumerate(_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        words = text.strip().replace("\t", " ").rpartition(" ")
        if not words[0].strip():
            said = _DEVKIT if _is_number(words[2]) else f"{text.strip()!r} is not a path and a label"
            raise DatasetError(f"{path}: line {line}: {said}")
        yield line, text.strip()[: len(words[0])].strip(), words[2]


def _csv_rows(path: Path) -> Iterator[tuple[int, str, str]]:
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if header.count("path") != 1 or header.count("label") != 1:
            raise DatasetError(f"{path}: its columns are {', '.join(header) or 'none'}; path and label are wanted")
        at_path, at_label = header.index("path"), header.index("label")
        for row in reader:
            if not row:
                continue
            if len(row) != len(header) or not row[at_path] or not row[at_label].strip():
                raise DatasetError(f"{path}: line {reader.line_num}: {','.join(row)!r} lacks a path or a label")
            yield reader.line_num, row[at_path], row[at_label].strip()
    except csv.Error as error:
        raise DatasetError(f"{path}: line {reader.line_num}: {error}") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{path}: not a text file in UTF-8: byte {error.start} is {error.object[error.start]:#x}"
        ) from None
