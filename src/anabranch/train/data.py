"""The order in which pictures come, and what a worker does to each before the batch is augmented on the device.

The order is a function of (seed, epoch), a picture's augmentation of (seed, epoch, index, copy): neither depends on the
number of workers or processes, and a run that goes on half-way through an epoch meets the pictures it would have met.
A worker crops; the numbers that decide the rest are drawn by it too, and travel with the picture to the device.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from anabranch.errors import ImageError
from anabranch.images.labelled import Labelled
from anabranch.images.preprocess import Preprocess
from anabranch.pool import pool_of
from anabranch.train.augment import num_draws
from anabranch.train.sets import truth
from anabranch.train.tables import Augment, Recipe

_SHARDS_AT_ONCE = 4  # whose pictures are mixed: each read from one end to the other, more or less


def order(seed: int, epoch: int, data: Labelled, *, balanced: bool = False, repeats: int = 1) -> NDArray[np.int64]:
    """The draws of an epoch, as many as there are pictures, (N, 2): the picture's index and which copy of it.

    Each picture comes once, in an order of its own in each epoch. With `repeats`, fewer come, each so often in a row:
    in one batch, but on different processes, where there are several (Hoffer et al. 2020; counted as timm's
    RepeatAugSampler counts). Balanced, each class comes as often as any other, and within a class no picture comes
    once more before all others have come as often.

    Of a set in shards, a few shards are shuffled together, one such handful after the other, so that files are read
    nearly from end to end; balanced classes come from everywhere all the same.
    """
    rng = np.random.default_rng((seed, epoch))
    if balanced:
        pictures = _balanced(rng, data.labels, math.ceil(len(data) / repeats))
    elif data.groups is not None:
        pictures = _by_handfuls(rng, data.groups)
    else:
        pictures = rng.permutation(len(data))
    indices = np.repeat(pictures[: math.ceil(len(data) / repeats)], repeats)[: len(data)]
    return np.stack([indices, _times_before(indices)], axis=1)


def _balanced(rng: np.random.Generator, labels: NDArray[np.int64], draws: int) -> NDArray[np.int64]:
    """`draws` indices, of each class as many; which classes get one more where that does not come out, is drawn."""
    _, sizes = np.unique(labels, return_counts=True)
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1])
    turns = rng.permutation(np.resize(rng.permutation(len(sizes)), draws))  # whose turn it is: class 0, 1, ...
    num_turns = np.bincount(turns, minlength=len(sizes))
    places = np.split(np.argsort(turns, kind="stable"), np.cumsum(num_turns)[:-1])
    indices = np.empty(draws, np.int64)
    for those, at in zip(members, places, strict=True):
        rounds = [rng.permutation(those) for _ in range(0, len(at), len(those))]
        indices[at] = np.concatenate([those[:0], *rounds])[: len(at)]
    return indices


def _by_handfuls(rng: np.random.Generator, groups: Sequence[range]) -> NDArray[np.int64]:
    shards = [groups[number] for number in rng.permutation(len(groups))]
    handfuls = [shards[start : start + _SHARDS_AT_ONCE] for start in range(0, len(shards), _SHARDS_AT_ONCE)]
    return np.concatenate([rng.permutation(np.concatenate(handful)) for handful in handfuls])


def _times_before(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each index stands before its place: 7 3 7 7 -> 0 0 1 2."""
    together = np.argsort(indices, kind="stable")
    there = indices[together]
    begins = np.flatnonzero(np.diff(there, prepend=-1))
    times = np.empty_like(indices)
    times[together] = np.arange(len(indices)) - np.repeat(begins, np.diff(begins, append=len(indices)))
    return times


def side_at(recipe: Augment, epoch: int, crop_px: int) -> int:
    """The side of training pictures in epoch 0, 1, ...: the recipe's latest, `crop_px` before the first of them."""
    return next((side for first, side in sorted(recipe.side_px, reverse=True) if first <= epoch), crop_px)


def sides(recipe: Recipe) -> Counter[int]:
    """Every side that training pictures have, and for how many epochs."""
    return Counter(side_at(recipe.augment, epoch, recipe.input.crop_px) for epoch in range(recipe.steps.epochs))


