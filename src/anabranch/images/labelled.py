"""Pictures with their labels, from class folders, list files, CSV, IDX and WebDataset shards.

path                        what it is
FOLDER/class/...            class folders: classes are the sorted names of the folders, as torchvision sorts them, so
                            "10" comes before "2"; pictures lie at any depth below. ImageNet's val/nXXXXXXXX/*.JPEG
FOLDER, split="val"         FOLDER/val
FOLDER, labels=LIST         the pictures in FOLDER that LIST names, relative to it or to the list's own folder.
                            ImageNet's flat val/ with PaddleClas' val_list.txt, with Kaggle's LOC_val_solution.csv, or
                            with the devkit's ground truth: see images.imagenet
LIST                        lines of `path label`, relative to the folder of the list; labels are numbers from 0 on
LIST.csv                    columns path and label; a label is a number, or a name: then classes are the sorted names.
                            With `multi_label`, a picture has any number of labels, between ";"
LIST with classes.json      the names of the classes in their order, an array of strings, beside a list or a CSV
IMAGES-idx3-ubyte[.gz]      IDX; labels=FILE, or the file of that name beside it
FOLDER, split="train"       IDX files in FOLDER, or CIFAR's binary ones: "train" or "test" (t10k)
FOLDER of .tar files        shards, in the order of their names; see images.shards. Without a folder FOLDER/val,
                            split="val" is those whose names hold that word: imagenet1k-val-0000.tar

In a folder, names that begin with a dot are passed over.

Of a listed set, the first file must exist; whether the others do is seen when they are decoded, because asking for a
million files takes minutes. A picture that cannot be read is an ImageError, never left out and never replaced.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anabranch.errors import DatasetError, ImageError
from anabranch.images.cifar import is_cifar, read_cifar
from anabranch.images.decode import decode
from anabranch.images.files import count_ignored, files_in, is_hidden, is_picture, told_ignored
from anabranch.images.idx import IMAGES, is_idx, labels_beside, read_idx
from anabranch.images.imagenet import is_ground_truth, read_ground_truth
from anabranch.images.lists import holds_several, read_rows, read_targets
from anabranch.images.shards import SPLITS, LabelledShards, are_shards, open_shards


class Labelled(Protocol):
    """N pictures, what each is called, and its class."""

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,), each from 0 on; all -1 where a picture may have several, which `targets` holds."""

    @property
    def targets(self) -> NDArray[np.uint8] | None:
        """(N, K), 1 for each class that a picture shows, of a set that was opened with `multi_label`."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The name of class 0, 1, ..., where the set itself names them."""

    @property
    def pixels(self) -> NDArray[np.uint8] | None:
        """All pictures, where the set holds them in memory: (N, H, W, 3), or grey (N, H, W), thrice in `picture`."""

    @property
    def groups(self) -> Sequence[range] | None:
        """The pictures that lie behind one another in a shard, which are read fastest together; None without shards."""

    def __len__(self) -> int: ...

    def picture(self, index: int) -> NDArray[np.uint8]:
        """uint8 (H, W, 3), RGB. Raises ImageError where the file cannot be read."""

    def encoded(self, index: int) -> tuple[str, bytes]:
        """The suffix and the bytes of its file, as they are; a PNG of what lies in memory. Raises ImageError."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledFiles:
    """Pictures in files, decoded when they are asked for. `names` are paths relative to `folder`."""

    folder: str
    names: Sequence[str]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...] | None
    targets: NDArray[np.uint8] | None = None  # (N, K)
    ignored: Mapping[str, int] = field(default_factory=dict)  # files that are not read as pictures, by suffix
    rotate_exif: bool = False

    @property
    def pixels(self) -> None:
        return None

    @property
    def groups(self) -> None:
        return None

    def __len__(self) -> int:
        return len(self.names)

    def picture(self, index: int) -> NDArray[np.uint8]:
        return decode(Path(self.folder, self.names[index]), rotate_exif=self.rotate_exif)

    def encoded(self, index: int) -> tuple[str, bytes]:
        path = Path(self.folder, self.names[index])
        try:
            return path.suffix, path.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a null character in the path
            raise ImageError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


@dataclass(frozen=True, slots=True, eq=False)
class LabelledArray:
    """Pictures of one size, in memory."""

    names: Sequence[str]
    pixels: NDArray[np.uint8]  # (N, H, W), grey, or (N, H, W, 3)
    labels: NDArray[np.int64]
    class_names: tuple[str, ...] | None = None

    @property
    def targets(self) -> None:
        return None

    @property
    def groups(self) -> None:
        return None

    def __len__(self) -> int:
        return len(self.pixels)

    def picture(self, index: int) -> NDArray[np.uint8]:
        pixels = self.pixels[index]
        return np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels  # (H, W, 3)

    def encoded(self, index: int) -> tuple[str, bytes]:
        from PIL import Image

        file = BytesIO()
        Image.fromarray(self.pixels[index]).save(file, "PNG")
        return ".png", file.getvalue()


def upright(data: Labelled) -> Labelled:
    """The same pictures, turned as EXIF says of those that lie in files."""
    return replace(data, rotate_exif=True) if isinstance(data, LabelledFiles | LabelledShards) else data


def place_of(data: Labelled) -> str:
    """What stands before a picture's name where an ImageError tells of it: the folder of its set, which may move."""
    folder = Path(getattr(data, "folder", ""))
    return "" if folder == Path() else os.path.join(folder, "")


