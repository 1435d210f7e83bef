"""Pictures that are the same or nearly so, within a set or between two: the leak of test pictures into training.

The same: equal pixels, told by their SHA-256. Alike: perceptual hashes of 64 bits that differ in at most `radius` of
them, which survives another size, another format and strong compression. Source: Zauner 2010, "Implementation and
benchmarking of perceptual image hash functions", section 3.2.1, as ImageHash's `phash` computes it.

Small or plain pictures have little to tell them apart, so that pictures that are alike are to be looked at, not deleted
unseen. A million pictures are compared in minutes: nothing here takes the square of their number, and pictures of one
hash, be they all of the blank ones, are one group and not pairs.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anabranch.errors import DatasetError, ImageError, UsageError, need
from anabranch.images.labelled import Labelled
from anabranch.pool import pool_of

RADIUS = 4  # of 64 bits; unrelated photos differ in about half of them
MOST_RADIUS = 8
MOST_PAIRS = 1_000_000
_BITS_SET = np.array([value.bit_count() for value in range(1 << 16)], np.uint8)


class Group(NamedTuple):
    """Pictures of equal pixels ("same"), or those that one hash stands for ("alike")."""

    kind: Literal["same", "alike"]
    first: tuple[str, ...]  # names in the set
    second: tuple[str, ...]  # names in the other set; empty without one
    labels_differ: bool


class Pair(NamedTuple):
    """Two pictures whose hashes differ in `distance` bits, each the first of those that have its hash."""

    first: str
    second: str  # of the other set where there is one
    distance: int
    labels_differ: bool


@dataclass(frozen=True, slots=True)
class Found:
    groups: tuple[Group, ...]
    pairs: tuple[Pair, ...]  # nearest first
    num_pictures: int  # that were read, of the set
    num_other: int | None  # and of the other one
    num_met: int  # pictures of the other set that have a match in the set; without one, those that have any match
    unreadable: tuple[tuple[str, str], ...]  # name and reason; in no count above


@dataclass(frozen=True, slots=True, eq=False)
class _Prints:
    """What M readable pictures, of one set and then of the other, are compared by."""

    names: list[str]
    labels: list[Hashable]
    of_other: NDArray[np.bool_]  # (M,)
    digests: NDArray[np.void]  # (M,), 16 bytes of the pixels' SHA-256
    codes: NDArray[np.uint64]  # (M,), perceptual hashes; numbers of the digests where those are not wanted
    unreadable: tuple[tuple[str, str], ...]

    def match(self, members: NDArray[np.int64]) -> bool:
        """Whether some are of either set, where there are two."""
        return not self.of_other.any() or len(np.unique(self.of_other[members])) == 2

    def labels_differ(self, members: Sequence[int]) -> bool:
        """Of those that have labels."""
        return len({self.labels[member] for member in members} - {None}) > 1


def find_duplicates(
    data: Labelled,
    other: Labelled | None = None,
    *,
    radius: int | None = RADIUS,
    workers: int | None = None,
    report: Callable[[], None] = lambda: None,
) -> Found:
    """Pictures of `data` that occur again in it, or, given `other`, that occur in there; matches within each are left.

    radius: None for equal pixels alone. workers: threads that decode; None for one per core. `report` is called after
    each picture. Raises UsageError, DatasetError where more than a million pairs are alike, and MissingExtra.
    """
    prints = _fingerprints((data,) if other is None else (data, other), radius, workers, report)
    num_other = None if other is None else int(prints.of_other.sum())
    num_pictures = len(prints.names) - (num_other or 0)
    if 0 in (num_pictures, num_other):  # nothing could be read of one of them
        return Found((), (), num_pictures, num_other, 0, prints.unreadable)
    met = np.zeros(len(prints.names), bool)
    groups = list(_same(prints, met))
    pairs: list[Pair] = []
    if radius is not None:
        groups += _alike(prints, met)
        pairs += _pairs(prints, met, radius)
    if other is not None:
        met &= prints.of_other
    return Found(tuple(groups), tuple(pairs), num_pictures, num_other, int(met.sum()), prints.unreadable)


def alike_groups(
    data: Labelled,
    *,
    radius: int | None = RADIUS,
    workers: int | None = None,
    report: Callable[[], None] = lambda: None,
) -> NDArray[np.int64]:
    """(N,) for each picture the number of its group: of those that equality or likeness links, if over several others.

    Raises what `find_duplicates` does, and ImageError for the first picture that cannot be read.
    """
    prints = _fingerprints((data,), radius, workers, report)
    if prints.unreadable:
        raise ImageError(prints.unreadable[0][1])
    codes, group_of = np.unique(prints.codes, return_inverse=True)
    links, _ = close_pairs(codes, radius or 0)
    linked = np.arange(len(codes))
    while True:
        lowest = linked.copy()
        np.minimum.at(lowest, links[:, 0], linked[links[:, 1]])
        np.minimum.at(lowest, links[:, 1], linked[links[:, 0]])
        lowest = lowest[lowest]  # who points at one that points on, points there
        if np.array_equal(lowest, linked):
            return linked[group_of]
        linked = lowest


def close_pairs(codes: NDArray[np.uint64], radius: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of N different codes differ in at most `radius` bits: (P, 2) indices, the lower first, and (P,) distances.

    Of radius + 1 bands of bits, two such codes have one in common: codes are compared within each value of each band.
    Raises UsageError for a radius that would leave too few bits a band, DatasetError beyond `MOST_PAIRS`.
    """
    if not 0 <= radius <= MOST_RADIUS:
        raise UsageError(f"radius {radius} does not fit: from 0 to {MOST_RADIUS} of 64 bits may differ")
    edges = [64 * band // (radius + 1) for band in range(radius + 2)]
    masks = [np.uint64((1 << high) - (1 << low)) for low, high in pairwise(edges)]
    found, distances, count = [np.empty((0, 2), np.int64)], [np.empty(0, np.int64)], 0
    for at, mask in enumerate(masks):
        order = np.argsort(codes & mask, kind="stable")
        ordered, band = codes[order], (codes & mask)[order]
        alive = np.arange(len(codes))  # those with a neighbour `step` further on in the same band
        for step in range(1, len(codes)):
            alive = alive[alive + step < len(codes)]
            alive = alive[band[alive] == band[alive + step]]
            if not len(alive):
                break
            unlike = ordered[alive] ^ ordered[alive + step]
            distance = _BITS_SET[unlike.view(np.uint16)].reshape(-1, 4).sum(axis=1, dtype=np.int64)
            near = distance <= radius
            for earlier in masks[:at]:  # equal there, they have been found there
                near &= (unlike & earlier) != 0
            found.append(np.sort(order[np.stack([alive[near], alive[near] + step], axis=1)], axis=1))
            distances.append(distance[near])
            count += int(near.sum())
            if count > MOST_PAIRS:
                raise DatasetError(
                    f"more than {MOST_PAIRS:,} pairs of pictures are alike within {radius} of 64 bits; "
                    "they are too plain for this; ask for a smaller radius"
                )
    return np.concatenate(found), np.concatenate(distances)


# ---- Fingerprints --------------------------------------------------------------------------------------------------


def _fingerprints(
    sets: Sequence[Labelled], radius: int | None, workers: int | None, report: Callable[[], None]
) -> _Prints:
    if radius is not None and not 0 <= radius <= MOST_RADIUS:  # before hours of decoding
        raise UsageError(f"radius {radius} does not fit: from 0 to {MOST_RADIUS} of 64 bits may differ")
    if workers is not None and workers < 1:
        raise UsageError(f"workers = {workers} does not fit: at least 1 is wanted")
    perceptual = None if radius is None else need("imagehash", extra="train").phash
    names, labels, of_other, digests, codes, unreadable = [], [], [], [], [], []
    said = [_labels(data, by_name=all(each.class_names is not None for each in sets)) for data in sets]
    for number, index, met in _in_threads(sets, perceptual, workers or _usable_cores()):
        if isinstance(met, ImageError):
            unreadable.append((sets[number].names[index], str(met)))
        else:
            names.append(sets[number].names[index])
            labels.append(said[number](index))
            of_other.append(number == 1)
            digests.append(met[0])
            codes.append(met[1])
        report()
    named = np.frombuffer(b"".join(digests), "V16")
    if perceptual is None:
        codes = np.unique(named, return_inverse=True)[1].tolist()
    return _Prints(names, labels, np.array(of_other, bool), named, np.array(codes, np.uint64), tuple(unreadable))


def _labels(data: Labelled, *, by_name: bool) -> Callable[[int], Hashable]:
    """What is compared of a picture's label, if it has one: sets that name their classes may number them otherwise."""
    targets, names = data.targets, data.class_names
    if by_name and names is not None:
        if targets is not None:
            return lambda index: frozenset(names[number] for number in targets[index].nonzero()[0])
        return lambda index: frozenset([names[data.labels[index]]])
    if targets is not None:
        return lambda index: targets[index].tobytes()
    return lambda index: int(data.labels[index]) if data.labels[index] >= 0 else None


def _in_threads(
    sets: Sequence[Labelled], perceptual: Any, workers: int
) -> Iterator[tuple[int, int, tuple[bytes, int] | ImageError]]:
    """Set, index and fingerprint of every picture, in order; decoders let other threads run."""
    coming = ((number, index) for number, data in enumerate(sets) for index in range(len(data)))
    window: deque[tuple[int, int, Future[tuple[bytes, int] | ImageError]]] = deque()
    with pool_of(workers, "fingerprint") as pool:
        while True:
            while len(window) < 4 * workers and (place := next(coming, None)) is not None:
                number, index = place
                window.append((number, index, pool.submit(_fingerprint, sets[number], index, perceptual)))
            if not window:
                return
            number, index, waited = window.popleft()
            yield number, index, waited.result()


def _fingerprint(data: Labelled, index: int, perceptual: Any) -> tuple[bytes, int] | ImageError:
    try:
        picture = np.ascontiguousarray(data.picture(index))
    except ImageError as error:
        return error
    digest = hashlib.sha256(f"{picture.shape}".encode())
    digest.update(picture.data)
    code = 0
    if perceptual is not None:
        code = int.from_bytes(np.packbits(perceptual(Image.fromarray(picture)).hash).tobytes(), "big")
    return digest.digest()[:16], code


def _usable_cores() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, usable)


