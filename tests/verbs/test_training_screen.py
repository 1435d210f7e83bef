from __future__ import annotations

import io
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anabranch.evaluate import MultiLabelScore, Score
from anabranch.train.estimate import Estimate, Timed
from anabranch.train.plan import Plan
from anabranch.train.tables import Data, Distil, Input, Optimise, Recipe, Run, Source
from anabranch.verbs import training_screen as screen
from anabranch.verbs.training_screen import Bar, Lines


def plan(*, processes: int = 1, step: int = 0, workers: int = 2, **optimise: Any) -> Plan:
    recipe = Recipe(
        name="tiny",
        expect="nothing",
        arch="resnet18",
        data=Data(train=Source(path="shown"), test=Source(path="tested")),
        input=Input(crop_px=28, resize_px=28, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        optimise=Optimise(**{"epochs": 90, "batch": 1024, "lr": 0.1, **optimise}),
        run=Run(workers=workers, precision="bf16"),
    )
    return Plan(
        recipe=recipe,
        params=25_028_904,
        macs=4_230_000_000,
        class_names=tuple(f"n{number:08}" for number in range(1000)),
        num_pictures=1_281_167,
        num_tested=50_000,
        processes=processes,
        device="NVIDIA H200",
        lr=0.4,
        steps_per_epoch=1251,
        step=step,
    )


def told(step: int, *, waiting: float = 0.02, **changed: float) -> dict[str, Any]:
    usual = {"epoch": 1, "loss": 2.34567, "lr": 0.098765, "pictures_per_s": 1234.4, "unreadable": 0}
    return {"step": step, "steps": 112_590, "waiting": waiting, **usual, **changed}


def line(**changed: Any) -> dict[str, Any]:
    """A line of the history."""
    scores = {"loss": 0.5123, "test_loss": 0.2311, "top1": 94.42, "top5": 99.9, "pictures": 10_000}
    return {"epoch": 12, "lr": 0.1, "seconds": 9240.0, "waiting": 0.02, "unreadable": 0, **scores, **changed}


def estimate(**changed: Any) -> Estimate:
    known = Estimate(
        plan=plan(),
        whole=Timed(0.8, 0.0123, 12),
        mean_step=Timed(0.8, 0.0123, 12),
        reading=Timed(0.2, 0.01, 12),
        computing=Timed(0.7, 0.01, 12),
        test_seconds=30.0,
        memory_bytes=12_345_678_901,
        device_bytes=None,
        checkpoint_bytes=301_000_000,
        disk_bytes=700_000_000,
        free_bytes=9_000_000_000,
    )
    return replace(known, **changed)


def score(right: int, *, of: int) -> Score:
    return Score(num_pictures=of, top1_right=right, top5_right=of, unreadable=(), matched_by="position", seconds=9.0)


class Told:
    """Lines with a clock that is set by hand."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.now = 0.0
        self.lines = Lines(say=self.said.append, clock=lambda: self.now)

    def tell(self, told: dict[str, Any], *, at: float = 0.0) -> None:
        self.now = at
        self.lines(told)


def test_the_summary_says_what_will_be_done() -> None:
    assert screen.summary(plan()) == [
        "tiny: 25,028,904 parameters, 4,230,000,000 MACs at 28 x 28 px",
        "  pictures  1,281,167 to learn from, 50,000 to be tested on",
        "            1,000 classes: n00000000, n00000001, n00000002, n00000003, ...",
        "  batch     1,024",
        "  rate      0.4",
        "  computes  in bf16 on NVIDIA H200",
        "  steps     112,590: 90 epochs of 1,251",
    ]


def test_the_summary_takes_a_batch_apart_and_says_how_the_rate_was_scaled() -> None:
    lines = screen.summary(plan(processes=4, accumulate=2, lr_batch=256, step=4000))
    assert "  batch     1,024 = 4 processes x 2 parts x 128" in lines
    assert "  rate      0.1 for 256 pictures, 0.4 for 1,024" in lines
    assert lines[-1] == "  goes on   after step 4,000"


def test_the_summary_warns_where_many_pictures_fill_no_whole_batch() -> None:
    few = replace(plan(batch=32), num_pictures=56, steps_per_epoch=1)
    warning = "warning: each epoch leaves out 24 pictures, which fill no whole batch; try --set optimise.batch=28"
    assert screen.summary(few)[-1] == warning
    shared = replace(plan(batch=32, processes=2, accumulate=4), num_pictures=56, steps_per_epoch=1)
    assert screen.summary(shared)[-1].endswith("optimise.batch=24")  # of two processes and four parts
    for enough in (replace(few, num_pictures=35), replace(plan(batch=32, steps_per_epoch=1), num_pictures=56)):
        assert "warning" not in screen.summary(enough)[-1]


def test_an_epoch_is_a_line() -> None:
    expected = "epoch  12  loss 0.5123  test 0.2311  top-1 94.42 %  top-5 99.90 %  at 2 h 34 min"
    assert screen.epoch_line(line()) == expected


def test_an_epoch_of_several_classes_a_picture_tells_its_own_figures() -> None:
    several = {key: value for key, value in line(map=83.214, f1=77.5).items() if key not in ("top1", "top5")}
    expected = "epoch  12  loss 0.5123  test 0.2311  mAP 83.21 %  F1 77.50 %  at 2 h 34 min"
    assert screen.epoch_line(several) == expected


def test_pictures_that_were_left_out_are_counted_below_it() -> None:
    second = screen.epoch_line(line(unreadable=1234)).splitlines()[1]
    assert second.strip() == "left out 1,234 pictures that could not be read"


def test_a_log_has_a_line_a_minute_with_the_time_left() -> None:
    log = Told()
    for step in range(1, 11):
        log.tell(told(step), at=10.0 * step)
    assert log.said == [
        "step 7/112590  loss 2.346  1234 pictures/s  waiting 2 %  13 d 1 h left",
    ]
    days = (112_590 - 7) * 10 / 86_400  # at ten seconds a step
    assert days == pytest.approx(13 + 1 / 24, abs=0.5 / 24)


def test_a_run_that_goes_on_judges_the_time_left_by_this_sitting_alone() -> None:
    log = Told()
    log.tell(told(112_490), at=0.0)
    log.tell(told(112_540), at=100.0)
    assert log.said[-1].endswith("  2 min left")  # 50 steps, as many as took 100 s


def test_a_step_and_an_epoch_are_told_apart_though_both_name_the_epoch() -> None:
    log = Told()
    log.tell(told(1))
    log.tell(line())
    assert len(log.said) == 1
    assert log.said[0].startswith("epoch  12")


@pytest.mark.parametrize(("workers", "tried"), [(0, 2), (4, 8)])
def test_much_waiting_is_answered_once_with_what_to_do(workers: int, tried: int) -> None:
    log = Told()
    log.tell({"plan": plan(workers=workers), "tested": None})
    del log.said[:]
    for step in range(1, 60):
        log.tell(told(step, waiting=0.34))
    assert log.said == [
        f"warning: waits for pictures 34 % of the time; try --set run.workers={tried}",
    ]


def test_the_first_steps_waiting_is_no_reason_for_a_warning() -> None:
    log = Told()
    for step in range(1, 60):
        log.tell(told(step, waiting=1 / step))
    assert log.said == []


def shown(monkeypatch: pytest.MonkeyPatch, *tellings: dict[str, Any]) -> str:
    """What a terminal of 80 columns was sent."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with Bar() as bar:
        for each in tellings:
            bar(each)
    return terminal.getvalue()


def test_the_bar_fits_into_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = shown(monkeypatch, told(12_345))
    last = [each for each in sent.replace("\r", "\n").splitlines() if "pictures/s" in each][-1]
    bare = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", last)
    assert len(bare.rstrip()) <= 80
    for what in ("loss 2.346", "lr 0.099", "12345/112590", "1234 pictures/s", "waiting 2 %"):
        assert what in bare


def test_the_bar_says_what_the_last_test_did_in_place_of_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = shown(monkeypatch, told(12_345), line(top1=71.25), told(12_346), line(top1=100.0), told(112_589))
    bare = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sent).replace("\r", "\n")
    last = [each for each in bare.splitlines() if "pictures/s" in each][-1]
    assert "loss 2.346  top-1 100.00 %" in last
    assert "112589/112590" in last
    assert "lr" not in last
    assert len(last.rstrip()) <= 80


