from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace

import pytest

from anabranch.artefact import checked_files, read_card, refuse_to_replace, replacing, write_card
from anabranch.errors import ArtefactError


@pytest.fixture
def folder(packed, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(packed.folder, tmp_path / "copy")


def edit(folder, change):
    path = folder / "card.json"
    card = json.loads(path.read_text())
    change(card)
    path.write_text(json.dumps(card))


def test_what_was_written_is_read_back_equal(packed, tmp_path):
    card = read_card(packed.folder, verify=True)
    write_card(tmp_path, card)
    assert read_card(tmp_path) == card


def test_the_hashes_on_the_card_are_those_that_hashlib_gives(packed):
    files = json.loads((packed.folder / "card.json").read_text())["graphs"]["openvino"]["f32"]["files"]
    for name, said in files.items():
        held = (packed.folder / name).read_bytes()
        assert said == {"bytes": len(held), "sha256": hashlib.sha256(held).hexdigest()}


def test_labels_stand_one_a_line_in_utf8(packed):
    assert (packed.folder / "labels.txt").read_bytes().decode() == "ant\nbee\ncat\ndög\neel\n"


def test_the_artefact_holds_only_what_its_card_names(packed):
    card = read_card(packed.folder)
    named = {name for graphs in card.graphs.values() for graph in graphs.values() for name in graph.files}
    assert {path.name for path in packed.folder.iterdir()} == named | {"card.json", "labels.txt"}


def test_a_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ArtefactError, match="no such folder"):
        read_card(tmp_path / "nowhere")


