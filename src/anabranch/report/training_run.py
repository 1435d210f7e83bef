"""What a training run left in its folder, read again: its recipe, its history, and what its result answered.

Made of recipe.json, history.jsonl, and answers.npz with logits (N, K), labels (N,), the pictures' places in their set
(N,), their names (N,) and class_names (K,). Where a picture may show several classes, labels are (N, K) of 0 and 1.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anabranch.errors import CheckpointError
from anabranch.evaluate import MultiLabelScore, Score, average_precisions, f1
from anabranch.screen import counted


@dataclass(frozen=True, slots=True, eq=False)
class TrainingRun:
    recipe: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    logits: NDArray[np.float64]
    labels: NDArray[np.integer]
    indices: NDArray[np.int64]
    names: Sequence[str]
    class_names: Sequence[str]

    @property
    def multi_label(self) -> bool:
        return self.labels.ndim == 2

    @property
    def made_of(self) -> str:
        """Which epochs made the result, and why there were no more: "epoch 3, the best of 5; no better for 2"."""
        done, asked = len(self.history), self.recipe["optimise"]["epochs"]
        match self.recipe["run"]["result"]:
            case "best":
                scores = [line["map" if self.multi_label else "top1"] for line in self.history]
                said = f"epoch {scores.index(max(scores)) + 1:,}, the best of {done:,}"
            case "average":
                said = f"the mean of the last {min(done, self.recipe['run']['keep']):,} of {done:,} epochs"
            case _:
                said = counted(done, "epoch")
        if done < asked:
            said += f"; ended before epoch {asked:,}: no better for {self.recipe['optimise']['patience']:,}"
        return said

    @property
    def answered(self) -> NDArray[np.int64]:
        """(N,): the class that each picture was taken for, where it shows one."""
        return np.asarray(self.logits.argmax(1))

    def score(self) -> Score | MultiLabelScore:
        """What the result answered rightly, whichever of the run's epochs it was made of."""
        if self.multi_label:
            return MultiLabelScore(
                num_pictures=len(self.labels),
                average_precisions=tuple(average_precisions(self.logits, self.labels).tolist()),
                f1=f1(self.logits, self.labels),
                unreadable=(),
                matched_by="position",
                seconds=self.history[-1]["seconds"],
            )
        true_logits = np.take_along_axis(self.logits, self.labels[:, None], axis=1)
        return Score(
            num_pictures=len(self.labels),
            top1_right=int((self.answered == self.labels).sum()),
            top5_right=int(((self.logits > true_logits).sum(1) < 5).sum()),
            unreadable=(),
            matched_by="position",
            seconds=self.history[-1]["seconds"],
        )

    def confusions(self) -> NDArray[np.int64]:
        """(K, K) numbers of pictures that show one class each: rows are their classes, columns what was answered."""
        counted = np.zeros((len(self.class_names),) * 2, np.int64)
        np.add.at(counted, (self.labels, self.answered), 1)
        return counted

    def losses(self) -> NDArray[np.float64]:
        """(N,): minus the logarithm of the probability that the labels were given, all of them together."""
        if self.multi_label:
            return np.asarray(np.logaddexp(0, np.where(self.labels > 0, -self.logits, self.logits)).sum(1))
        return np.asarray(-_log_softmax(self.logits)[np.arange(len(self.labels)), self.labels])

    def probabilities(self, row: int) -> NDArray[np.float64]:
        """(K,): of each class among all, or of each by itself where a picture may show several."""
        logits = self.logits[row]
        return np.asarray(np.exp(-np.logaddexp(0, -logits) if self.multi_label else _log_softmax(logits)))


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def read_run(folder: Path) -> TrainingRun:
    """Raises OSError, and CheckpointError where the run's files are damaged."""
    answers = folder / "answers.npz"
    try:
        recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
        lines = (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
        with np.load(answers, allow_pickle=False) as held:
            return TrainingRun(
                recipe,
                [json.loads(line) for line in lines],
                held["logits"].astype(np.float64),
                held["labels"],
                held["indices"],
                held["names"].tolist(),
                held["class_names"].tolist(),
            )
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{folder}: recipe.json, history.jsonl or answers.npz is damaged ({error}); train again to have them anew"
        ) from None