def test_the_bar_of_a_resumed_run_begins_with_what_its_last_test_did(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = {"plan": plan(step=12_000), "tested": line(top1=71.25)}
    assert "loss 2.346  top-1 71.25 %" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown(monkeypatch, begun, told(12_001)))


def test_nothing_is_drawn_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "pictures/s" not in shown(monkeypatch, {"plan": plan(), "tested": None})


def test_the_bar_says_loudly_that_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    red = "\x1b[1;31mwaiting 34 %"
    assert red in shown(monkeypatch, told(5, waiting=0.34))
    assert "31mwaiting" not in shown(monkeypatch, told(5, waiting=0.04))


def test_the_bar_has_the_summary_and_the_epochs_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = shown(monkeypatch, {"plan": plan(), "tested": None}, told(1), line())
    for each in [*screen.summary(plan()), screen.epoch_line(line())]:
        assert each in sent


def test_every_line_fits_into_80_columns() -> None:
    big = plan(processes=128, accumulate=2, lr_batch=256, step=112_000)
    lines = [
        *screen.summary(big),
        screen.epoch_line(line(epoch=600, unreadable=1000, loss=6.9, test_loss=6.9)),
        screen.step_line(told(100_000), 90_000),
        *screen.estimate_lines(estimate(plan=big, device_bytes=139_000_000_000, free_bytes=1)),
    ]
    assert max(len(part) for each in lines for part in each.splitlines()) <= 80


