"""Pictures in, ordered answers out: decoding runs in threads beside inference, and memory stays bounded.

A batch is whatever has been decoded by the time the engine has room for one more, so the first answer comes at once
and a batch never waits for pictures that are slow to read. One batch more than the engine has streams is on its way, so
that no stream waits for what is done with answers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from anabranch.card import Card
from anabranch.engines import usable_cores
from anabranch.errors import Error, UsageError
from anabranch.pool import pool_of
from anabranch.runtimes.predictor import Predictor, sigmoid, softmax

if TYPE_CHECKING:  # half as long to import as numpy itself
    from numpy.typing import NDArray

_MOST_WORKERS = 32  # each holds a picture as it was taken

Source = str | Path | tuple[str, bytes]  # a file, or a name and what a file would hold


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
    logits: NDArray[np.float32] | None  # (K,); None where there is an error
    guesses: tuple[Guess, ...]  # best first
    error: str | None
    decode_ms: float  # reading, decoding and preprocessing, in its own thread
    infer_ms: float  # its share of the batch that it ran in


def classify(
    predictor: Predictor,
    sources: Iterable[Source],
    *,
    top: int = 5,
    batch: int = 8,
    workers: int | None = None,
    scaled: bool = False,
    rotate_exif: bool = False,
) -> Iterator[Answer]:
    """One answer for each source, in their order. See `answer`.

    scaled: decode large JPEGs at a fraction of their sides that leaves twice what they are resized to. Sooner, and not
    the publisher's pixels. rotate_exif: turn photos upright as EXIF says, which OpenCV does and so PaddleClas and
    mmpretrain, but not torchvision and timm.
    """
    at_least_px = 2 * predictor.card.preprocess.resize_px if scaled else None
    pictures = (_picture(source, at_least_px=at_least_px, rotate_exif=rotate_exif) for source in sources)
    return answer(predictor, pictures, top=top, batch=batch, workers=workers)


def answer(
    predictor: Predictor, pictures: Iterable[Picture], *, top: int = 5, batch: int = 8, workers: int | None = None
) -> Iterator[Answer]:
    """One answer for each picture, in their order, with its `top` best classes.

    A picture that cannot be read, or whose logits are not finite, gives an answer that says so, and the others go on.
    At most `workers` and, with S streams, `(S + 3) * batch` pictures are held at a time. `workers`: None for one per
    core, at most 32. Raises UsageError.
    """
    for name, value in (("top", top), ("batch", batch), ("workers", workers)):
        if value is not None and value < 1:
            raise UsageError(f"{name} = {value} does not fit: at least 1 is wanted")
    return _answers(predictor, pictures, top=top, batch=batch, workers=workers or min(_MOST_WORKERS, usable_cores()))


class _Read(NamedTuple):
    name: str
    pixels: NDArray[np.uint8] | None  # (S, S, 3)
    error: str | None
    decode_ms: float


class _Asked(NamedTuple):
    reads: list[_Read]
    logits: Future[tuple[NDArray[np.float32], float]]  # of those that could be read, and milliseconds


def _answers(
    predictor: Predictor, pictures: Iterable[Picture], *, top: int, batch: int, workers: int
) -> Iterator[Answer]:
    coming = iter(pictures)
    window: deque[Future[_Read]] = deque()
    asked: deque[_Asked] = deque()
    with pool_of(workers, "decode") as decoders, pool_of(predictor.streams, "infer") as streams:
        while True:
            while len(window) < 2 * batch + workers and (picture := next(coming, None)) is not None:
                window.append(decoders.submit(_read, predictor, picture))
            if window and len(asked) <= predictor.streams:
                if asked:
                    either: list[Future[Any]] = [asked[0].logits, window[0]]
                    wait(either, return_when=FIRST_COMPLETED)
                if not asked or not asked[0].logits.done():
                    reads = _taken(window, batch)
                    asked.append(_Asked(reads, streams.submit(_infer, predictor, reads)))
                    continue
            if not asked:
                return
            yield from _answered(asked.popleft(), predictor.card, top)


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


def _infer(predictor: Predictor, reads: list[_Read]) -> tuple[NDArray[np.float32], float]:
    readable = [read.pixels for read in reads if read.pixels is not None]
    start = perf_counter()
    logits = predictor.predict(np.stack(readable)) if readable else np.empty((0, 0), np.float32)
    return logits, (perf_counter() - start) * 1000


def _answered(asked: _Asked, card: Card, top: int) -> Iterator[Answer]:
    logits, infer_ms = asked.logits.result()
    rows = iter(logits)
    for read in asked.reads:
        if read.pixels is None:
            yield Answer(read.name, None, (), read.error, read.decode_ms, 0.0)
            continue
        row, taken_ms = next(rows), infer_ms / len(logits)
        if np.isfinite(row).all():
            yield Answer(read.name, row, _guesses(row, card, top), None, read.decode_ms, taken_ms)
        else:
            error = f"{read.name}: {card.weights.name} answers with logits that are not finite; export it again"
            yield Answer(read.name, None, (), error, read.decode_ms, taken_ms)


def _guesses(logits: NDArray[np.float32], card: Card, top: int) -> tuple[Guess, ...]:
    """Best first; of equal ones the lower index. A probability is of one class among all, or of each by itself."""
    probabilities = sigmoid(logits) if card.multi_label else softmax(logits)
    best = np.argsort(-logits, kind="stable")[:top]
    return tuple(Guess(int(index), card.labels[index], float(probabilities[index])) for index in best)


def _picture(source: Source, **how: Any) -> Picture:
    from anabranch.images.decode import decode

    if isinstance(source, str | Path):
        path = Path(source)
        return Picture(str(path), lambda: decode(path, **how))
    if not (isinstance(source, tuple) and len(source) == 2):
        raise UsageError(f"a picture is a path, or a name and the bytes of a file; this is a {type(source).__name__}")
    name, held = source
    return Picture(name, lambda: decode(held, name=name, **how))