# ---- Matches -------------------------------------------------------------------------------------------------------


def _same(prints: _Prints, met: NDArray[np.bool_]) -> Iterator[Group]:
    for members in _equal(prints.digests):
        if prints.match(members):
            met[members] = True
            yield _group("same", members, prints)


def _alike(prints: _Prints, met: NDArray[np.bool_]) -> Iterator[Group]:
    """Unequal pictures of equal hash; of equal ones, one of each set stands for them."""
    for members in _equal(prints.codes):
        digest = np.unique(prints.digests[members], return_inverse=True)[1]
        first = np.unique(2 * digest + prints.of_other[members], return_index=True)[1]
        chosen = members[np.sort(first)]
        if digest.any() and prints.match(chosen):
            met[members] = True
            yield _group("alike", chosen, prints)


def _equal(values: NDArray[Any]) -> Iterator[NDArray[np.int64]]:
    """The indices of each value that occurs more than once, rising; the groups in the order of their first."""
    _, number, counts = np.unique(values, return_inverse=True, return_counts=True)
    parts = np.split(np.argsort(number, kind="stable"), np.cumsum(counts)[:-1])
    yield from sorted((part for part in parts if len(part) > 1), key=lambda part: int(part[0]))


def _group(kind: Literal["same", "alike"], members: NDArray[np.int64], prints: _Prints) -> Group:
    names: tuple[list[str], list[str]] = ([], [])
    for member in members.tolist():
        names[int(prints.of_other[member])].append(prints.names[member])
    return Group(kind, tuple(names[0]), tuple(names[1]), prints.labels_differ(members.tolist()))


