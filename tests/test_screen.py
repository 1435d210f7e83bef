from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from anabranch.screen import Column, print_json_list, spelt, table, wrapped

COLUMNS = [Column("name"), Column("params", right=True), Column("by")]
ROWS = [("resnet50", "25.56", "torchvision"), ("senet", "115.09", "")]


def test_names_stand_left_and_numbers_right() -> None:
    assert table(COLUMNS, ROWS) == [
        "name      params  by",
        "resnet50   25.56  torchvision",
        "senet     115.09",
    ]


def test_a_narrow_screen_cuts_the_last_column_with_an_ellipsis() -> None:
    assert table(COLUMNS, ROWS, width=27)[1] == "resnet50   25.56  torchvis\N{HORIZONTAL ELLIPSIS}"
    assert all(len(line) <= 27 for line in table(COLUMNS, ROWS, width=27))


def test_behind_a_pipe_nothing_is_cut() -> None:
    assert table(COLUMNS, [("a" * 200, "1", "b" * 200)])[1].endswith("b" * 200)


def test_long_text_goes_on_under_its_first_word() -> None:
    assert wrapped("block", "one two three four", width=20, label_width=6) == ["  block one two", "        three four"]
    assert wrapped("block", "one two three four", width=None, label_width=6) == ["  block one two three four"]


@pytest.mark.parametrize("values", [[], [1], [{"a": ["x\ny"], "b": {}}, [], "é"]])
def test_a_list_that_comes_one_by_one_is_printed_as_json_itself_would(values: list[object], capsys) -> None:
    print_json_list(iter(values))
    assert capsys.readouterr().out == json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def test_of_a_list_that_comes_one_by_one_none_is_held_back(capsys) -> None:
    met = []

    def values() -> Iterator[int]:
        for number in range(3):
            met.append(capsys.readouterr().out.count("\n"))
            yield number

    print_json_list(values())
    assert met == [0, 1, 1]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_json_is_json_whatever_the_screen_takes(encoding: str) -> None:
    said = {"name": "née \U0001f600 \udcff"}  # the last one of a file whose name is not UTF-8
    script = f"""
import sys
from anabranch.screen import print_json
sys.stdout.reconfigure(errors="backslashreplace")
print_json({said!a})
"""
    told = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", script], env=told, capture_output=True, check=True)
    assert json.loads(done.stdout.decode(encoding)) == said


def test_a_name_from_elsewhere_neither_moves_the_cursor_nor_turns_text_around() -> None:
    assert spelt("a\x1b[2Jb\x07\r\x9bc\u202ed\te\nf") == "a\\x1b[2Jb\\x07\\x0d\\x9bc\\u202ed\\x09e\\x0af"
    kept = "née \u3000\U0001f468\u200d\U0001f469 b\u0645\u06cc\u200c\u062e"  # joiners belong to words and emoji
    assert spelt(kept) == kept
