"""`list` and `show` as a user meets them, and what every verb shares."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import NamedTuple

import pytest

from anabranch import cli
from anabranch.arch import ARCHITECTURES
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
    title, *lines = anabranch("list").out.splitlines()
    assert title.split()[:2] == ["name", "params"]
    assert [line.split()[0] for line in lines] == list(ARCHITECTURES)


def test_a_line_holds_counted_size_and_published_accuracy(anabranch) -> None:
    [line] = anabranch("list", "resnext152_32x4d").out.splitlines()[1:]
    # torchvision's and PaddleClas' counts; mmpretrain prints 78.88, PaddleClas 78.98 and 79.0
    assert line.split()[:5] == ["resnext152_32x4d", "59.95", "11.71", "224", "78.88\N{EN DASH}79.00"]


def test_the_list_for_machines_holds_exact_numbers(anabranch) -> None:
    rows = {row["name"]: row for row in json.loads(anabranch("list", "--json").out)}
    assert list(rows) == list(ARCHITECTURES)
    assert (rows["resnext50_32x4d"]["params"], rows["senet154"]["params"]) == (25_028_904, 115_088_984)
    assert rows["resnext29_8x64d"]["input_px"] == 32
    assert "ResNeXt50_vd_32x4d" in rows["resnext50d_32x4d"]["names"]


@pytest.mark.parametrize("order", ["params", "macs"])
def test_lines_are_sorted_by_what_is_asked(anabranch, order: str) -> None:
    figures = [row[order] for row in json.loads(anabranch("list", "--sort", order, "--json").out)]
    assert figures == sorted(figures)


def test_a_pattern_shows_the_name_that_fitted(anabranch) -> None:
    [line] = anabranch("list", "SENet154_*").out.splitlines()[1:]
    assert (line.split()[0], line.split()[-1]) == ("seresnext152e_64x4d", "SENet154_vd")


@pytest.mark.parametrize("columns", [80, 120])
def test_the_list_fits_its_terminal(anabranch, terminal, monkeypatch, columns: int) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal(columns)
    for words in (["list"], ["list", "vd"]):
        assert max(len(line) for line in anabranch(*words).out.splitlines()) <= columns


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
    assert anabranch("list").out.startswith("\x1b[1mname")
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
