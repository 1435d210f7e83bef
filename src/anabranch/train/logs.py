"""What a run leaves for people and programs to read: its history, TensorBoard's events, its last answers.

file                        what
history.jsonl               a line an epoch, the same that the screen shows
steps.jsonl                 a line every tenth step: its rate and speed, and the epoch's mean loss up to it
tensorboard/events.out.*    the figures of both over the steps, where the recipe asks for them
answers.npz                 what the result answered on the test pictures, for the run's page
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from socket import gethostname
from time import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anabranch.disk import replacing_file, unwritable
from anabranch.errors import need

_EVERY_STEPS = 10  # between two points of a curve over the steps

_OF_A_STEP = {  # name of a curve, of letters that TensorBoard leaves as they are -> what the loop calls it
    "train/loss": "loss",
    "train/lr": "lr",
    "speed/pictures_per_s": "pictures_per_s",
    "speed/waiting": "waiting",
}
_OF_AN_EPOCH = {  # of those that the run's pictures allow: one class each, or several
    "test/top1": "top1",
    "test/top5": "top5",
    "test/map": "map",
    "test/f1": "f1",
    "test/loss": "test_loss",
}


class Logs:
    """The logs of the run in `folder`, of which `step` steps are done.

    A run that goes on writes its events into a file of its own, which tells TensorBoard to forget the points after
    `step` that an earlier sitting drew: no step has two. Raises MissingExtra, and CheckpointError
    where something cannot be written.
    """

    def __init__(self, folder: Path, *, tensorboard: bool, step: int = 0):
        self.folder = folder
        self.begins_after = step
        self.has_begun = False
        self.events = _Events(folder / "tensorboard", step) if tensorboard else None

    def step(self, told: Mapping[str, Any]) -> None:
        """Take down what the loop told of a step."""
        if told["step"] % _EVERY_STEPS == 0 or told["step"] == told["steps"]:
            self._note({key: told[key] for key in ("step", *_OF_A_STEP.values())})
            self._draw(_OF_A_STEP, told, told["step"])

    def epoch(self, history: Sequence[Mapping[str, Any]], step: int) -> None:
        """Take down the epoch that ended with `step`: the last line of the `history` of the whole run."""
        self.rewrite(history)
        self._draw(_OF_AN_EPOCH, history[-1], step)

    def rewrite(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Make history.jsonl say `history`, whatever a sitting that was killed left in it."""
        write_text(self.folder / "history.jsonl", "".join(json.dumps(line) + "\n" for line in history))

    def _note(self, line: Mapping[str, Any]) -> None:
        """Append to steps.jsonl, whose lines of steps that are done once more are taken back before the first."""
        path = self.folder / "steps.jsonl"
        if not self.has_begun:
            write_text(path, "".join(f"{each}\n" for each in _lines_until(path, self.begins_after)))
            self.has_begun = True
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise unwritable(path, error) from None

    def _draw(self, curves: Mapping[str, str], told: Mapping[str, Any], step: int) -> None:
        if self.events is not None:
            self.events.write(step, {curve: told[key] for curve, key in curves.items() if key in told})


def _lines_until(path: Path, step: int) -> list[str]:
    """Of steps up to this one; a line that a kill cut off is of a later one."""
    kept: list[str] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            is_over = json.loads(line)["step"] > step
        except (KeyError, TypeError, ValueError):
            break
        if is_over:
            break
        kept.append(line)
    return kept


class _Events:
    """TensorBoard's file of a sitting, opened for each event by itself.

    tensorboardX's own writer is a thread: a full disk ends it unheard, and a run then waits for it for ever.
    """

    def __init__(self, folder: Path, step: int):
        self.words = need("tensorboardX.proto.event_pb2", extra="train")
        self.checksum = need("tensorboardX.record_writer", extra="train").masked_crc32c
        # Two sittings may begin within one second, which is all that tells the names of their files apart.
        self.path = folder / f"events.out.tfevents.{int(time())}.{gethostname()}.{step}"
        self._append(self.words.Event(wall_time=time(), file_version="brain.Event:2"))
        began = self.words.SessionLog(status=self.words.SessionLog.START)
        self._append(self.words.Event(wall_time=time(), step=step + 1, session_log=began))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        event = self.words.Event(wall_time=time(), step=step)
        for curve, value in values.items():
            event.summary.value.add(tag=curve, simple_value=value)
        self._append(event)

    def _append(self, event: Any) -> None:
        """A record is a length and an event, each with its checksum."""
        content = event.SerializeToString()
        parts = struct.pack("<Q", len(content)), content
        record = b"".join(part + struct.pack("<I", self.checksum(part)) for part in parts)
        try:
            self.path.parent.mkdir(exist_ok=True)
            with self.path.open("ab") as file:
                file.write(record)
        except OSError as error:
            raise unwritable(self.path, error) from None


def write_text(path: Path, text: str) -> None:
    """Whole or not at all; what is no text in a file's name, with backslashes. Raises CheckpointError."""
    with replacing_file(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_answers(
    folder: Path,
    logits: NDArray[np.float32],
    labels: NDArray[np.integer],
    indices: NDArray[np.int64],
    *,
    names: Sequence[str],
    class_names: Sequence[str],
) -> Path:
    """Write answers.npz: logits (N, K), labels, the pictures' names (N,) and the classes' (K,). No pickles.

    labels: (N,), or (N, K) of 0 and 1 where a picture may show several classes. indices: (N,), the pictures' places in
    their set. Raises CheckpointError.
    """
    path = folder / "answers.npz"
    with replacing_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file,
            logits=logits.astype(np.float32),
            labels=labels,
            indices=indices,
            names=np.array(names, np.str_),
            class_names=np.array(class_names, np.str_),
        )
    return path
