"""The order in which pictures come, and what a worker does to each before the batch is augmented on the device.

The order is a function of (seed, epoch), a picture's crop of (seed, epoch, index): neither depends on the number of
workers or processes, and a run that goes on half-way through an epoch meets the pictures it would have met.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from anabranch.errors import DatasetError
from anabranch.images.labelled import Labelled, open_labelled
from anabranch.images.preprocess import Preprocess
from anabranch.train.recipe import Augment, Data, Source


class Sets(NamedTuple):
    """What a run learns from and what it is tested on, both in the classes of `class_names`."""

    shown: Labelled
    tested: Labelled
    class_names: tuple[str, ...]


def open_sets(data: Data) -> Sets:
    """Raises DatasetError where the two sets, or the recipe's names and a set's own, do not fit together."""
    shown, tested = _open(data.train), _open(data.test)
    for other, path in ((tested.class_names, data.test.path), (data.class_names, "data.class_names")):
        if None not in (shown.class_names, other) and shown.class_names != other:
            raise DatasetError(
                f"{path}: its classes {_some(other)} are not those of {data.train.path}, {_some(shown.class_names)}"
            )
    names = shown.class_names or tested.class_names or data.class_names
    if names is None:
        raise DatasetError(f"{data.train.path}: its classes have no names; give data.class_names in the recipe")
    for labelled, path in ((shown, data.train.path), (tested, data.test.path)):
        if len(labelled) == 0:
            raise DatasetError(f"{path}: holds no pictures")
        if (largest := int(labelled.labels.max())) >= len(names):
            raise DatasetError(f"{path}: holds label {largest}, but there are {len(names)} class names")
    return Sets(shown, tested, tuple(names))


def _open(source: Source) -> Labelled:
    return open_labelled(Path(source.path), split=source.split, labels=Path(source.labels) if source.labels else None)


def _some(names: tuple[str, ...] | None) -> str:
    assert names is not None
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(count)


def random_resized_crop(
    picture: NDArray[np.uint8], rng: np.random.Generator, recipe: Augment, side_px: int
) -> NDArray[np.uint8]:
    """A random box of the picture, resized to (side_px, side_px, 3) by Pillow's bilinear.

    Source: Szegedy et al. 2015, section 6; after ten boxes that do not fit, the largest centred one, as torchvision.
    """
    height, width = picture.shape[:2]
    for _ in range(10):
        area = height * width * rng.uniform(*recipe.scale)
        aspect = math.exp(rng.uniform(math.log(recipe.aspect[0]), math.log(recipe.aspect[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
            break
    else:
        aspect = min(max(width / height, recipe.aspect[0]), recipe.aspect[1])
        w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
        left, top = (width - w) // 2, (height - h) // 2
    box = (left, top, left + w, top + h)
    return np.asarray(Image.fromarray(picture).resize((side_px, side_px), Image.Resampling.BILINEAR, box=box))


class Crops:
    """Picture i of a labelled set as a square: (S, S, 3) uint8 and its label. `recipe=None`: as it is tested."""

    def __init__(self, data: Labelled, preprocess: Preprocess, recipe: Augment | None, *, seed: int = 0):
        self.data = data
        self.preprocess = preprocess
        self.recipe = recipe
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        picture = self.data.picture(index)
        if self.recipe is None or self.recipe.crop == "padded":
            square = self.preprocess(picture)
        else:
            rng = np.random.default_rng((self.seed, self.epoch, index))
            square = random_resized_crop(picture, rng, self.recipe, self.preprocess.crop_px)
        return square, int(self.data.labels[index])


def batches(
    crops: Crops, indices: NDArray[np.int64], batch: int, *, first: int, rank: int, processes: int, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's share of each batch of `indices` from batch `first` on: (n, S, S, 3) uint8 and (n,) int64.

    `workers` threads, whose time goes into decoders that let the others run, make the batches to come; 0: the caller's
    own, when it asks for one. Raises ImageError for a picture that cannot be read.
    """
    starts = range(first * batch, len(indices), batch)
    shares = [indices[start : start + batch][rank::processes].tolist() for start in starts]
    coming = iter([share for share in shares if share])
    if workers == 0:
        yield from (_gathered(crops, share) for share in coming)
        return
    window: deque[Future[tuple[Tensor, Tensor]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="crop")
    try:
        while True:
            while len(window) < 2 * workers and (share := next(coming, None)) is not None:
                window.append(pool.submit(_gathered, crops, share))
            if not window:
                return
            yield window.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _gathered(crops: Crops, share: list[int]) -> tuple[Tensor, Tensor]:
    squares, labels = zip(*(crops[index] for index in share), strict=True)
    return torch.from_numpy(np.stack(squares)), torch.tensor(labels)