def open_labelled(
    path: str | os.PathLike[str],
    *,
    split: str | None = None,
    labels: str | os.PathLike[str] | None = None,
    multi_label: bool = False,
) -> Labelled:
    """The labelled set at `path`; see the table above. Raises DatasetError naming the file, and the line if it has.

    multi_label: the labels stand in a CSV, at `path` or in `labels`, and a picture has any number of them.
    """
    path = Path(path)
    labels = None if labels is None else Path(labels)
    if multi_label and (labels or path).suffix.lower() != ".csv":
        raise DatasetError(f"{labels or path}: several labels a picture (multi_label) are read from a CSV alone")
    if path.is_dir():
        return _in_folder(path, split, labels, multi_label=multi_label)
    if not path.exists():
        raise DatasetError(f"{path}: no such file or folder")
    if split is not None:
        raise DatasetError(
            f"{path}: this is a file, and split {split!r} chooses within a folder; give one, or no split"
        )
    if IMAGES.fullmatch(path.name) or is_idx(path):
        return _idx(path, labels)
    if labels is not None:
        raise DatasetError(f"{path}: a list has its labels within; to say where its pictures lie, give that folder")
    return _listed(path, path.parent, multi_label=multi_label)


def open_pictures(path: str | os.PathLike[str], *, split: str | None = None) -> Labelled:
    """The labelled set at `path`, or all pictures below a folder in which some lie loose, with -1 for their labels.

    A CSV may give them several labels each. Raises DatasetError.
    """
    path = Path(path)
    folder = path if split is None else path / split
    if folder.is_dir() and any(is_picture(each.name) and each.is_file() for each in folder.iterdir()):
        return _below(folder)
    return open_labelled(path, split=split, multi_label=path.is_file() and holds_several(path))


def open_unlabelled(path: str | os.PathLike[str], *, split: str | None = None) -> Labelled:
    """All pictures at any depth below a folder, or those of a set of another kind, with -1 for their labels.

    Raises DatasetError.
    """
    path = Path(path)
    folder = path if split is None else path / split
    if folder.is_dir() and not are_packed(folder, {each.name for each in folder.iterdir()}):
        return _below(folder)
    labelled: Any = open_labelled(path, split=split)
    unlabelled: Labelled = replace(labelled, labels=np.full(len(labelled), -1, np.int64), class_names=None)
    return unlabelled


def are_packed(folder: Path, names: Set[str]) -> bool:
    """Whether `names` in a folder are IDX files, CIFAR's or shards. Raises DatasetError for CIFAR's pickled files."""
    return any(IMAGES.fullmatch(name) or name.endswith(".tar") for name in names) or is_cifar(folder, names)


def _below(folder: Path) -> LabelledFiles:
    files = files_in(folder)
    names = [str(file.relative_to(folder)) for file in files if is_picture(file.name)]
    labels = np.full(len(names), -1, np.int64)
    return LabelledFiles(str(folder), names, labels, None, ignored=count_ignored(files))


def _in_folder(folder: Path, split: str | None, labels: Path | None, *, multi_label: bool) -> Labelled:
    entries = sorted((entry for entry in os.scandir(folder) if not is_hidden(entry.name)), key=lambda entry: entry.name)
    if any(IMAGES.fullmatch(entry.name) for entry in entries):
        return _idx(_idx_images(folder, [entry.name for entry in entries], split), labels)
    if labels is None and is_cifar(folder, names := {entry.name for entry in entries}):
        pixels, numbers, classes = read_cifar(folder, names, split)
        places = [f"{folder}/{split}[{index}]" for index in range(len(pixels))]
        return LabelledArray(places, pixels, numbers, classes)
    if split is not None and (folder / split).is_dir():
        return _in_folder(folder / split, None, labels, multi_label=multi_label)
    if labels is None and are_shards(folder, entries):
        return open_shards(folder, [entry.name for entry in entries], split)
    if split is not None and labels is None:  # lists, as `anabranch split` writes them
        for list_file in (folder / f"{split}.txt", folder / f"{split}.csv"):
            if list_file.is_file():
                return _listed(list_file, folder, multi_label=multi_label)
    if split is not None:
        inside = ", ".join(entry.name for entry in entries[:5]) or "nothing"
        raise DatasetError(f"{folder}: holds no split {split!r}; it holds {inside}")
    if labels is not None:
        return _listed(labels, folder, multi_label=multi_label)
    return _class_folders(folder, entries)