def test_a_folder_without_a_card_is_said(tmp_path):
    with pytest.raises(ArtefactError, match=r"holds no card\.json"):
        read_card(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1, 2", '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 100_000])
def test_a_card_that_is_not_json_is_said_to_be_damaged(folder, text):
    (folder / "card.json").write_text(text)
    with pytest.raises(ArtefactError, match=r"card\.json is damaged"):
        read_card(folder)


def test_a_card_that_is_not_utf8_is_said(folder):
    (folder / "card.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ArtefactError, match=r"card\.json is not UTF-8"):
        read_card(folder)


def test_a_missing_label_is_counted(folder):
    (folder / "labels.txt").write_text("ant\nbee\ncat\ndög\n")
    with pytest.raises(ArtefactError, match="count is 5, but the labels beside it are 4"):
        read_card(folder)


def test_a_label_too_many_is_counted(folder):
    (folder / "labels.txt").write_text("ant\nbee\ncat\ndög\neel\nfox\n")
    with pytest.raises(ArtefactError, match="count is 5, but the labels beside it are 6"):
        read_card(folder)


def test_labels_in_another_order_are_refused(folder):
    (folder / "labels.txt").write_text("bee\nant\ncat\ndög\neel\n")
    with pytest.raises(ArtefactError, match=r"labels\.sha256"):
        read_card(folder)


def test_an_empty_label_is_named_by_its_line(folder):
    (folder / "labels.txt").write_text("ant\nbee\n\ndög\neel\n")
    with pytest.raises(ArtefactError, match="line 3"):
        read_card(folder)


def test_labels_that_are_missing_are_said(folder):
    (folder / "labels.txt").unlink()
    with pytest.raises(ArtefactError, match=r"labels\.txt is missing"):
        read_card(folder)


@pytest.mark.parametrize("label", ["two\nthree", "", "caf\udce9"])
def test_a_label_that_is_no_line_of_text_is_not_written(packed, tmp_path, label):
    from dataclasses import replace

    card = replace(read_card(packed.folder), labels=("one", label))
    with pytest.raises(ArtefactError, match="label 1"):
        write_card(tmp_path, card)


def test_a_missing_file_is_named(folder):
    (folder / "f32.bin").unlink()
    with pytest.raises(ArtefactError, match=r"f32\.bin is missing"):
        read_card(folder, verify=True)


def test_a_file_of_another_size_is_named_with_both_sizes(folder):
    size = (folder / "f32.bin").stat().st_size
    with (folder / "f32.bin").open("ab") as file:
        file.write(b"!")
    with pytest.raises(ArtefactError, match=rf"f32\.bin holds {size + 1:,} bytes; the card says {size:,}"):
        read_card(folder, verify=True)


def test_one_flipped_bit_is_found(folder):
    path = folder / "f32.bin"
    held = bytearray(path.read_bytes())
    held[len(held) // 2] ^= 1
    path.write_bytes(held)
    with pytest.raises(ArtefactError, match=r"f32\.bin is not the file that the card describes"):
        read_card(folder, verify=True)


def test_a_large_file_is_hashed_again_when_it_was_written_to_or_that_is_asked(folder, monkeypatch, tmp_path):
    monkeypatch.setattr("anabranch.artefact.HASHED_EACH_TIME_BYTES", 10)
    monkeypatch.setenv("ANABRANCH_CACHE", str(tmp_path / "cache"))
    files = read_card(folder).graphs["openvino"]["f32"].files
    path = folder / "f32.bin"
    whole, times = path.read_bytes(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(bytes(len(whole)))
    with pytest.raises(ArtefactError, match=r"f32\.bin is not the file"):
        checked_files(folder, files)
    path.write_bytes(whole)
    os.utime(path, ns=times)
    assert set(checked_files(folder, files)) == {"f32.xml", "f32.bin"}
    path.write_bytes(bytes(len(whole)))
    os.utime(path, ns=times)  # as a disk does that forgets
    assert set(checked_files(folder, files)) == {"f32.xml", "f32.bin"}
    with pytest.raises(ArtefactError, match=r"f32\.bin is not the file"):
        checked_files(folder, files, verify=True)
    path.touch()
    with pytest.raises(ArtefactError, match=r"f32\.bin is not the file"):
        checked_files(folder, files)


def test_a_link_that_leads_out_of_the_folder_is_refused(folder, tmp_path):
    outside = shutil.move(folder / "f32.bin", tmp_path / "elsewhere.bin")
    (folder / "f32.bin").symlink_to(outside)
    with pytest.raises(ArtefactError, match="leads out of the artefact"):
        read_card(folder, verify=True)


def test_a_file_that_is_a_link_to_itself_is_missing(folder):
    (folder / "f32.bin").unlink()
    (folder / "f32.bin").symlink_to("f32.bin")
    with pytest.raises(ArtefactError, match=r"is incomplete: f32\.bin is missing"):
        read_card(folder, verify=True)


def test_a_model_without_classes_is_refused(folder):
    card = json.loads((folder / "card.json").read_text())
    card["labels"].update(count=0, sha256=hashlib.sha256(b"").hexdigest())
    (folder / "card.json").write_text(json.dumps(card))
    (folder / "labels.txt").write_text("")
    with pytest.raises(ArtefactError, match="count is 0; a model has at least one class"):
        read_card(folder)


def test_a_folder_reached_through_a_link_opens(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert read_card(tmp_path / "link", verify=True).labels[0] == "ant"


def test_nothing_is_left_of_an_artefact_that_failed(packed, tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "new") as staging:
        write_card(staging / "nowhere", read_card(packed.folder))
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_artefact_that_was_there(folder, tmp_path):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ZeroDivisionError), replacing(folder, overwrite=True):
        raise ZeroDivisionError
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]


def test_an_artefact_is_not_replaced_unless_asked(folder):
    with pytest.raises(ArtefactError, match="already holds an artefact.*--overwrite"), replacing(folder):
        pytest.fail("the block must not run")


def test_an_artefact_gives_way_when_asked(folder, tmp_path):
    with replacing(folder, overwrite=True) as staging:
        (staging / "card.json").write_text("new")
    assert [path.name for path in folder.iterdir()] == ["card.json"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_of_other_things_is_never_replaced(tmp_path):
    (tmp_path / "holiday.jpg").write_text("precious")
    with pytest.raises(ArtefactError, match="something that is not an artefact"), replacing(tmp_path, overwrite=True):
        pytest.fail("the block must not run")
    assert (tmp_path / "holiday.jpg").read_text() == "precious"


@pytest.mark.parametrize("name", ["thesis.tex", "mine/net.safetensors"])
def test_what_somebody_keeps_in_an_artefact_is_not_lost(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("precious")
    told = f"holds {name.split('/')[0]}, which is no part of an artefact and would be lost"
    with pytest.raises(ArtefactError, match=told), replacing(folder, overwrite=True):
        pytest.fail("the block must not run")
    assert (folder / name).read_text() == "precious"


@pytest.mark.parametrize("card", ['{"deck": "of cards"}', "[]", '{"graphs": {"onnx": 1}}', "{"])
def test_a_card_of_something_else_is_no_artefacts(tmp_path, card):
    (tmp_path / "card.json").write_text(card)
    with pytest.raises(ArtefactError, match=r"holds card\.json, which is no part"), replacing(tmp_path, overwrite=True):
        pytest.fail("the block must not run")
    assert (tmp_path / "card.json").read_text() == card


def test_a_newer_artefact_gives_way_with_its_servers_repositories(folder):
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "card_version": 99, "new": None}))
    (folder / "deploy/triton").mkdir(parents=True)
    with replacing(folder, overwrite=True) as staging:
        (staging / "card.json").write_text("new")
    assert [path.name for path in folder.iterdir()] == ["card.json"]


def test_a_name_that_is_no_text_is_not_written(packed, tmp_path):
    card = replace(read_card(packed.folder), pictures="1,000 pictures of p\udcff")
    with pytest.raises(ArtefactError, match=r"the card cannot hold .*p.udcff.*, which is no UTF-8"):
        write_card(tmp_path, card)
    assert not (tmp_path / "card.json").exists()


def test_a_file_is_never_replaced(tmp_path):
    (tmp_path / "model").write_text("precious")
    with pytest.raises(ArtefactError, match="not a folder"), replacing(tmp_path / "model", overwrite=True):
        pytest.fail("the block must not run")


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "empty").mkdir()
    with replacing(tmp_path / "empty") as staging:
        (staging / "card.json").write_text("new")
    assert (tmp_path / "empty" / "card.json").read_text() == "new"


def test_an_artefact_whose_successor_never_came_is_there_again(folder, tmp_path):
    retired, partial = (tmp_path / f".copy.0123abcd.{end}" for end in ("old", "partial"))
    folder.rename(retired)
    partial.mkdir()
    with pytest.raises(ArtefactError, match="already holds an artefact"), replacing(folder):
        pass
    assert read_card(folder, verify=True).labels[0] == "ant"
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_an_artefact_that_has_given_way_is_taken_away(folder, tmp_path):
    shutil.copytree(folder, tmp_path / ".copy.0123abcd.old")
    with replacing(folder, overwrite=True) as staging:
        shutil.copytree(folder, staging, dirs_exist_ok=True)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_what_a_killed_process_left_of_an_artefact_whose_name_begins_alike_is_let_be(folder, tmp_path):
    retired, partial = (tmp_path / f".copy.v2.0123abcd.{end}" for end in ("old", "partial"))
    shutil.copytree(folder, retired)
    partial.mkdir()
    with replacing(folder, overwrite=True) as staging:
        shutil.copytree(retired, staging, dirs_exist_ok=True)
    with replacing(tmp_path / "new") as staging:
        shutil.copytree(retired, staging, dirs_exist_ok=True)
    assert read_card(retired, verify=True).labels[0] == "ant"
    assert sorted(path.name for path in tmp_path.iterdir()) == [retired.name, partial.name, "copy", "new"]


@pytest.mark.parametrize("place", ["notes.txt/model", "notes.txt/models/model"])
def test_a_file_above_the_place_is_named(tmp_path, place):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ArtefactError, match=r"notes\.txt is a file; an artefact cannot be written below it"):
        refuse_to_replace(tmp_path / place, overwrite=False)
    with pytest.raises(ArtefactError, match=r"notes\.txt is a file"), replacing(tmp_path / place):
        pytest.fail("the block must not run")


def test_what_a_killed_process_left_half_built_is_taken_away_and_what_is_being_built_is_not(tmp_path):
    (tmp_path / ".new.0123abcd.partial").mkdir()
    (tmp_path / ".new.0123abcd.partial" / "f32.onnx").write_text("half of it")
    (tmp_path / ".newer.0123abcd.partial").mkdir()  # another artefact's
    with replacing(tmp_path / "new") as first:
        assert not (tmp_path / ".new.0123abcd.partial").exists()
        with replacing(tmp_path / "new") as second:
            assert first.is_dir()
            (second / "card.json").write_text("second")
        shutil.rmtree(tmp_path / "new")
        (first / "card.json").write_text("first")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".newer.0123abcd.partial", "new"]
