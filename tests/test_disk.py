from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from anabranch import disk
from anabranch.disk import building_folder, replacing_file, want_room
from anabranch.errors import ExportError


def test_two_who_write_at_once_each_write_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with replacing_file(path) as first, replacing_file(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("half of the sec")
    assert path.read_text() == "first"  # which ended last
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def test_what_fails_half_way_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("before")
    with pytest.raises(KeyError), replacing_file(path) as partial:  # noqa: PT012
        partial.write_text("half")
        raise KeyError
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def test_more_than_the_disk_has_room_for_is_refused_with_both_numbers(tmp_path: Path) -> None:
    total = shutil.disk_usage(tmp_path).total
    want_room(tmp_path, 1, error=ExportError, otherwise="go away")
    with pytest.raises(ExportError, match=rf"has room for [\d,]+ bytes, and {total + 1:,} are wanted; .* or go away"):
        want_room(tmp_path, total + 1, error=ExportError, otherwise="go away")


@pytest.mark.parametrize("step", ["mkdir", "_locked", "rename"])
def test_a_signal_at_any_step_of_making_a_folder_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """SIGTERM raises SystemExit as soon as the step is done."""
    place = disk if step == "_locked" else Path
    done = getattr(place, step)

    def ended(*told: object) -> None:
        done(*told)
        raise SystemExit(143)

    with monkeypatch.context() as patch:
        patch.setattr(place, step, ended)
        with pytest.raises(SystemExit), building_folder(tmp_path / "artefact"):
            pytest.fail("the block must not run")
    assert list(tmp_path.iterdir()) == []
