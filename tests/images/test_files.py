from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from anabranch.errors import DatasetError, UsageError
from anabranch.images.files import files_in, picture_files, told_ignored


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.JPG", "a.png", "notes.txt", "deep/er/c.webp", "deep/d.tiff", "deep-er/e.gif", "raw", "Z.bmp"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def names(files: list[str], folder: Path) -> list[str]:
    return [Path(file).relative_to(folder).as_posix() for file in files]


def test_a_folder_gives_its_pictures_at_any_depth_sorted(folder):
    found = names(picture_files([folder]), folder)
    # folder by folder, as strings sort: "deep-er" before "deep/er"
    assert found == ["Z.bmp", "a.png", "b.JPG", "deep/d.tiff", "deep-er/e.gif", "deep/er/c.webp"]


@pytest.mark.parametrize(
    "given", [".", "./", "deep", "./deep", "deep/", "deep//er", "./deep/*", "./a.png", "*", "/PLACE"]
)
def test_files_are_spelt_as_path_spells_them(folder, monkeypatch, given):
    monkeypatch.chdir(folder)
    found = picture_files([given.replace("/PLACE", str(folder))])
    assert found == [str(Path(file)) for file in found]
    assert [Path(file).exists() for file in found] == [True] * len(found)
    assert not any(file.startswith("./") for file in found)


def test_every_suffix_of_a_jpeg_is_a_pictures(tmp_path):
    for name in ("a.jpg", "b.JPEG", "c.jpe", "d.jfif"):
        (tmp_path / name).touch()
    assert names(picture_files([tmp_path]), tmp_path) == ["a.jpg", "b.JPEG", "c.jpe", "d.jfif"]


def test_names_that_begin_with_a_dot_are_passed_over_within_a_folder_alone(tmp_path):
    home = tmp_path / ".photos"
    for name in ("a.jpg", "._a.jpg", ".ipynb_checkpoints/a-checkpoint.jpg"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).touch()
    assert names(picture_files([home]), home) == ["a.jpg"]
    assert names(picture_files([home / "._a.jpg"]), home) == ["._a.jpg"]


def test_pipes_within_a_folder_are_passed_over_and_links_that_lead_nowhere_are_not(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "to-pipe.jpg").symlink_to("pipe.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "itself.jpg").symlink_to("itself.jpg")
    (tmp_path / "there.jpg").touch()
    (tmp_path / "linked.jpg").symlink_to("there.jpg")
    assert names(picture_files([tmp_path]), tmp_path) == ["gone.jpg", "itself.jpg", "linked.jpg", "there.jpg"]


def test_what_is_left_out_is_told_by_suffix_without_control_codes(tmp_path):
    said = told_ignored({".heic": 1200, "": 1, ".\x1b[2J": 2})
    assert said.startswith("left out are 1,200 .heic, 2 .\\x1b[2J, 1 without a suffix; only .bmp, ")


def test_a_file_is_taken_as_it_is_and_the_order_is_kept(folder):
    found = picture_files([folder / "raw", folder / "deep", folder / "a.png", folder / "a.png"])
    assert names(found, folder) == ["raw", "deep/d.tiff", "deep/er/c.webp", "a.png", "a.png"]


def test_a_pattern_gives_its_files_sorted(folder):
    assert names(picture_files([f"{folder}/*.[Jp]*"]), folder) == ["a.png", "b.JPG"]
    assert names(picture_files([f"{folder}/**/*.webp"]), folder) == ["deep/er/c.webp"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    path = tmp_path / "cat[1].jpg"
    path.touch()
    assert picture_files([path]) == [str(path)]


@pytest.mark.parametrize(
    ("given", "said"),
    [("absent.jpg", "no such file or folder"), ("*.heic", "no file matches"), ("empty", "no pictures in this folder")],
)
def test_a_path_that_stands_for_nothing_is_named(folder, given, said):
    (folder / "empty").mkdir()
    with pytest.raises(UsageError, match=said) as caught:
        picture_files([folder / "a.png", folder / given])
    assert str(folder / given) in str(caught.value)


def test_a_folder_that_links_back_up_is_walked_once(folder):
    (folder / "deep" / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "deep-er" / "here").symlink_to(".", target_is_directory=True)
    assert len(picture_files([folder])) == 6


def test_a_folder_linked_from_elsewhere_is_walked(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "linked").symlink_to(folder / "deep", target_is_directory=True)
    assert names(picture_files([other]), other) == ["linked/d.tiff", "linked/er/c.webp"]


def test_folders_that_link_to_one_another_are_walked_once_on_each_way(tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    for name in "abc":
        for other in set("abc") - {name}:
            (tmp_path / name / f"to-{other}").symlink_to(tmp_path / other, target_is_directory=True)
    found = names(picture_files([tmp_path]), tmp_path)
    assert {"a/1.png", "a/to-b/1.png", "a/to-b/to-c/1.png"} <= set(found)
    assert len(found) == 3 + 3 * 2 + 3 * 2, "each folder, from there the two others, and from there the last"


@pytest.mark.parametrize("listed", [files_in, lambda folder: picture_files([folder])])
@pytest.mark.parametrize("closed", ["", "deep/er"])
def test_a_folder_that_may_not_be_read_is_an_error_and_not_empty(folder, monkeypatch, listed, closed):
    scandir = os.scandir

    def refusing(path="."):  # root may read every folder, so that no mode of it can stand in
        if Path(path) == folder / closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DatasetError, match="this folder cannot be read: Permission denied") as caught:
        listed(folder)
    assert str(caught.value).startswith(f"{folder / closed}: ")
