"""What a run leaves for people and programs to read: its history, TensorBoard's events, its last answers.

file                        what
history.jsonl               a line an epoch, the same that the screen shows
tensorboard/events.out.*    the same figures over the steps, where the recipe asks for them
answers.npz                 what the result answered on the test pictures, for the run's page
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anabranch.errors import need

_EVERY_STEPS = 10  # between two points of a curve over the steps

_OF_A_STEP = {  # name of a curve, of letters that TensorBoard leaves as they are -> what the loop calls it
    "train/loss": "loss",
    "train/lr": "lr",
    "speed/pictures_per_s": "pictures_per_s",
    "speed/waiting": "waiting",
}
_OF_AN_EPOCH = {"test/top1": "top1", "test/top5": "top5", "test/loss": "test_loss"}


class Logs:
    """The logs of the run in `folder`, of which `step` steps are done. Leave with `with Logs(...) as logs`.

    A run that goes on writes its events into a file of its own, which tells TensorBoard to forget the points after
    `step` that an earlier sitting drew: no step has two. Raises MissingExtra.
    """

    def __init__(self, folder: Path, *, tensorboard: bool, step: int = 0):
        self.folder = folder
        self.writer: Any = None
        if tensorboard:
            # Two sittings may begin within one second, which is all that tells the names of their files apart.
            self.writer = need("tensorboardX", extra="train").SummaryWriter(
                str(folder / "tensorboard"), purge_step=step + 1, filename_suffix=f".{step}"
            )

    def __enter__(self) -> Logs:
        return self

    def __exit__(self, *failure: object) -> None:
        if self.writer is not None:
            self.writer.close()

    def step(self, told: Mapping[str, Any]) -> None:
        """Take down what the loop told of a step."""
        if told["step"] % _EVERY_STEPS == 0 or told["step"] == told["steps"]:
            self._draw(_OF_A_STEP, told, told["step"])

    def epoch(self, history: Sequence[Mapping[str, Any]], step: int) -> None:
        """Take down the epoch that ended with `step`: the last line of the `history` of the whole run."""
        self.rewrite(history)
        self._draw(_OF_AN_EPOCH, history[-1], step)
        if self.writer is not None:
            self.writer.flush()

    def rewrite(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Make history.jsonl say `history`, whatever a sitting that was killed left in it."""
        partial = self.folder / ".history.jsonl.part"
        partial.write_text("".join(json.dumps(line) + "\n" for line in history), encoding="utf-8")
        partial.replace(self.folder / "history.jsonl")

    def _draw(self, curves: Mapping[str, str], told: Mapping[str, Any], step: int) -> None:
        if self.writer is None:
            return
        for curve, key in curves.items():
            self.writer.add_scalar(curve, told[key], step)


def write_answers(
    folder: Path,
    *,
    logits: NDArray[np.float32],
    labels: NDArray[np.int64],
    names: Sequence[str],
    class_names: Sequence[str],
) -> Path:
    """Write answers.npz: logits (N, K), labels (N,), the pictures' names (N,) and the classes' (K,). No pickles."""
    path, partial = folder / "answers.npz", folder / ".answers.npz.part"
    with partial.open("wb") as file:
        np.savez_compressed(
            file,
            logits=logits.astype(np.float32),
            labels=labels.astype(np.int64),
            names=np.array(names, np.str_),
            class_names=np.array(class_names, np.str_),
        )
    partial.replace(path)
    return path