def test_what_a_teachers_program_takes_is_in_no_estimate() -> None:
    told = plan()
    taught = replace(told, recipe=told.recipe.model_copy(update={"distil": Distil(teacher=("python", "teacher.py"))}))
    assert not any("teacher" in each for each in screen.estimate_lines(estimate(plan=told)))
    (memory,) = (each for each in screen.estimate_lines(estimate(plan=taught)) if each.startswith("  memory"))
    assert memory.endswith(", without the teacher's program")


def test_the_end_says_the_score_and_what_to_type_next() -> None:
    model = Path("my runs/model.safetensors")
    said = screen.ending(model, score(8, of=10), about=["  3 epochs", "  the page"], expect="81 %", held_out=False)
    # 8 of 10 is the textbooks' example of Wilson's interval
    assert "  top-1  80.00 %   95 % interval 49.02 to 94.33, on 10 test pictures" in said
    assert "  expected: 81 %" in said
    assert said[said.index("  3 epochs") + 1] == "  the page"
    assert "  anabranch evaluate DATA -m 'my runs/model.safetensors'" in said


def test_the_end_of_a_run_on_several_classes_a_picture_says_their_figures() -> None:
    told = {"unreadable": (), "matched_by": "position", "seconds": 9.0}
    met = MultiLabelScore(num_pictures=1234, average_precisions=(50.0, 75.5, math.nan), f1=40.0, **told)
    said = screen.ending(Path("m"), met, about=[], expect=None, held_out=False)
    assert "  mAP    62.75 %, on 1,234 test pictures" in said
    assert "  F1     40.00 %" in said