def _class_folders(folder: Path, entries: Sequence[os.DirEntry[str]]) -> LabelledFiles:
    classes = tuple(entry.name for entry in entries if entry.is_dir())
    loose = [entry.name for entry in entries if is_picture(entry.name) and not entry.is_dir()]
    if loose:
        raise DatasetError(
            f"{folder}: {len(loose)} pictures lie in no class folder ({loose[0]}, ...); give labels: a list of "
            "'path label' lines, such as PaddleClas' val_list.txt for ImageNet"
        )
    nowhere = [entry.name for entry in entries if entry.is_symlink() and not os.path.exists(entry.path)]
    if nowhere:
        raise DatasetError(f"{folder / nowhere[0]}: a link that leads nowhere, perhaps a class; mend it or remove it")
    if not classes:
        inside = ", ".join(entry.name for entry in entries[:5]) or "nothing"
        raise DatasetError(
            f"{folder}: holds neither class folders nor IDX files nor shards; it holds {inside}. "
            "A list or a CSV is given as the file itself"
        )
    if SPLITS.issuperset(map(str.lower, classes)):
        raise DatasetError(
            f"{folder}: holds {', '.join(classes)}: these are splits, not classes; give the folder of one of them, or "
            "say which as the split. For a training call them train and val"
        )
    names: list[str] = []
    labels: list[int] = []
    passed_over: Counter[str] = Counter()
    for label, name in enumerate(classes):
        files = files_in(folder / name)
        found = [file for file in files if is_picture(file.name)]
        others = count_ignored(files)
        if not found:
            met = f" ({told_ignored(others)})" if others else ""
            raise DatasetError(f"{folder / name}: this class has no pictures{met}; add some or remove the folder")
        passed_over += others
        names.extend(str(file.relative_to(folder)) for file in found)
        labels.extend([label] * len(found))
    return LabelledFiles(str(folder), names, np.array(labels, np.int64), classes, ignored=passed_over)


def _listed(file: Path, folder: Path, *, multi_label: bool) -> LabelledFiles:
    targets = None
    if multi_label:
        names, targets, classes = read_targets(file)
        labels = np.full(len(names), -1, np.int64)
    elif file.is_file() and is_ground_truth(file):
        names, labels, classes = read_ground_truth(file, folder)
    else:
        names, labels, classes = read_rows(file)
    first = folder / names[0]
    beside = file.parent / names[0]
    if not first.exists() and beside.exists() and beside.resolve().is_relative_to(folder.resolve()):
        return LabelledFiles(str(file.parent), names, labels, classes, targets)
    if not first.exists():
        raise DatasetError(
            f"{file}: its first picture, {first}, does not exist; its paths are relative to {folder}, or lead there "
            "from the list's own folder"
        )
    return LabelledFiles(str(folder), names, labels, classes, targets)


def _idx_images(folder: Path, names: Sequence[str], split: str | None) -> Path:
    found = {name: match["split"] for name in names if (match := IMAGES.fullmatch(name))}
    wanted = {"test": {"test", "t10k"}}.get(split or "", {split or ""})
    chosen = [name for name, of in found.items() if split is None or of in wanted]
    if len(chosen) != 1:
        met = "several" if chosen else "no"
        asked = f" for split {split!r}" if split else ""
        raise DatasetError(
            f"{folder}: {met} IDX images{asked} among {', '.join(found)}; give the file itself, or say as the split "
            "'train' or 'test'"
        )
    return folder / chosen[0]


def _idx(images: Path, labels: Path | None) -> LabelledArray:
    labels = labels or labels_beside(images)
    pixels = read_idx(images, num_dimensions=3)
    classes = read_idx(labels, num_dimensions=1)
    if len(pixels) != len(classes):
        raise DatasetError(f"{images}: holds {len(pixels)} pictures, but {labels} holds {len(classes)} labels")
    if pixels.size == 0:
        raise DatasetError(f"{images}: holds no pictures: its header says {pixels.shape}")
    names = [f"{images}[{index}]" for index in range(len(pixels))]
    return LabelledArray(names, pixels, classes.astype(np.int64))
