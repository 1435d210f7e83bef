"""ImageNet-1k's validation pictures with the labels of its makers' devkit.

ILSVRC2012_validation_ground_truth.txt has a line for each picture, the number of its class from 1 on, in the order of
the devkit's own table of synsets, meta.mat. Classes here stand in the sorted order of their WordNet ids, as every
published net has them, and as the folders of the training pictures are called.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anabranch.errors import DatasetError, need, shown
from anabranch.images.files import is_picture

TRUTH = "ILSVRC2012_validation_ground_truth.txt"
TABLE = "meta.mat"
_NUMBERED = re.compile(r".*_(\d{8})\.jpe?g", re.IGNORECASE)  # ILSVRC2012_val_00000001.JPEG


def is_ground_truth(file: Path) -> bool:
    """Whether the first lines of a list are numbers and nothing else."""
    with file.open("rb") as opened:
        lines = [opened.readline(100).strip() for _ in range(3)]
    return all(line.isdigit() for line in lines if line) and any(lines)


def read_ground_truth(file: Path, folder: Path) -> tuple[list[str], NDArray[np.int64], tuple[str, ...]]:
    """The names of the pictures in `folder`, the class (N,) of each, and the WordNet ids of the classes.

    Raises DatasetError where the pictures are not those that are counted, or the table is missing or damaged, and
    MissingExtra.
    """
    table = file.with_name(TABLE)
    if not table.is_file():
        raise DatasetError(
            f"{file}: these are numbers without pictures, in the order of the devkit's own table of classes. Put that, "
            f"{TABLE}, beside it, or give a list of 'path label' lines with labels 0..999, such as PaddleClas' "
            "val_list.txt"
        )
    ids = _ids(table)
    classes = tuple(sorted(ids.values()))
    label_of = {number: classes.index(wordnet_id) for number, wordnet_id in ids.items()}
    names = sorted(each.name for each in folder.iterdir() if is_picture(each.name))
    numbers = file.read_text(encoding="ascii", errors="replace").split()
    if len(names) != len(numbers):
        raise DatasetError(
            f"{file}: labels {len(numbers):,} pictures, and {folder} holds {len(names):,}; give the folder of them all "
            "with the file as its labels"
        )
    labels = np.empty(len(names), np.int64)
    for index, (name, number) in enumerate(zip(names, numbers, strict=True)):
        numbered = _NUMBERED.fullmatch(name)
        if numbered is None or int(numbered[1]) != index + 1:
            raise DatasetError(
                f"{folder / name}: picture {index + 1} of {TRUTH} is called ILSVRC2012_val_{index + 1:08d}.JPEG; give "
                "the folder as it was published, or a list of 'path label' lines"
            )
        if not number.isdigit() or int(number) not in label_of:
            raise DatasetError(f"{file}: line {index + 1}: {shown(number)} is no class of {table}")
        labels[index] = label_of[int(number)]
    return names, labels, classes


def _ids(table: Path) -> dict[int, str]:
    """Number -> WordNet id, of the synsets that are classes themselves and not kinds of classes."""
    matlab = need("scipy.io", extra="train")
    try:
        synsets = matlab.loadmat(table, squeeze_me=True)["synsets"]
        rows = zip(synsets["ILSVRC2012_ID"], synsets["WNID"], synsets["num_children"], strict=True)
        ids = {int(number): str(wordnet_id) for number, wordnet_id, children in rows if int(children) == 0}
    except Exception as error:  # whatever a damaged file makes of the reader
        raise DatasetError(f"{table}: not the devkit's table of classes ({shown(error)}); take another copy") from None
    if not ids:
        raise DatasetError(f"{table}: names no classes; take another copy")
    return ids
