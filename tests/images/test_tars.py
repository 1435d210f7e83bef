from __future__ import annotations

import io
import json
import os
import re
import tarfile
from pathlib import Path

import pytest

from anabranch.errors import DatasetError, ImageError
from anabranch.images.tars import open_tar, read_part

PICTURE = b"what a tar holds is not looked at"


def tar(path: Path, members: dict[str, bytes | tarfile.TarInfo], form: int = tarfile.PAX_FORMAT) -> Path:
    """A tar of these members, as the standard library writes it."""
    with tarfile.open(path, "w", format=form) as file:
        for name, held in members.items():
            if isinstance(held, tarfile.TarInfo):
                file.addfile(held)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(held)
            file.addfile(member, io.BytesIO(held))
    return path


def kind(name: str, of: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = of, target
    return member


def labels(path: Path) -> list[int]:
    return open_tar(path)[1].labels


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Two samples, as others write them."""
    return tar(tmp_path / "b.tar", {"x/0.cls": b"1", "x/0.PNG": b"zero", "x/1.cls": b"0\n", "x/1.png": b"one"})


def test_pictures_are_where_the_contents_say(shard):
    opened, contents = open_tar(shard)
    assert contents.names == ["x/0.PNG", "x/1.png"]
    assert contents.labels == [1, 0]
    places = zip(contents.offsets, contents.sizes, strict=True)
    assert [read_part(opened, offset=offset, num_bytes=size) for offset, size in places] == [b"zero", b"one"]


def test_labels_are_read_from_json_too(tmp_path):
    assert labels(tar(tmp_path / "a.tar", {"0.jpg": b"", "0.json": b'{"label": 3, "key": "0"}'})) == [3]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_that_are_too_long_for_old_tars_are_read(tmp_path, form):
    name = "d" * 120 + "/" + "n" * 180
    path = tar(tmp_path / "a.tar", {f"{name}.png": PICTURE, f"{name}.cls": b"2"}, form)
    opened, contents = open_tar(path)
    assert contents.names == [f"{name}.png"]
    assert read_part(opened, offset=contents.offsets[0], num_bytes=contents.sizes[0]) == PICTURE


def test_what_belongs_to_no_sample_is_passed_over(tmp_path):
    members = {"README.md": b"hello", "LICENSE": b"", "0.png": PICTURE, "0.cls": b"1", "0.txt": b"a", "all.json": b"{}"}
    assert labels(tar(tmp_path / "a.tar", members)) == [1]


@pytest.mark.parametrize("form", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_name_that_is_said_to_be_without_end_is_damage(tmp_path, form):
    path = tar(tmp_path / "a.tar", {"0.png": PICTURE, "0.cls": b"1"})
    forged = tarfile.TarInfo("././@LongLink")
    forged.type, forged.size = form, 1 << 50
    path.write_bytes(forged.tobuf(tarfile.GNU_FORMAT) + path.read_bytes())
    with pytest.raises(DatasetError, match=r"a\.tar: not a plain tar that is whole"):
        open_tar(path)


def test_a_tar_that_is_another_by_now_is_not_read(shard):
    opened, _ = open_tar(shard)
    tar(shard, {"y.png": PICTURE, "y.cls": b"0"})
    with pytest.raises(ImageError, match=r"b\.tar: has changed since it was opened"):
        read_part(opened, offset=512, num_bytes=1)
    shard.unlink()
    with pytest.raises(ImageError, match=r"b\.tar: cannot be read: No such file"):
        read_part(opened, offset=512, num_bytes=1)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"0.png": PICTURE}, "'0' has no label: a .cls"),
        ({"0.png": PICTURE, "0.json": b'{"caption": "x"}'}, "'0' has no label"),
        ({"0.cls": b"1"}, "'0' has no picture"),
        ({"0.v2.png": PICTURE, "0.cls": b"1"}, "'0' has no picture: .* cut at its first dot"),
        ({"0.png": PICTURE, "0.jpg": PICTURE, "0.cls": b"1"}, "'0.jpg' is a second picture of '0'"),
        ({"0.png": PICTURE, "0.cls": b"cat"}, "'0.cls' is not a whole number"),
        ({"0.png": PICTURE, "0.cls": b"-1"}, "'0.cls' is not a whole number"),
        ({"0.png": PICTURE, "0.cls": b"9" * 400}, "'0.cls' is not a whole number"),
        ({"0.png": kind("0.png", tarfile.SYMTYPE, "/etc/passwd"), "0.cls": b"1"}, "'0.png' is a link or no file"),
        ({"0.png": kind("0.png", tarfile.LNKTYPE, "1.png"), "0.cls": b"1"}, "'0.png' is a link or no file"),
        ({"0.png": kind("0.png", tarfile.CHRTYPE), "0.cls": b"1"}, "'0.png' is a link or no file"),
        ({"README": b"hello", "README.md": b"hello", "dataset.json": b"{}"}, "holds no pictures"),
        ({"0.heic": PICTURE, "0.json": b'{"label": 1}'}, "'0' has no picture"),
    ],
)
def test_a_shard_with_something_odd_is_refused_by_name(tmp_path, members, said):
    path = tar(tmp_path / "a.tar", members)
    with pytest.raises(DatasetError, match=said) as caught:
        open_tar(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("cut", [100, 512, 700, 1024, 1536, 2048])
def test_a_shard_that_is_cut_short_is_refused(shard, cut):
    whole = shard.read_bytes()
    shard.write_bytes(whole[:cut])
    with pytest.raises(DatasetError, match=r"b\.tar.*(cut short|whole)"):
        open_tar(shard)


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(shard):
    held = bytearray(shard.read_bytes())
    at = held.index(b"x/1.cls")
    held[at : at + 4] = b"\xff\xff\xff\xff"
    shard.write_bytes(held)
    with pytest.raises(DatasetError, match="something else where a tar's end is wanted"):
        open_tar(shard)


def test_a_header_that_promises_more_than_the_file_is_refused(tmp_path):
    path = tar(tmp_path / "a.tar", {"0.png": PICTURE, "0.cls": b"1"})
    held = bytearray(path.read_bytes())
    member = tarfile.TarInfo("0.png")
    member.size = 1 << 60
    held[:512] = member.tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(held)
    with pytest.raises(DatasetError, match="is said to be 1,152,921,504,606,846,976 bytes"):
        open_tar(path)


def test_tars_strung_together_are_refused(shard):
    shard.write_bytes(shard.read_bytes() * 2)
    with pytest.raises(DatasetError, match="several tars were strung together"):
        open_tar(shard)


# ---- The index -----------------------------------------------------------------------------------------------------


def test_the_contents_are_kept_beside_the_shard_and_used_again(shard):
    open_tar(shard)
    index = shard.with_name("b.tar.index.json")
    held = json.loads(index.read_text())
    held["contents"]["labels"] = [5, 6]  # as nothing but the index says it
    index.write_text(json.dumps(held))
    assert labels(shard) == [5, 6]


def test_an_index_of_another_file_is_made_anew(shard):
    open_tar(shard)
    tar(shard, {"y.png": PICTURE, "y.cls": b"4"})
    assert labels(shard) == [4]
    os.utime(shard, ns=(0, 0))
    assert labels(shard) == [4]


@pytest.mark.parametrize(
    "damage",
    [
        lambda held: b"",
        lambda held: b"[]",
        lambda held: b"\xff{",
        lambda held: b'{"of": null}',
        lambda held: held.replace(b'"labels": [1, 0]', b'"labels": [1]'),
        lambda held: held.replace(b'"labels": [1, 0]', b'"labels": [1, -1]'),
        lambda held: held.replace(b'"labels": [1, 0]', b'"labels": "10"'),
        lambda held: held.replace(b'"sizes": [', b'"sizes": [9999999'),
        lambda held: held.replace(b'"names"', b'"title"'),
        lambda held: re.sub(rb'"names": \[.*?\]', b'"names": 5', held),
        lambda held: re.sub(rb'"names": \[.*?\]', b'"names": "ab"', held),
        lambda held: held.replace(b'"labels": [1, 0]', b'"labels": [1, 1180591620717411303424]'),
    ],
)
def test_a_damaged_index_is_made_anew(shard, damage):
    sound = open_tar(shard)
    index = shard.with_name("b.tar.index.json")
    whole = index.read_bytes()
    assert damage(whole) != whole
    index.write_bytes(damage(whole))
    assert open_tar(shard) == sound
    assert index.read_bytes() == whole


def test_a_folder_that_cannot_be_written_to_is_read_all_the_same(shard, monkeypatch):
    def full(*arguments, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert labels(shard) == [1, 0]
    assert [path.name for path in shard.parent.iterdir()] == ["b.tar"]
