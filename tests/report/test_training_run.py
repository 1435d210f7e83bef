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
        indices=np.arange(6),
        names=np.array([f"{i}.png" for i in range(6)]),
        class_names=np.array(["a", "b", "c"]),
    )
    return folder


def test_the_score_is_that_of_the_answers_and_not_of_the_last_epoch(tmp_path: Path) -> None:
    met = read_run(a_run(tmp_path)).score()
    assert (met.num_pictures, met.top1_right, met.top5_right) == (6, 4, 6)


@pytest.mark.parametrize(
    ("run", "optimise", "said"),
    [
        ({"result": "last"}, {"epochs": 4}, "4 epochs"),
        ({"result": "best"}, {"epochs": 4}, "epoch 2, the best of 4"),  # the first of the best
        ({"result": "average", "keep": 3}, {"epochs": 4}, "the mean of the last 3 of 4 epochs"),
        ({"result": "average", "keep": 9}, {"epochs": 4}, "the mean of the last 4 of 4 epochs"),
        ({"result": "last"}, {"epochs": 90, "patience": 2}, "4 epochs; ended before epoch 90: no better for 2"),
    ],
)
def test_it_says_which_epochs_made_the_result_and_why_there_were_no_more(
    tmp_path: Path, run: dict[str, object], optimise: dict[str, object], said: str
) -> None:
    a_run(tmp_path)
    (tmp_path / "history.jsonl").write_text("".join(json.dumps({"top1": top1}) + "\n" for top1 in (20, 60, 60, 50)))
    (tmp_path / "recipe.json").write_text(json.dumps({"run": run, "optimise": optimise}))
    assert read_run(tmp_path).made_of == said


def test_damaged_answers_are_told_from_a_bug(tmp_path: Path) -> None:
    (a_run(tmp_path) / "answers.npz").write_bytes(b"PK nothing")
    with pytest.raises(CheckpointError, match="is damaged"):
        read_run(tmp_path)
