from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from anabranch.train.logs import Logs, write_answers


def told(step: int, *, loss: float = 1.0, steps: int = 100) -> dict[str, float]:
    return {"step": step, "steps": steps, "loss": loss, "lr": 0.1, "pictures_per_s": 50.0, "waiting": 0.25}


def line(epoch: int, top1: float = 50.0) -> dict[str, float]:
    return {"epoch": epoch, "loss": 1.0, "lr": 0.1, "top1": top1, "top5": 90.0, "test_loss": 1.5}


def drawn(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Each curve's points as TensorBoard keeps them: files in the order of their names, a length and a checksum before
    each record; a session's start with a step takes back all points from that step on.
    """
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    curves: dict[str, list[tuple[int, float]]] = {}
    for path in sorted((folder / "tensorboard").iterdir()):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + length])
            place += 12 + length + 4
            if event.session_log.status == SessionLog.START:
                curves = {curve: [at for at in points if at[0] < event.step] for curve, points in curves.items()}
            for value in event.summary.value:
                curves.setdefault(value.tag, []).append((event.step, value.simple_value))
    return curves


def test_the_history_is_a_line_an_epoch(tmp_path: Path) -> None:
    logs = Logs(tmp_path, tensorboard=False)
    logs.epoch([line(1)], step=4)
    logs.epoch([line(1), line(2)], step=8)
    written = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(each) for each in written] == [line(1), line(2)]
    assert [path.name for path in tmp_path.iterdir()] == ["history.jsonl"]


def test_lines_of_a_sitting_that_was_killed_are_taken_back(tmp_path: Path) -> None:
    logs = Logs(tmp_path, tensorboard=False)
    logs.epoch([line(1), line(2), line(3)], step=12)
    logs = Logs(tmp_path, tensorboard=False, step=8)
    logs.rewrite([line(1), line(2)])
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 2


def test_every_tenth_step_and_the_last_have_a_line(tmp_path: Path) -> None:
    logs = Logs(tmp_path, tensorboard=False)
    for step in range(1, 26):
        logs.step(told(step, loss=1 / step, steps=25))
    lines = [json.loads(each) for each in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert [(each["step"], each["loss"]) for each in lines] == [(10, 1 / 10), (20, 1 / 20), (25, 1 / 25)]
    assert lines[0].keys() == {"step", "loss", "lr", "pictures_per_s", "waiting"}


@pytest.mark.parametrize("cut", [0, 1, 7])
def test_a_step_that_is_done_once_more_has_one_line(tmp_path: Path, cut: int) -> None:
    """Also where a kill cut the last line off."""
    logs = Logs(tmp_path, tensorboard=False)
    for step in range(1, 41):
        logs.step(told(step, loss=1.0))
    path = tmp_path / "steps.jsonl"
    path.write_bytes(path.read_bytes()[: path.stat().st_size - cut])
    logs = Logs(tmp_path, tensorboard=False, step=25)
    for step in range(26, 51):
        logs.step(told(step, loss=2.0))
    lines = [json.loads(each) for each in path.read_text().splitlines()]
    assert [(each["step"], each["loss"]) for each in lines] == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0), (50, 2.0)]


def test_every_tenth_step_and_the_last_are_points_of_the_curves(tmp_path: Path) -> None:
    logs = Logs(tmp_path, tensorboard=True)
    for step in range(1, 26):
        logs.step(told(step, loss=step, steps=25))
    curves = drawn(tmp_path)
    assert curves["train/loss"] == [(10, 10.0), (20, 20.0), (25, 25.0)]
    assert curves["train/lr"] == [(step, pytest.approx(0.1)) for step in (10, 20, 25)]
    assert curves["speed/pictures_per_s"][0] == (10, 50.0)
    assert curves["speed/waiting"][0] == (10, 0.25)


def test_test_scores_stand_at_the_step_that_ended_their_epoch(tmp_path: Path) -> None:
    logs = Logs(tmp_path, tensorboard=True)
    logs.epoch([line(1, 20.0)], step=7)
    logs.epoch([line(1, 20.0), line(2, 30.0)], step=14)
    assert drawn(tmp_path)["test/top1"] == [(7, 20.0), (14, 30.0)]


def test_figures_of_several_classes_a_picture_have_curves_of_their_own(tmp_path: Path) -> None:
    figures = {"epoch": 1, "loss": 1.0, "lr": 0.1, "map": 62.5, "f1": 50.0, "test_loss": 0.5}
    Logs(tmp_path, tensorboard=True).epoch([figures], step=7)
    assert drawn(tmp_path) == {"test/map": [(7, 62.5)], "test/f1": [(7, 50.0)], "test/loss": [(7, 0.5)]}


def test_a_run_that_goes_on_draws_no_step_twice(tmp_path: Path) -> None:
    logs = Logs(tmp_path, tensorboard=True)
    for step in range(1, 51):
        logs.step(told(step, loss=1))
    logs.epoch([line(1, 10.0)], step=50)
    logs = Logs(tmp_path, tensorboard=True, step=30)  # its last checkpoint was older than its last point
    for step in range(31, 61):
        logs.step(told(step, loss=2))
    logs.epoch([line(1, 20.0)], step=60)
    curves = drawn(tmp_path)
    assert curves["train/loss"] == [(10, 1), (20, 1), (30, 1), (40, 2), (50, 2), (60, 2)]
    assert curves["test/top1"] == [(60, 20.0)]


def test_answers_are_read_back_without_pickles(tmp_path: Path) -> None:
    logits = np.arange(6, dtype=np.float32).reshape(3, 2)
    names = {"names": ["a.png", "ö.png", "c"], "class_names": ["x", "<y>"]}
    path = write_answers(tmp_path, logits, np.array([0, 1, 1]), np.array([2, 5, 7]), **names)
    with np.load(path, allow_pickle=False) as held:
        assert held["logits"].dtype == np.float32
        assert np.array_equal(held["logits"], logits)
        assert held["labels"].tolist() == [0, 1, 1]
        assert held["indices"].tolist() == [2, 5, 7]
        assert held["names"].tolist() == ["a.png", "ö.png", "c"]
        assert held["class_names"].tolist() == ["x", "<y>"]
    assert path == tmp_path / "answers.npz"
    assert [each.name for each in tmp_path.iterdir()] == ["answers.npz"]
