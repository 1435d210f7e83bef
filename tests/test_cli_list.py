"""`list` and `show` as a user meets them, and what every verb shares."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import NamedTuple

import pytest

from anabranch import cli
from anabranch.arch import ARCHITECTURES
from anabranch.catalogue.index import index
from anabranch.version import VERSION


class Answer(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def anabranch(capsys, monkeypatch):
    """A function that runs the command line in this process."""

    def run(*words: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["anabranch", *words])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return Answer(int(stopped.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def terminal(monkeypatch):
    """A function that makes standard output a terminal of so many columns."""

    def of(columns: int) -> None:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)

    return of


def test_every_architecture_is_listed_once_in_the_tables_order(anabranch) -> None:
    title, *lines = anabranch("list", "--nets").out.splitlines()
    assert title.split()[:2] == ["name", "params"]
    assert [line.split()[0] for line in lines] == list(ARCHITECTURES)


def test_a_line_holds_counted_size_and_published_accuracy(anabranch) -> None:
    [line] = anabranch("list", "--nets", "resnext152_32x4d").out.splitlines()[1:]
    # torchvision's and PaddleClas' counts; mmpretrain prints 78.88, PaddleClas 78.98 and 79.0
    assert line.split()[:5] == ["resnext152_32x4d", "59.95", "11.71", "224", "78.88\N{EN DASH}79.00"]


def test_the_list_for_machines_holds_exact_numbers(anabranch) -> None:
    rows = {row["name"]: row for row in json.loads(anabranch("list", "--nets", "--json").out)}
    assert list(rows) == list(ARCHITECTURES)
    assert (rows["resnext50_32x4d"]["params"], rows["senet154"]["params"]) == (25_028_904, 115_088_984)
    assert rows["resnext29_8x64d"]["input_px"] == 32
    assert "ResNeXt50_vd_32x4d" in rows["resnext50d_32x4d"]["names"]


@pytest.mark.parametrize("order", ["params", "macs"])
def test_lines_are_sorted_by_what_is_asked(anabranch, order: str) -> None:
    figures = [row[order] for row in json.loads(anabranch("list", "--sort", order, "--json").out)]
    assert figures == sorted(figures)


def test_a_pattern_shows_the_name_that_fitted(anabranch) -> None:
    [line] = anabranch("list", "--nets", "SENet154_*").out.splitlines()[1:]
    assert (line.split()[0], line.split()[-1]) == ("seresnext152e_64x4d", "SENet154_vd")


@pytest.mark.parametrize("columns", [80, 120, 160])
@pytest.mark.parametrize("words", [["list", "--nets"], ["list", "--nets", "vd"], ["list"]], ids=" ".join)
def test_the_list_fits_its_terminal(anabranch, terminal, monkeypatch, words: list[str], columns: int) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal(columns)
    assert max(len(line) for line in anabranch(*words).out.splitlines()) <= columns


def test_a_line_of_weights_holds_size_claims_licence_and_sources(anabranch) -> None:
    _, line, _, *sources = anabranch("list", "resnext152-32x4d_8xb32_in1k").out.splitlines()
    # counted by PaddleClas' code; claimed by mmpretrain
    words = ["resnext152_32x4d.mm_in1k", "59.95", "11.71", "78.88", "94.33", "Apache-2.0", "1,2"]
    assert line.split() == words
    assert sources == ["     1 mmclassification 0.23.2, quoted by VastModelZOO", "     2 mmpretrain 1.2.0"]


def test_both_claims_about_one_file_stand_where_two_disagree_each_with_its_source(anabranch) -> None:
    # the publisher prints 84.8, timm measures 83.34
    out = anabranch("list", "swsl_resnext101_32x16d").out
    [line] = [line for line in out.splitlines() if "swsl" in line]
    assert "83.34\N{EN DASH}84.80" in line
    assert line.endswith(" 1,2")
    assert out.count("Facebook semi-supervised") == out.count("timm results of") == 1


def test_every_row_of_the_catalogue_is_listed(anabranch) -> None:
    names = [line.split()[0] for line in anabranch("list").out.splitlines()[1:] if line and line[0] != " "]
    assert sorted(names) == sorted(weights.name for weights in index().weights)


def test_where_names_leave_no_room_each_weights_name_stands_on_a_line_of_its_own(
    anabranch, terminal, monkeypatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal(80)
    _, name, figures, *_ = anabranch("list", "Fix_*").out.splitlines()
    assert name == "resnext101_32x48d.paddle_fixres_wsl_ft_in1k"
    assert figures.split()[:2] == ["828.41*", "153.31*"]  # printed as 456.20 and 354.23


def test_a_wrong_published_size_and_a_forbidding_licence_are_marked_and_the_marks_explained(anabranch) -> None:
    out = anabranch("list").out
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    for name in ("res2net50_14w_8s_paddle.paddle_in1k", "res2net50d_26w_4s_paddle.paddle_in1k"):  # swapped rows
        assert lines[name].split()[1].endswith("*")
    assert lines["seresnext152e_64x4d.paddle_in1k"].split()[1] == "121.74*"  # printed as SENet-154's 114.29
    assert "CC-BY-NC-4.0 \N{DAGGER}" in lines["resnext101_32x48d.paddle_wsl_ig1b_ft_in1k"]
    assert "*" not in lines["resnext50_32x4d.tv2_in1k"]
    assert "more than 1 %" in lines["*"]
    assert "forbids commercial use" in lines["\N{DAGGER}"]


def test_marks_are_explained_only_where_they_stand(anabranch) -> None:
    out = anabranch("list", "resnext50_32x4d.tv2_in1k").out
    assert "1 %" not in out
    assert "forbids" not in out


def test_weights_for_machines_come_with_files_and_claims(anabranch) -> None:
    rows = json.loads(anabranch("list", "--source", "torchvision", "--json").out)
    assert {row["publisher"] for row in rows} == {"torchvision"}
    [row] = [row for row in rows if row["weights"] == "resnext101_64x4d.tv_in1k"]
    assert row["urls"][0] == "https://download.pytorch.org/models/resnext101_64x4d-173b62eb.pth"
    assert (row["sha256"], row["licence"], row["input"]["resize_px"]) == ("173b62eb", "BSD-3-Clause", 232)
    assert {claim["top1"] for claim in row["claims"]} == {82.978, 83.246}


@pytest.mark.parametrize("form", [[], ["--nets"]])
def test_wishes_narrow_the_list_of_architectures_and_of_weights(anabranch, form: list[str]) -> None:
    wishes = ["--commercial", "--max-params", "30", "--max-macs", "5", "--min-top1", "82"]
    _, *lines = anabranch("list", *form, *wishes).out.splitlines()
    # timm's table: these two alone reach 82 % with at most 30 M parameters under Apache-2.0; of PaddleClas two by SSLD
    architectures = {"resnext50_32x4d", "seresnext50_32x4d", "resnet50d", "res2net50d_26w_4s_paddle"}
    assert {line.split()[0].split(".")[0] for line in lines if line and line[0] != " "} == architectures


def test_an_architecture_under_a_wish_shows_the_claims_of_the_weights_that_meet_it(anabranch) -> None:
    [line] = anabranch("list", "--nets", "resnext101_32x16d", "--source", "PaddleClas").out.splitlines()[1:]
    assert line.split()[4:] == ["84.20\N{EN DASH}84.24", "paddle_wsl_ig1b_ft_in1k"]


def test_wishes_that_nothing_meets_are_an_error_that_says_what_to_loosen(anabranch) -> None:
    status, out, err = anabranch("list", "--min-top1", "99", "--max-params", "30")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "passes --max-params 30 --min-top1 99" in err
    assert "0 without --max-params 30" in err


def test_what_weights_are_shown_as_says_where_they_lie_and_what_they_may_be_used_for(anabranch) -> None:
    out = anabranch("show", "resnext101_32x32d_wsl").out
    assert "https://download.pytorch.org/models/ig_resnext101_32x32-e4b90b00.pth" in out
    assert "hf:timm/resnext101_32x32d.fb_wsl_ig1b_ft_in1k" in out
    assert "e4b90b00..." in out
    assert "CC-BY-NC-4.0, which forbids commercial use" in out
    assert "224 px: shorter side to 256 px" in out


def test_an_architecture_is_shown_with_the_files_of_all_its_weights(anabranch) -> None:
    out = anabranch("show", "resnext152_32x4d").out
    assert "resnext152_32x4d_b32x8_imagenet_20210524-927787be.pth" in out
    assert "ResNeXt152_32x4d_pretrained.pdparams" in out
    assert "forbids" not in out


@pytest.mark.parametrize("name", ["resnext50_32x4d", "Fix_ResNeXt101_32x48d_wsl", "senet154", "legacy_seresnet18"])
def test_what_is_shown_fits_80_columns_but_for_addresses(anabranch, terminal, monkeypatch, name: str) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal(80)
    lines = [line for line in anabranch("show", name).out.splitlines() if "https://" not in line]
    assert max(map(len, lines)) <= 80


def test_titles_are_bold_on_a_terminal_unless_colour_is_unwanted(anabranch, terminal, monkeypatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" not in anabranch("list").out
    terminal(80)
    assert anabranch("list", "--nets").out.startswith("\x1b[1mname")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in anabranch("list").out


def test_an_alias_is_shown_as_the_weights_it_means(anabranch) -> None:
    out = anabranch("show", "SENet154_vd").out
    assert "seresnext152e_64x4d.paddle_in1k" in out
    assert "121,737,048 parameters" in out
    assert "* claimed 114.29 M, counted 121.74 M" in out


def test_a_claim_within_one_percent_is_left_uncommented(anabranch) -> None:
    assert "claimed" not in anabranch("show", "SE_ResNet18_vd").out


def test_paddleclas_net_of_the_authors_name_is_told_aloud(anabranch) -> None:
    out = anabranch("show", "res2net50_14w_8s").out
    assert "Another net of the same name" in out
    assert "PaddleClas prints 'res2net50_14w_8s' for another function" in out
    own, another = out.split("Another net")
    assert "78.14" in own
    assert "79.5" not in own
    assert "79.5" in another


def test_quirks_are_explained_where_a_net_has_them(anabranch) -> None:
    assert "the stride sits in the 1x1" in anabranch("show", "legacy_seresnet50").out
    assert "quirk" not in anabranch("show", "seresnet50").out


def test_what_is_shown_to_machines_holds_claims_with_their_sources(anabranch) -> None:
    shown = json.loads(anabranch("show", "tv_resnext50_32x4d", "--json").out)
    assert shown["architecture"] == "resnext50_32x4d"
    assert shown["weights"] == "resnext50_32x4d.tv_in1k"
    assert shown["spec"]["groups"] == 32
    [claim] = [claim for claim in shown["claims"] if claim["printed"] == "tv_resnext50_32x4d"]
    assert (claim["publisher"], claim["top1"], claim["macs_g"]) == ("timm", 77.616, 4.288)
    assert claim["url"].startswith("https://github.com/rwightman/")
    [file] = shown["files"]
    assert file["urls"][0] == "https://download.pytorch.org/models/resnext50_32x4d-7cdf4587.pth"
    assert (file["licence"], file["non_commercial"], file["dialect"]) == ("BSD-3-Clause", False, "timm")


def test_a_name_nobody_uses_is_one_line_and_status_2(anabranch) -> None:
    status, out, err = anabranch("show", "resnext50_32x4")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: nothing here is called 'resnext50_32x4'; the nearest are resnext50_32x4d, ")


@pytest.mark.parametrize("words", [["lst"], ["show"], ["list", "--sort", "size"], ["list", "a", "b"]])
def test_a_command_that_is_not_understood_is_status_2_without_traceback(anabranch, words: list[str]) -> None:
    status, out, err = anabranch(*words)
    assert (status, out) == (2, "")
    assert "Error: " in err
    assert "Traceback" not in err


def test_the_version_is_told(anabranch) -> None:
    assert anabranch("--version") == Answer(0, f"anabranch {VERSION}\n", "")


def test_help_names_every_verb_and_loads_none_of_their_parts() -> None:
    code = (
        "import sys; sys.argv = ['anabranch', '--help']; import anabranch.cli\n"
        "try: anabranch.cli.main()\n"
        "finally: print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {word for line in done.stdout.split("Commands:")[1].splitlines() for word in line.split()[:1]} >= set(
        cli.app.commands
    )
    assert not set(done.stderr.split()) & {"torch", "openvino", "numpy", "cv2", "rich", "pydantic", "PIL"}


def test_a_closed_pipe_ends_the_list_quietly() -> None:
    command = f"'{sys.executable}' -m anabranch list --json | head -c 10"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert len(done.stdout) == 10
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
