"""Pictures in, ordered answers out: decoding runs in threads beside inference, and memory stays bounded.

A batch is whatever has been decoded by the time the engine is free, so the first answer comes at once and a batch
never waits for pictures that are slow to read.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from anabranch.card import Card
from anabranch.errors import Error, UsageError
from anabranch.runtimes.predictor import Predictor, sigmoid, softmax

if TYPE_CHECKING:  # half as long to import as numpy itself
    from numpy.typing import NDArray

Source = Path | tuple[str, bytes]  # a file, or a name and what a file would hold


class Picture(NamedTuple):
    """One picture to be read: `read` gives uint8 (H, W, 3) and may raise any anabranch.Error."""

    name: str
    read: Callable[[], NDArray[np.uint8]]


class Guess(NamedTuple):
    class_index: int
    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Answer:
    name: str
    logits: NDArray[np.float32] | None  # (K,); None if the picture could not be read
    guesses: tuple[Guess, ...]  # best first
    error: str | None
    decode_ms: float  # reading, decoding and preprocessing, in its own thread
    infer_ms: float  # its share of the batch that it ran in


def classify(
    predictor: Predictor, sources: Iterable[Source], *, top: int = 5, batch: int = 8, workers: int | None = None
) -> Iterator[Answer]:
    """One answer for each source, in their order. See `answer`."""
    return answer(predictor, map(_picture, sources), top=top, batch=batch, workers=workers)


def answer(
    predictor: Predictor, pictures: Iterable[Picture], *, top: int = 5, batch: int = 8, workers: int | None = None
) -> Iterator[Answer]:
    """One answer for each picture, in their order, with its `top` best classes.

    A picture that cannot be read gives an answer that says why, and the others go on. At most `2 * batch + workers`
    pictures are held at a time. `workers`: None for one per core. Raises UsageError.
    """
    for name, value in (("top", top), ("batch", batch), ("workers", workers)):
        if value is not None and value < 1:
            raise UsageError(f"{name} = {value} does not fit: at least 1 is wanted")
    return _answers(predictor, pictures, top=top, batch=batch, workers=workers or _usable_cores())


def _usable_cores() -> int:
    """Those that this process may run on, which in a container are fewer than the machine has; at most 8 decode."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, usable)


class _Read(NamedTuple):
    name: str
    pixels: NDArray[np.uint8] | None  # (S, S, 3)
    error: str | None
    decode_ms: float


def _answers(
    predictor: Predictor, pictures: Iterable[Picture], *, top: int, batch: int, workers: int
) -> Iterator[Answer]:
    coming = iter(pictures)
    window: deque[Future[_Read]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        while True:
            while len(window) < 2 * batch + workers and (picture := next(coming, None)) is not None:
                window.append(pool.submit(_read, predictor, picture))
            if not window:
                return
            yield from _answer_batch(predictor, _taken(window, batch), top)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _taken(window: deque[Future[_Read]], batch: int) -> list[_Read]:
    """Wait for the first picture and take with it those after it that are done: 1, 2, 4, ... up to `batch` of them.

    Powers of two, because an engine prepares itself anew for each size of batch that it meets.
    """
    done = 1
    while done < min(batch, len(window)) and window[done].done():
        done += 1
    return [window.popleft().result() for _ in range(1 << (done.bit_length() - 1))]


def _read(predictor: Predictor, picture: Picture) -> _Read:
    start = perf_counter()
    try:
        pixels, error = predictor.card.preprocess(picture.read()), None
    except Error as met:
        pixels, error = None, str(met) if picture.name in str(met) else f"{picture.name}: {met}"
    return _Read(picture.name, pixels, error, (perf_counter() - start) * 1000)


def _answer_batch(predictor: Predictor, reads: list[_Read], top: int) -> Iterator[Answer]:
    readable = [read.pixels for read in reads if read.pixels is not None]
    start = perf_counter()
    logits = iter(predictor.predict(np.stack(readable)) if readable else np.empty((0, 0), np.float32))
    infer_ms = (perf_counter() - start) * 1000 / max(1, len(readable))
    for read in reads:
        if read.pixels is None:
            yield Answer(read.name, None, (), read.error, read.decode_ms, 0.0)
        else:
            row = next(logits)
            yield Answer(read.name, row, _guesses(row, predictor.card, top), None, read.decode_ms, infer_ms)


def _guesses(logits: NDArray[np.float32], card: Card, top: int) -> tuple[Guess, ...]:
    """Best first; of equal ones the lower index. A probability is of one class among all, or of each by itself."""
    probabilities = sigmoid(logits) if card.multi_label else softmax(logits)
    best = np.argsort(-logits, kind="stable")[:top]
    return tuple(Guess(int(index), card.labels[index], float(probabilities[index])) for index in best)


def _picture(source: Source) -> Picture:
    from anabranch.images.decode import decode

    if isinstance(source, Path):
        return Picture(str(source), lambda: decode(source))
    name, held = source
    return Picture(name, lambda: decode(held, name=name))
