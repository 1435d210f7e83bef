from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from anabranch.errors import CheckpointError
from anabranch.report.training_run import read_run


def a_run(folder: Path) -> Path:
    """The folder of a run whose last epoch answered 20 % rightly, and whose result 4 of 6."""
    line = {"epoch": 2, "loss": 2.0, "lr": 0.1, "top1": 20.0, "top5": 80.0, "test_loss": 1.5, "seconds": 9.0}
    (folder / "history.jsonl").write_text(json.dumps(line) + "\n")
    (folder / "recipe.json").write_text(json.dumps({"name": "tiny", "expect": "nothing"}))
    logits = [[9, 0, 0], [0, 9, 0], [0, 8, 0], [0, 0, 4], [0, 0, 3], [0, 2, 0]]
    np.savez(
        folder / "answers.npz",
        logits=np.array(logits, np.float32),
        labels=np.array([0, 1, 0, 2, 2, 2]),
        names=np.array([f"{i}.png" for i in range(6)]),
        class_names=np.array(["a", "b", "c"]),
    )
    return folder


def test_the_score_is_that_of_the_answers_and_not_of_the_last_epoch(tmp_path: Path) -> None:
    met = read_run(a_run(tmp_path)).score()
    assert (met.num_pictures, met.top1_right, met.top5_right) == (6, 4, 6)


def test_damaged_answers_are_told_from_a_bug(tmp_path: Path) -> None:
    (a_run(tmp_path) / "answers.npz").write_bytes(b"PK nothing")
    with pytest.raises(CheckpointError, match="is damaged"):
        read_run(tmp_path)