def test_the_end_of_a_run_that_held_pictures_out_asks_for_no_test_on_those_it_has_learnt() -> None:
    said = screen.ending(Path("m"), score(1, of=2), about=[], expect=None, held_out=True)
    assert [each for each in said if each.endswith("on 2 pictures that were held out")]
    assert not [each for each in said if "evaluate" in each]


def test_without_an_expectation_the_end_says_none() -> None:
    said = screen.ending(Path("m"), score(1, of=2), about=[], expect=None, held_out=False)
    assert not [each for each in said if "expected" in each]


def test_a_page_that_cannot_be_made_fails_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def grey(row: int) -> np.ndarray:
        return np.zeros((2, 2, 3), np.uint8)

    assert "no page of the run: " in screen.page_line(tmp_path, grey)  # its folder is empty
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'anabranch[report]'" in screen.page_line(tmp_path, grey)


def test_the_estimate_says_what_it_rests_on_and_how_sure_it_is() -> None:
    assert screen.estimate_lines(estimate()) == [
        "estimated from 12 steps of 1,024 pictures; nothing was kept of them",
        "  step      0.8 ± 0.01 s, 1,280 pictures/s",
        "            reading alone 0.2 ± 0.01 s, computing alone 0.7 ± 0.01 s:",
        "            the run waits for the net",
        "  epoch     17 min, and 30 s for its test",
        "  run       25 h 46 min ± 23 min to the end of epoch 90",
        "  memory    12.35 GB at its peak",
        "  disk      700.0 MB at most, 301.0 MB a checkpoint; 9.00 GB are free,",
        "            which is enough",
    ]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (Timed(0.9, 0.02, 12), ["  layout    channels_last; the other takes 0.9 ± 0.02 s"]),
        (Timed(0.69, 0.02, 12), ["  layout    channels_last; the other takes 0.69 ± 0.02 s"]),  # within the errors
        (Timed(25.66, 10.4, 12), ["  layout    channels_last; the other takes 25.7 ± 10 s"]),
        (
            Timed(0.5, 0.02, 12),
            [
                "  layout    channels_last; the other takes 0.5 ± 0.02 s",
                "            and is faster: try --set run.channels_last=false",
            ],
        ),
    ],
)
def test_the_estimate_says_where_the_other_layout_is_faster(other: Timed, said: list[str]) -> None:
    lines = screen.estimate_lines(estimate(other_layout=other))
    assert lines[4 : 4 + len(said)] == said
    assert lines[4 + len(said)].startswith("  epoch")


def test_a_full_disk_and_slow_reading_stand_in_the_estimate() -> None:
    said = "\n".join(screen.estimate_lines(estimate(free_bytes=100, reading=Timed(2.0, 0.1, 12))))
    assert "TOO LITTLE: choose another folder with --out" in said
    assert "waits for pictures: more run.workers may help" in said


def test_the_estimate_for_machines_counts_in_seconds_and_bytes() -> None:
    found = screen.estimate_json(estimate())
    assert found["step_seconds"] == 0.8
    assert found["run_seconds"] == pytest.approx(112_590 * 0.8 + 90 * 30)
    assert found["checkpoint_bytes"] == 301_000_000
    assert found["waits_for"] == "the net"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(4.21, "4.2 s"), (45, "45 s"), (99.6, "2 min"), (725, "12 min"), (9240, "2 h 34 min"), (3 * 86400, "3 d 0 h")],
)
def test_a_duration_has_two_units_at_most(seconds: float, words: str) -> None:
    assert screen.duration(seconds) == words


def test_where_pictures_grow_the_estimate_tells_their_largest_step_and_the_mean() -> None:
    said = screen.estimate_lines(estimate(mean_step=Timed(0.5, 0.01, 24)))
    assert said[1:3] == [
        "  step      0.8 ± 0.01 s, 1,280 pictures/s",
        "            of the largest pictures; 0.5 ± 0.01 s over all epochs",
    ]
    assert "over all epochs" not in "\n".join(screen.estimate_lines(estimate()))
