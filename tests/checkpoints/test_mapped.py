from __future__ import annotations

from pathlib import Path

import pytest

from anabranch.checkpoints import mapped as module
from anabranch.checkpoints.mapped import Archive, mapped


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "x").write_bytes(bytes(range(100)))
    return tmp_path / "x"


def test_an_archive_is_read_from_where_it_stands(file: Path) -> None:
    archive = Archive(mapped(file))
    assert archive.read(2) == b"\0\1"
    assert (archive.seek(-3, 2), archive.tell()) == (97, 97)
    assert archive.read() == bytes([97, 98, 99])
    assert archive.read(5) == b""


def test_a_directory_is_read_so_far_and_no_farther_in_one_piece_or_in_many(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_DIRECTORY_BYTES", 50)
    with pytest.raises(ValueError, match="a directory of more than 50 bytes"):
        Archive(mapped(file)).read()
    archive = Archive(mapped(file))
    archive.read(50)
    with pytest.raises(ValueError, match="a directory of more than 50 bytes"):
        archive.read(1)