def _pairs(prints: _Prints, met: NDArray[np.bool_], radius: int) -> list[Pair]:
    codes, number = np.unique(prints.codes, return_inverse=True)
    links, distances = close_pairs(codes, radius)
    two = bool(prints.of_other.any())
    first = _first_of(number, len(codes), ~prints.of_other)
    second = _first_of(number, len(codes), prints.of_other) if two else first
    matched = np.zeros((2, len(codes)), bool)  # codes that have a match in the other set, for each set
    pairs = []
    for (a, b), distance in zip(links.tolist(), distances.tolist(), strict=True):
        for one, other in ((a, b), (b, a)) if two else ((a, b),):
            if first[one] < 0 or second[other] < 0:
                continue
            matched[0, one] = matched[1, other] = True
            ends = [int(first[one]), int(second[other])]
            ends.sort()  # the set's before the other's, the earlier before the later
            pairs.append((distance, ends, prints.labels_differ(ends)))
    if not two:
        matched[:] = matched.any(axis=0)
    met |= np.where(prints.of_other, matched[1][number], matched[0][number])
    return [
        Pair(prints.names[ends[0]], prints.names[ends[1]], distance, differ) for distance, ends, differ in sorted(pairs)
    ]


def _first_of(number: NDArray[np.int64], count: int, among: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(count,) the first index of each number among some; -1 where there is none."""
    first = np.full(count, -1, np.int64)
    places = np.flatnonzero(among)[::-1]
    first[number[places]] = places  # of several writes the last one stays: the first index
    return first
