"""Which label each picture has, from a text file: `path label` lines, or CSV with the columns path and label.

Kaggle's LOC_val_solution.csv of ImageNet, with the columns ImageId and PredictionString, is read as it is.

A CSV may give a picture several labels, `dog;ball` or `3;17`, or none, where it is read as such: `read_targets`. The
names of the classes, in their order, may stand beside the list in `classes.json`, an array of strings; labels that are
names are then looked up in it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anabranch.disk import is_text
from anabranch.errors import DatasetError

CLASSES_FILE = "classes.json"
Rows = tuple[list[str], NDArray[np.int64], tuple[str, ...] | None]
Targets = tuple[list[str], NDArray[np.uint8], tuple[str, ...] | None]
_MOST_DIGITS = 9
_MOST_TARGETS = 8 << 30  # a byte each
_BETWEEN = ";"

_KAGGLE = ["ImageId", "PredictionString"]  # of ImageNet's LOC_val_solution.csv: a name, and synsets with boxes


def read_rows(path: Path) -> Rows:
    """Paths as written, labels (N,) and the names of the classes: those beside the list, or a CSV's own, sorted.

    Raises DatasetError naming file and line. A path may hold spaces: the label is what follows the last space or tab.
    """
    is_csv = path.suffix.lower() == ".csv"
    paths, labels, lines = [], [], []
    for line, picture, label in _csv_rows(path) if is_csv else _list_rows(path):
        if is_csv and _BETWEEN in label:
            raise DatasetError(
                f"{path}: line {line}: {label!r} holds {_BETWEEN!r}, which stands between several labels of one "
                "picture, and one label a picture is wanted here: several are for a model that gives several, as "
                "data.multi_label = true in a recipe trains it, and for multi_label=True in Python"
            )
        paths.append(picture)
        labels.append(label)
        lines.append(line)
    if not paths:
        raise DatasetError(f"{path}: no pictures are listed in it")
    numbers, classes = _numbered(path, labels, lines, may_name=is_csv)
    return paths, np.array(numbers, np.int64), classes


def read_targets(path: Path) -> Targets:
    """Of a CSV with several labels a picture, between `;`, or none: paths, targets (N, K) of 0 and 1, and the classes.

    Labels that are numbers give as many classes as `classes.json` names, or one more than the largest of them. Raises
    DatasetError naming file and line.
    """
    if path.suffix.lower() != ".csv":
        raise DatasetError(f"{path}: several labels a picture are read from a CSV with the columns path and label")
    paths: list[str] = []
    labels, lines, rows = [], [], []
    for line, picture, text in _csv_rows(path, may_be_empty=True):
        held = [label.strip() for label in text.split(_BETWEEN)] if text else []
        if "" in held or len(set(held)) != len(held):
            raise DatasetError(f"{path}: line {line}: {text!r} holds an empty label, or one of them twice")
        labels += held
        lines += [line] * len(held)
        rows += [len(paths)] * len(held)
        paths.append(picture)
    if not labels:
        raise DatasetError(f"{path}: no picture in it has a label")
    numbers, classes = _numbered(path, labels, lines, may_name=True)
    num_classes = max(numbers) + 1 if classes is None else len(classes)
    if len(paths) * num_classes > _MOST_TARGETS:
        raise DatasetError(
            f"{path}: {len(paths):,} pictures times {num_classes:,} classes are more than {_MOST_TARGETS:,} targets; "
            "number the classes from 0 on without gaps"
        )
    targets = np.zeros((len(paths), num_classes), np.uint8)
    targets[rows, numbers] = 1
    return paths, targets, classes


def holds_several(path: Path) -> bool:
    """Whether it is a CSV in which a picture has several labels, or none. Raises DatasetError naming file and line."""
    if path.suffix.lower() != ".csv":
        return False
    return any(not label or _BETWEEN in label for _, _, label in _csv_rows(path, may_be_empty=True))


def read_classes(folder: Path) -> tuple[str, ...] | None:
    """The names of class 0, 1, ... from `classes.json` in a folder; None where there is none. Raises DatasetError."""
    path = folder / CLASSES_FILE
    if not path.is_file():
        return None
    try:
        names = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not JSON: {error}") from None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise DatasetError(f"{path}: an array of names is wanted, one for each class in their order")
    if len(set(names)) != len(names):
        raise DatasetError(f"{path}: two of its {len(names)} classes have one name")
    return tuple(names)


def want_names(names: Sequence[str], where: str) -> None:
    """Raises DatasetError for a class whose name no list of labels can hold."""
    for index, name in enumerate(names):
        if not is_name(name):
            raise DatasetError(
                f"{where}: class {index} is called {name!a}; a name is one line of text that is not empty. Rename it"
            )


def is_name(name: str) -> bool:
    """Whether it is one line of text, and not empty, as a class has it in a list of labels."""
    return bool(name) and "\n" not in name and "\r" not in name and is_text(name)


def classes_text(names: Sequence[str]) -> str:
    """What `classes.json` holds."""
    return json.dumps(list(names), indent=0, ensure_ascii=False) + "\n"


def _numbered(
    path: Path, labels: list[str], lines: list[int], *, may_name: bool
) -> tuple[list[int], tuple[str, ...] | None]:
    """The labels as numbers, and the classes' names where there are any."""
    beside = read_classes(path.parent)
    named = [not _is_number(label) for label in labels]
    if may_name and all(named):
        classes = beside or tuple(sorted(set(labels)))
        index = {name: number for number, name in enumerate(classes)}
        for line, label in zip(lines, labels, strict=True):
            if label not in index:
                raise DatasetError(f"{path}: line {line}: {label!r} is none of the classes in {CLASSES_FILE} beside it")
        return [index[label] for label in labels], classes
    if any(named):
        at = named.index(True)
        also = ", while others are: use numbers or names in all of them" if may_name else ""
        raise DatasetError(f"{path}: line {lines[at]}: label {labels[at]!r} is not a whole number from 0 on{also}")
    numbers = [int(label) for label in labels]
    if beside is not None and max(numbers) >= len(beside):
        line = lines[numbers.index(max(numbers))]
        raise DatasetError(
            f"{path}: line {line}: label {max(numbers)}, but {CLASSES_FILE} beside it names {len(beside)} classes, "
            "from 0 on"
        )
    return numbers, beside