def random_resized_crop(
    picture: NDArray[np.uint8], rng: np.random.Generator, recipe: Augment, side_px: int
) -> NDArray[np.uint8]:
    """A random box of the picture, resized to (side_px, side_px, 3) by the recipe's resampler.

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
    box = Image.fromarray(picture[top : top + h, left : left + w])  # Pillow's own `box` looks at pixels around it
    method = Image.Resampling[recipe.resampler.removeprefix("pillow-").upper()]
    return np.asarray(box.resize((side_px, side_px), method))


class Crop(NamedTuple):
    """A picture as it is handed to the device."""

    pixels: NDArray[np.uint8]  # (S, S, 3)
    draws: NDArray[np.float32]  # (D,), uniform in [0, 1): what `augment.Batch` decides by


class Crops:
    """The pictures of a labelled set as squares of `side_px`, which may be set anew between two epochs, as `epoch` may.

    `recipe=None`: as they are tested, nothing drawn.
    """

    def __init__(self, data: Labelled, preprocess: Preprocess, recipe: Augment | None, *, seed: int = 0):
        self.data = data
        self.truth = truth(data)
        self.preprocess = preprocess
        self.recipe = recipe
        self.seed = seed
        self.epoch = 0
        self.side_px = preprocess.crop_px

    def __len__(self) -> int:
        return len(self.data)

    @property
    def num_draws(self) -> int:
        return 0 if self.recipe is None else num_draws(self.recipe)

    def crop(self, index: int, copy: int = 0) -> Crop:
        """Picture `index`; copies of it differ in all that is drawn. Raises ImageError where it cannot be read."""
        picture = self.data.picture(index)
        rng = np.random.default_rng((self.seed, self.epoch, index, copy))
        if self.recipe is not None and self.recipe.crop == "random-resized":
            square = random_resized_crop(picture, rng, self.recipe, self.side_px)
        else:
            square = self._as_tested()(picture)
        return Crop(square, rng.random(self.num_draws, np.float32))

    def _as_tested(self) -> Preprocess:
        """The preprocessing at `side_px`, with the same share of the picture in view."""
        tested = self.preprocess
        if self.side_px == tested.crop_px:
            return tested
        return replace(tested, crop_px=self.side_px, resize_px=round(tested.resize_px * self.side_px / tested.crop_px))


class Share(NamedTuple):
    """One process's part of a batch: n pictures, or none where all of them are unreadable."""

    pixels: Tensor  # (n, S, S, 3) uint8
    labels: Tensor  # (n,) int64, or (n, K) uint8 of 0 and 1 where a picture may show several classes
    draws: Tensor  # (n, D) float32
    unreadable: tuple[str, ...]  # what was wrong with those that were left out, a line each
    indices: Tensor  # (n,) int64: which pictures of the set these are


def batches(
    crops: Crops,
    drawn: NDArray[np.int64],
    batch: int,
    *,
    first: int,
    rank: int,
    processes: int,
    workers: int,
    tolerate: bool = False,
) -> Iterator[Share]:
    """This process's share of each batch of `drawn`, as `order` gives it, from batch `first` on.

    `workers` threads, whose time goes into decoders that let the others run, make the batches to come; 0: the caller's
    own, when it asks for one. A picture that cannot be read raises ImageError, or is left out where that is tolerated.
    A batch of which this process has no picture to read is passed over: the last one may have fewer than `processes`.
    """
    starts = range(first * batch, len(drawn), batch)
    shares = [drawn[start : start + batch][rank::processes].tolist() for start in starts]
    coming = iter([share for share in shares if share])
    if workers == 0:
        yield from (_gathered(crops, share, tolerate) for share in coming)
        return
    window: deque[Future[Share]] = deque()
    with pool_of(workers, "crop") as pool:
        while True:
            while len(window) < 2 * workers and (share := next(coming, None)) is not None:
                window.append(pool.submit(_gathered, crops, share, tolerate))
            if not window:
                return
            yield window.popleft().result()


def _gathered(crops: Crops, share: list[list[int]], tolerate: bool) -> Share:
    read: list[Crop] = []
    indices: list[int] = []
    unreadable: list[str] = []
    for index, copy in share:
        try:
            read.append(crops.crop(index, copy))
        except ImageError as error:
            if not tolerate:
                raise
            unreadable.append(str(error))
        else:
            indices.append(index)
    pixels = np.empty((len(read), crops.side_px, crops.side_px, 3), np.uint8)
    draws = np.empty((len(read), crops.num_draws), np.float32)
    for place, crop in enumerate(read):
        pixels[place], draws[place] = crop.pixels, crop.draws
    labels = torch.from_numpy(crops.truth[indices])
    return Share(
        torch.from_numpy(pixels), labels, torch.from_numpy(draws), tuple(unreadable), torch.tensor(indices).long()
    )
