"""`anabranch classify`: pictures in, their best classes out, as a table, JSON or CSV."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from anabranch.errors import UsageError
from anabranch.images.decode import MAX_FILE_BYTES
from anabranch.images.files import picture_files
from anabranch.runtimes.pipeline import Answer, classify
from anabranch.runtimes.predictor import Predictor
from anabranch.screen import bold, counted, print_json_list, spelt, width_of
from anabranch.verbs.progress import progress_bar
from anabranch.verbs.rows import Rows, csv_rows

MANY = 20  # pictures from which on speed counts for more than the first answer, and a bar is worth its room

Source = str | tuple[str, bytes]  # a file, or a name and what a file would hold


def run(
    predictor: Predictor,
    sources: Sequence[Source],
    *,
    asked: Sequence[str],
    top: int,
    json: bool,
    csv_file: str | None,
    resume: bool,
    scaled: bool,
    rotate_exif: bool,
) -> int:
    """Print the answers for `sources` and return the exit status: 1 where a picture could not be read.

    `asked`: the words that the sources are meant by, which `resume` holds a stopped run to.
    """
    started = perf_counter()
    failed = 0  # before this run, which goes on with another

    def answers(sources: Sequence[Source]) -> Iterator[Answer]:
        bare = sys.stdout is not None and sys.stdout.isatty() and (json or csv_file == "-")  # a bar would spoil it
        answered = classify(predictor, sources, top=top, scaled=scaled, rotate_exif=rotate_exif)
        return _counted(answered, 0 if bare else len(sources))

    if csv_file is not None:
        top = min(top, predictor.card.num_classes)
        maker = _maker(predictor, asked, sources, scaled, rotate_exif)
        with csv_rows(csv_file, _header(top), maker=maker, resume=resume) as rows:
            left = [each for each in sources if not rows.take(each if isinstance(each, str) else each[0])]
            if gone := rows.left_over():
                print(
                    f"{csv_file} keeps the rows of {counted(len(gone), 'picture')} asked for before and not now, "
                    f"{spelt(gone[0])} the first",
                    file=sys.stderr,
                )
            tally = _write_csv(answers(left), rows, top)
            failed = rows.unreadable
    elif json:
        tally = _print_json(answers(sources))
    else:
        tally = _print_blocks(answers(sources))
    if not json and csv_file != "-":
        print(_summary(tally, perf_counter() - started, predictor))
    return 1 if tally.unreadable + failed else 0


class _Tally:
    def __init__(self) -> None:
        self.readable = self.unreadable = 0
        self.decode_ms = self.infer_ms = 0.0

    def add(self, answer: Answer) -> Answer:
        """Count an answer, and say on standard error why there is none."""
        if answer.error is not None:
            self.unreadable += 1
            print(f"error: {spelt(answer.error)}", file=sys.stderr)
        else:
            self.readable += 1
            self.decode_ms += answer.decode_ms
            self.infer_ms += answer.infer_ms
        return answer


def sources_of(images: Sequence[str]) -> list[Source]:
    """Files, folders and patterns; `-` once for a picture on standard input. Raises UsageError."""
    if images.count("-") > 1:
        raise UsageError("standard input holds one picture: give - once")
    sources: list[Source] = []
    for image in images:
        if image == "-":
            sources.append(("standard input", _standard_input()))
        elif not image:
            raise UsageError("one of the paths is empty; give a file, a folder, a pattern or -")
        else:
            sources.extend(picture_files([image]))
    return sources


def _standard_input() -> bytes:
    """No more than `decode` takes, and a byte, so that it can say that it is too much."""
    if sys.stdin is None:
        raise UsageError("standard input is closed; give a file, or send a picture to it")
    return sys.stdin.buffer.read(MAX_FILE_BYTES + 1)


def _print_blocks(answers: Iterable[Answer]) -> _Tally:
    """For each picture its name and a line a guess, with a bar where there is room for one."""
    tally = _Tally()
    width = width_of(sys.stdout)
    for answer in answers:
        if tally.add(answer).error is not None:
            continue
        print(bold(spelt(answer.name)))
        labels = [spelt(guess.label) for guess in answer.guesses]
        pad = max(map(len, labels))
        room = 0 if width is None else max(0, min(40, width - pad - 14))
        for label, guess in zip(labels, answer.guesses, strict=True):
            bar = "█" * round(room * guess.probability)
            print(f"  {label:<{pad}}  {100 * guess.probability:6.2f} %  {bar}".rstrip())
    return tally


def _print_json(answers: Iterable[Answer]) -> _Tally:
    tally = _Tally()
    print_json_list(_as_json(tally.add(answer)) for answer in answers)
    return tally


def _as_json(answer: Answer) -> dict[str, Any]:
    if answer.error is not None:
        return {"picture": answer.name, "error": answer.error}
    return {
        "picture": answer.name,
        "guesses": [
            {"class": guess.class_index, "label": guess.label, "probability": round(guess.probability, 6)}
            for guess in answer.guesses
        ],
        "decode_ms": round(answer.decode_ms, 3),
        "infer_ms": round(answer.infer_ms, 3),
    }


def _write_csv(answers: Iterable[Answer], rows: Rows, top: int) -> _Tally:
    """One row a picture; a picture that could not be read has its reason in the last column."""
    tally = _Tally()
    for answer in answers:
        tally.add(answer)
        cells = [cell for guess in answer.guesses for cell in (guess.label, f"{guess.probability:.6f}")]
        rows.write(answer.name, *(cells or [""] * (2 * top)), answer.error or "")
    return tally


def _header(top: int) -> list[str]:
    return ["picture", *(f"{what}{rank + 1}" for rank in range(top) for what in ("label", "probability")), "error"]


def _maker(
    predictor: Predictor, asked: Sequence[str], sources: Sequence[Source], scaled: bool, rotate_exif: bool
) -> str:
    """What decides the rows, but for which pictures lie there. Of two artefacts of one net, the INT8 graphs may differ;
    and standard input is called the same, whatever picture comes there.

    Of the places, also how they are named, as the pictures' names begin so.
    """
    card = predictor.card
    graphs = sorted(
        file.sha256 for kind in card.graphs.values() for graph in kind.values() for file in graph.files.values()
    )
    places = {path.parent if path.is_file() else path for path in map(Path, asked)}
    named = sorted((str(place), os.path.realpath(place)) for place in places)
    answering = [card.weights.sha256, graphs, predictor.engine, card.preprocess, card.multi_label, card.labels]
    held = [hashlib.sha256(source[1]).hexdigest() for source in sources if isinstance(source, tuple)]
    return ascii([*answering, scaled, rotate_exif, named, held])


def _summary(tally: _Tally, seconds: float, predictor: Predictor) -> str:
    def ms(total: float) -> str:
        return f"{total / max(1, tally.readable):.1f} ms"

    pictures = f"{tally.readable} picture{'' if tally.readable == 1 else 's'}"
    unreadable = f", {tally.unreadable} unreadable" if tally.unreadable else ""
    if predictor.streams == 1:
        each = f"a picture takes {ms(tally.decode_ms)} to decode and {ms(tally.infer_ms)} to classify"
    else:  # several at once wait for one another, and what each took says little
        each = f"{tally.readable / seconds:.1f} a second, {predictor.streams} batches at once"
    model = f"{spelt(predictor.card.weights.name)} on {predictor.engine}"
    return f"{pictures}{unreadable} in {1000 * seconds:.0f} ms; {each} ({model})"


def _counted(answers: Iterator[Answer], total: int) -> Iterator[Answer]:
    """The same answers, beside a progress bar on standard error where they are many and a person watches."""
    if total < MANY or not sys.stderr.isatty():
        yield from answers
        return
    with progress_bar("classifying", total) as advance:
        for answer in answers:
            advance()
            yield answer