def _is_number(label: str) -> bool:
    return label.isascii() and label.isdigit() and len(label) <= _MOST_DIGITS


def _list_rows(path: Path) -> Iterator[tuple[int, str, str]]:
    for line, text in enumerate(_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        words = text.strip().replace("\t", " ").rpartition(" ")
        if not words[0].strip():
            raise DatasetError(f"{path}: line {line}: {text.strip()!r} is not a path and a label")
        yield line, text.strip()[: len(words[0])].strip(), words[2]


def _csv_rows(path: Path, *, may_be_empty: bool = False) -> Iterator[tuple[int, str, str]]:
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if header == _KAGGLE:
            for row in filter(None, reader):
                synset = row[1].split(maxsplit=1)[:1] if len(row) == 2 else []
                if not synset or not row[0]:
                    raise DatasetError(f"{path}: line {reader.line_num}: {','.join(row)!r} lacks a picture or a synset")
                yield reader.line_num, f"{row[0]}.JPEG", synset[0]  # all of a picture's boxes are of one
            return
        if header.count("path") != 1 or header.count("label") != 1:
            raise DatasetError(f"{path}: its columns are {', '.join(header) or 'none'}; path and label are wanted")
        at_path, at_label = header.index("path"), header.index("label")
        for row in reader:
            if not row:
                continue
            if len(row) != len(header) or not row[at_path] or not (row[at_label].strip() or may_be_empty):
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
