from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from anabranch.errors import UsageError
from anabranch.verbs.rows import csv_rows

HEADER = ["picture", "label", "error"]


class Stopped(Exception):
    """What stands for an interruption."""


def write(path: Path, names: list[str], *, stop: bool = False, resume: bool = False, maker: str = "a model") -> None:
    with csv_rows(str(path), HEADER, maker=maker, resume=resume) as rows:
        for name in names:
            if not rows.take(name):
                rows.write(name, "cat", "")
        if stop:
            raise Stopped


def stopped(path: Path, names: list[str]) -> Path:
    """The part file of a run that was stopped after these rows."""
    with pytest.raises(Stopped):
        write(path, names, stop=True)
    (part,) = path.parent.glob(f"{path.name}.*.part")
    return part


NAMES = ["a.jpg", 'b, "c".jpg', "d\ne.jpg", "f\rg.jpg", "\udcff.jpg", "ö.jpg", "a.jpg"]


@pytest.mark.parametrize("cut", range(1, 80))
def test_wherever_the_rows_are_cut_off_the_file_ends_the_same(tmp_path, cut) -> None:
    write(tmp_path / "whole.csv", NAMES)
    part = stopped(tmp_path / "out.csv", NAMES)
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) - cut])
    write(tmp_path / "out.csv", NAMES, resume=True)
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    read = list(csv.reader(io.StringIO((tmp_path / "out.csv").read_text(encoding="utf-8"), newline="")))
    assert [row[0] for row in read] == [
        "picture",
        *(name.replace("\udcff", "\\udcff").replace("\r", "\\r") for name in NAMES),
    ]


def test_a_row_that_somebody_emptied_is_made_anew_and_no_other(tmp_path, capsys) -> None:
    part = stopped(tmp_path / "out.csv", ["a.jpg", "b.jpg", "c.jpg"])
    part.write_text(part.read_text().replace("a.jpg,cat,\n", "\n"))
    write(tmp_path / "out.csv", ["a.jpg", "b.jpg", "c.jpg"], resume=True)
    assert "holds 2 rows" in capsys.readouterr().err
    rows = [row for row in csv.reader((tmp_path / "out.csv").read_text().splitlines()) if row]
    assert sorted(row[0] for row in rows[1:]) == ["a.jpg", "b.jpg", "c.jpg"]


def test_rows_behind_one_that_is_none_are_not_thrown_away(tmp_path) -> None:
    part = stopped(tmp_path / "out.csv", ["a.jpg", "b.jpg", "c.jpg"])
    spoilt = part.read_text().replace("b.jpg,cat,", "b.jpg")
    part.write_text(spoilt)
    with pytest.raises(UsageError, match=r"part, line 3: this is no row of 3 cells; mend it, or remove the line"):
        write(tmp_path / "out.csv", ["a.jpg", "b.jpg", "c.jpg"], resume=True)
    assert part.read_text() == spoilt


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_the_rows_of_a_run_that_goes_on_are_not_called_those_of_a_stopped_one(tmp_path) -> None:
    with csv_rows(str(tmp_path / "out.csv"), HEADER, maker="a model", resume=False) as rows:
        rows.write("a.jpg", "cat", "")
        with pytest.raises(UsageError, match="another process is writing to it"):
            write(tmp_path / "out.csv", ["a.jpg"], maker="another model")
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 2


def test_a_link_to_itself_gives_way(tmp_path) -> None:
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    write(tmp_path / "loop.csv", ["a.jpg"])
    assert len((tmp_path / "loop.csv").read_text().splitlines()) == 2


def test_a_run_that_was_stopped_says_where_its_rows_are(tmp_path, capsys) -> None:
    part = stopped(tmp_path / "out.csv", ["a.jpg"])
    assert f"the rows so far are kept in {part}" in capsys.readouterr().err


def test_one_that_wrote_no_row_leaves_nothing(tmp_path) -> None:
    with pytest.raises(Stopped):
        write(tmp_path / "out.csv", [], stop=True)
    assert list(tmp_path.iterdir()) == []


def test_the_rows_of_another_model_are_not_gone_on_with(tmp_path) -> None:
    part = stopped(tmp_path / "out.csv", ["a.jpg"])
    for resume in (False, True):
        with pytest.raises(UsageError, match="another model"):
            write(tmp_path / "out.csv", ["b.jpg"], resume=resume, maker="another")
    assert part.exists()


def test_an_old_file_stays_until_the_new_one_is_complete(tmp_path) -> None:
    (tmp_path / "out.csv").write_text("old")
    stopped(tmp_path / "out.csv", ["a.jpg"])
    assert (tmp_path / "out.csv").read_text() == "old"
    write(tmp_path / "out.csv", ["a.jpg", "b.jpg"], resume=True)
    assert (tmp_path / "out.csv").read_text().splitlines() == ["picture,label,error", "a.jpg,cat,", "b.jpg,cat,"]


@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there")
def test_two_runs_do_not_write_to_one_file(tmp_path) -> None:
    script = (
        "from anabranch.verbs.rows import csv_rows\n"
        f"with csv_rows({str(tmp_path / 'out.csv')!r}, {HEADER!r}, maker='a model', resume=True): pass"
    )
    with csv_rows(str(tmp_path / "out.csv"), HEADER, maker="a model", resume=False) as rows:
        rows.write("a.jpg", "cat", "")
        other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "another process is writing to it" in other.stderr
    assert (tmp_path / "out.csv").read_text().splitlines() == ["picture,label,error", "a.jpg,cat,"]


def test_a_pipe_is_not_gone_on_with() -> None:
    with pytest.raises(UsageError, match="no plain file"):
        write(Path("/dev/null"), ["a.jpg"], resume=True)


def test_pictures_without_an_answer_are_counted_in_the_rows_that_were_there(tmp_path) -> None:
    part = stopped(tmp_path / "out.csv", ["a.jpg"])
    with part.open("a") as file:
        file.write("b.jpg,,no picture\n")
    with csv_rows(str(tmp_path / "out.csv"), HEADER, maker="a model", resume=True) as rows:
        assert (rows.count, rows.unreadable) == (2, 1)


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="there is no /dev/stdout")
def test_a_pipe_that_has_a_name_is_written_to() -> None:
    script = f"""
from anabranch.verbs.rows import csv_rows
with csv_rows("/dev/stdout", {HEADER!r}, maker="a model", resume=False) as rows:
    rows.write("a.jpg", "cat", "")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "picture,label,error\na.jpg,cat,\n"


@pytest.mark.parametrize("encoding", ["ascii", "utf-16", "cp1252"])
def test_standard_output_holds_utf_8_whatever_the_screen_takes(encoding) -> None:
    script = f"""
from anabranch.verbs.rows import csv_rows
with csv_rows("-", {HEADER!r}, maker="a model", resume=False) as rows:
    for name in {NAMES!a}:
        rows.write(name, "żółw", "")
"""
    told = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", script], env=told, capture_output=True, check=True)
    read = list(csv.reader(io.StringIO(done.stdout.decode("utf-8"), newline="")))
    assert read[1:] == [[name.replace("\udcff", "\\udcff").replace("\r", "\\r"), "żółw", ""] for name in NAMES]
