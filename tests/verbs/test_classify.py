from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from anabranch.images.decode import decode
from anabranch.images.preprocess import Preprocess
from anabranch.pack import pack
from anabranch.runtimes import open_model, softmax
from anabranch.verbs.rows import Rows

INPUT = Preprocess(crop_px=33, resize_px=40, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3))
LABELS = ["ant", "bee", "cat", "dög", "eel"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for name in ("b.png", "a.png", "deep/c.png"):
        Image.fromarray(rng.integers(0, 256, (50, 60, 3), dtype=np.uint8)).save(folder / name)
    return folder


def expected(net: torch.nn.Module, path: Path) -> np.ndarray:
    """What torch says: probabilities of one picture, by Pillow and the formulas."""
    picture = np.asarray(Image.open(path).resize((48, 40), Image.Resampling.BILINEAR))  # 60 x 50, shorter side to 40
    square = picture[4:37, 8:41] if INPUT.crop_start(40) == 4 else picture[3:36, 8:41]
    x = torch.from_numpy(square / 255 - np.array(INPUT.mean)) / torch.tensor(INPUT.std, dtype=torch.float64)
    with torch.inference_mode():
        return net(x.permute(2, 0, 1)[None].float()).softmax(1)[0].numpy()


def test_json_answers_as_torch_does(anabranch, packed, photos) -> None:
    done = anabranch("classify", photos, "-m", packed.folder, "--json", "--top", 5)
    assert (done.status, done.err) == (0, "")
    answers = json.loads(done.out)
    assert [Path(answer["picture"]).name for answer in answers] == ["a.png", "b.png", "c.png"]
    for answer in answers:
        probabilities = expected(packed.net, Path(answer["picture"]))
        assert [guess["label"] for guess in answer["guesses"]] == [LABELS[i] for i in np.argsort(-probabilities)]
        for guess in answer["guesses"]:
            assert guess["probability"] == pytest.approx(probabilities[guess["class"]], abs=2e-5)


def test_a_person_sees_names_probabilities_and_the_time_it_took(anabranch, packed, photos) -> None:
    done = anabranch("classify", photos / "a.png", "-m", packed.folder, "--top", 2)
    name, first, second, summary = done.out.splitlines()
    probabilities = np.sort(expected(packed.net, photos / "a.png"))[::-1]
    assert name == str(photos / "a.png")
    assert first.split()[1] == f"{100 * probabilities[0]:.2f}"
    assert second.split()[1] == f"{100 * probabilities[1]:.2f}"
    assert summary.startswith("1 picture in ")
    assert " ms to classify (tiny.random on openvino f32)" in summary


def test_names_and_labels_from_elsewhere_steer_no_terminal(anabranch, packed, photos, tmp_path) -> None:
    bell = "\x1b[2J\x07"
    (photos / "a.png").rename(photos / f"{bell}.png")
    (photos / f"{bell}.jpg").write_bytes(b"no picture")
    pack(
        packed.net,
        tmp_path / "bells",
        preprocess=INPUT,
        labels=[f"{bell}{index}" for index in range(5)],
        weights_name="bells",
        licence="CC0-1.0",
        formats=["openvino"],
    )
    done = anabranch("classify", photos / f"{bell}.png", photos / f"{bell}.jpg", "-m", tmp_path / "bells")
    assert "\x1b" not in done.out + done.err
    assert "\\x1b[2J\\x07.png" in done.out
    assert "\\x1b[2J\\x070" in done.out
    assert "\\x1b[2J\\x07.jpg" in done.err


def test_it_answers_where_its_output_is_closed(packed, photos) -> None:
    """By `>&-`, after which Python has no stream at all."""
    asked = f'"{sys.executable}" -m anabranch classify "{photos}/a.png" -m "{packed.folder}" >&-'
    done = subprocess.run(["sh", "-c", asked], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_bad_picture_among_good_ones_is_reported_and_the_rest_answered(anabranch, packed, photos) -> None:
    (photos / "b.png").write_bytes(b"no picture")
    done = anabranch("classify", photos, "-m", packed.folder, "--json")
    assert done.status == 1
    assert "b.png" in done.err
    assert len(done.err.splitlines()) == 1
    answers = json.loads(done.out)
    assert ["guesses" in answer for answer in answers] == [True, False, True]
    assert "b.png" in answers[1]["error"]


def test_csv_has_one_row_for_each_picture(anabranch, packed, photos, tmp_path) -> None:
    (photos / "b.png").write_bytes(b"no picture")
    done = anabranch("classify", photos, "-m", packed.folder, "--csv", tmp_path / "out.csv", "--top", 2)
    assert done.status == 1
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text(encoding="utf-8"))))
    assert list(rows[0]) == ["picture", "label1", "probability1", "label2", "probability2", "error"]
    assert [Path(row["picture"]).name for row in rows] == ["a.png", "b.png", "c.png"]
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    assert [bool(row["label1"]) for row in rows] == [True, False, True]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["out.csv"]


def test_csv_leaves_what_it_may_not_replace(anabranch, packed, photos, tmp_path) -> None:
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    assert anabranch("classify", photos, "-m", packed.folder, "--csv", tmp_path / "link.csv").status == 0
    assert (tmp_path / "link.csv").is_symlink()
    assert len((tmp_path / "real.csv").read_text().splitlines()) == 4
    assert anabranch("classify", photos, "-m", packed.folder, "--csv", "/dev/null").status == 0
    assert Path("/dev/null").is_char_device()


def test_a_killed_run_is_gone_on_with_and_no_picture_comes_twice(anabranch, packed, tmp_path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "many").mkdir()
    for index in range(400):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(tmp_path / f"many/{index:03}.png")
    (tmp_path / "many/200.png").write_bytes(b"no picture")
    (tmp_path / 'many/a "name",\nin two lines.png').write_bytes((tmp_path / "many/000.png").read_bytes())
    arguments = ["classify", str(tmp_path / "many"), "-m", str(packed.folder), "--csv"]
    assert anabranch(*arguments, tmp_path / "whole.csv").status == 1

    killed = subprocess.Popen([sys.executable, "-m", "anabranch", *arguments, str(tmp_path / "out.csv")])
    while not (kept := [path for path in tmp_path.glob("out.csv.*.part") if path.stat().st_size > 8000]):
        assert killed.poll() is None
    killed.kill()
    killed.wait()
    assert not (tmp_path / "out.csv").exists()

    refused = anabranch(*arguments, tmp_path / "out.csv")
    assert (refused.status, "--resume goes on with them" in refused.err) == (2, True)
    other = anabranch(*arguments, tmp_path / "out.csv", "--resume", "--top", 2)
    assert (other.status, "another model, other pictures or other options" in other.err) == (2, True)
    scaled = anabranch(*arguments, tmp_path / "out.csv", "--resume", "--scaled-decode")
    assert (scaled.status, "another model, other pictures or other options" in scaled.err) == (2, True)
    before = kept[0].read_bytes().count(b"\n") - 1
    done = anabranch(*arguments, tmp_path / "out.csv", "--resume")
    assert f"holds {before} rows" in done.err
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not list(tmp_path.glob("*.part"))
    again = anabranch(*arguments, tmp_path / "out.csv", "--resume")
    assert (again.status, "out.csv is complete" in again.err) == (2, True)


@pytest.fixture
def stopped_at(monkeypatch):
    """A function that calls another one, which is interrupted as it is about to write so many rows and one."""

    def call(rows: int, run: Callable[[], Any]) -> None:
        write, calls = Rows.write, iter(range(rows + 1))  # with the header

        def stopping(self: Rows, *cells: str) -> None:
            if next(calls, None) is None:
                raise KeyboardInterrupt
            write(self, *cells)

        with monkeypatch.context() as patch:
            patch.setattr(Rows, "write", stopping)
            assert run().status == 130

    return call


def test_another_picture_on_standard_input_is_another_run(
    anabranch, packed, photos, tmp_path, stopped_at, monkeypatch
) -> None:
    arguments = ["classify", "-", photos, "-m", packed.folder, "--csv", tmp_path / "out.csv"]

    def told(name: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((photos / name).read_bytes())))

    told("a.png")
    stopped_at(2, lambda: anabranch(*arguments))
    told("b.png")
    done = anabranch(*arguments, "--resume")
    assert (done.status, "another model, other pictures" in done.err) == (2, True)
    told("a.png")
    assert anabranch(*arguments, "--resume").status == 0


def test_a_name_of_two_lines_is_shown_in_one(anabranch, packed, photos) -> None:
    forged = photos / "x\n  cat  99.00 %\ty.png"
    (photos / "a.png").rename(forged)
    done = anabranch("classify", forged, "-m", packed.folder)
    assert "x\\x0a  cat  99.00 %\\x09y.png\n" in done.out


def test_another_engine_for_the_built_in_model_is_refused_with_what_helps(anabranch, photos) -> None:
    done = anabranch("classify", photos / "a.png", "--engine", "onnxruntime")
    assert (
        done.status,
        "the built-in model is there for openvino in f32 alone; an export of yours may be for others" in done.err,
    ) == (2, True)


@pytest.mark.parametrize("words", [["--csv", "-"], ["--json"]])
def test_no_bar_is_drawn_into_what_a_terminal_is_given_to_read(anabranch, packed, photos, monkeypatch, words) -> None:
    drawn = []
    monkeypatch.setattr("anabranch.verbs.classify.progress_bar", drawn.append)
    monkeypatch.setattr("anabranch.verbs.classify.MANY", 1)
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True, raising=False)
    assert anabranch("classify", photos, "-m", packed.folder, *words).status == 0
    assert drawn == []


@pytest.mark.parametrize("sources", [["."], ["many", "many/b.png", "many/*.png"]])
def test_what_is_named_in_other_words_or_twice_is_gone_on_with(
    anabranch, packed, tmp_path, monkeypatch, sources, stopped_at
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("many").mkdir()
    for name in "abc":
        Image.new("RGB", (40, 40)).save(f"many/{name}.png")
    Path("many/b.png").write_bytes(b"no picture")
    arguments = ["classify", *sources, "-m", packed.folder, "--csv"]
    assert anabranch(*arguments, "whole.csv").status == 1
    stopped_at(2, lambda: anabranch(*arguments, "out.csv"))
    done = anabranch(*arguments, "out.csv", "--resume")
    assert "holds 2 rows" in done.err
    assert done.status == 1, "for what could not be read before, too"
    assert Path("out.csv").read_bytes() == Path("whole.csv").read_bytes()


def test_the_rows_of_another_folder_are_not_gone_on_with(anabranch, packed, photos, tmp_path, stopped_at) -> None:
    shutil.copytree(photos, tmp_path / "others")
    words = ["-m", packed.folder, "--csv", tmp_path / "out.csv"]
    stopped_at(1, lambda: anabranch("classify", photos, *words))
    for sources in (["others"], [photos, "others"], [photos / "deep"]):
        done = anabranch("classify", *(tmp_path / each for each in sources), *words, "--resume")
        assert (done.status, "another model, other pictures" in done.err) == (2, True)
    assert anabranch("classify", f"{photos}/", *words, "--resume").status == 0
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 4


def test_the_same_words_in_another_place_are_another_folder(
    anabranch, packed, photos, tmp_path, stopped_at, monkeypatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(photos, tmp_path / "elsewhere" / photos.name)
    words = ["classify", photos.name, "-m", packed.folder, "--csv", tmp_path / "out.csv"]
    monkeypatch.chdir(photos.parent)
    stopped_at(1, lambda: anabranch(*words))
    monkeypatch.chdir(tmp_path / "elsewhere")
    done = anabranch(*words, "--resume")
    assert (done.status, "another model, other pictures" in done.err) == (2, True)


def test_a_folder_whose_name_is_no_text_is_gone_on_with(anabranch, packed, photos, tmp_path, stopped_at) -> None:
    folder = photos.rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    words = ["classify", folder, "-m", packed.folder, "--csv", tmp_path / "out.csv"]
    stopped_at(1, lambda: anabranch(*words))
    assert anabranch(*words, "--resume").status == 0
    assert (tmp_path / "out.csv").read_text(encoding="utf-8").count("\\udcff/") == 3


def test_what_came_and_went_before_a_run_goes_on_is_told(anabranch, packed, photos, tmp_path, stopped_at) -> None:
    words = ["classify", photos, "-m", packed.folder, "--csv", tmp_path / "out.csv"]
    stopped_at(2, lambda: anabranch(*words))
    (photos / "a.png").rename(photos / "z.png")
    done = anabranch(*words, "--resume")
    assert f"keeps the rows of 1 picture asked for before and not now, {photos / 'a.png'} the first" in done.err
    rows = list(csv.reader((tmp_path / "out.csv").read_text().splitlines()))[1:]
    assert [Path(row[0]).name for row in rows] == ["a.png", "b.png", "z.png", "c.png"]


def test_rows_of_another_graph_of_the_same_net_are_not_gone_on_with(
    anabranch, packed, photos, tmp_path, stopped_at
) -> None:
    card = open_model(packed.folder).card
    told = {"preprocess": card.preprocess, "labels": card.labels, "weights_name": "tiny.random", "licence": "CC0-1.0"}
    pack(packed.net, tmp_path / "halved", formats=["openvino"], stored="f16", **told)
    words = ["classify", photos, "--csv", tmp_path / "out.csv", "-m"]
    stopped_at(1, lambda: anabranch(*words, packed.folder))
    done = anabranch(*words, tmp_path / "halved", "--resume")
    assert (done.status, "another model, other pictures or other options" in done.err) == (2, True)


def test_scaled_decoding_answers_for_the_pixels_of_a_smaller_jpeg(anabranch, packed, tmp_path) -> None:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize((640, 480))
    coarse.save(tmp_path / "large.jpg")
    with Image.open(tmp_path / "large.jpg") as image:
        image.draft("RGB", (160, 120))  # a quarter: 120 is at least twice the 40 that the card resizes to
        smaller = packed_answer(packed, np.asarray(image))
        assert image.size == (160, 120)
    exact = packed_answer(packed, decode(tmp_path / "large.jpg"))
    assert max(abs(exact[each] - smaller[each]) for each in exact) > 1e-5
    for words, wanted in (([], exact), (["--scaled-decode"], smaller)):
        told = json.loads(anabranch("classify", tmp_path / "large.jpg", "-m", packed.folder, "--json", *words).out)
        met = {each["class"]: each["probability"] for each in told[0]["guesses"]}
        assert met == pytest.approx(wanted, abs=2e-6)


def packed_answer(packed, picture: np.ndarray) -> dict[int, float]:
    model = open_model(packed.folder)
    return dict(enumerate(softmax(model.predict(model.card.preprocess(picture)[None]))[0]))


def test_a_name_that_is_no_text_is_written_with_backslashes(anabranch, packed, photos, tmp_path) -> None:
    (photos / "a.png").rename(os.fsdecode(os.fsencode(photos) + b"/\xff.png"))
    assert anabranch("classify", photos, "-m", packed.folder, "--csv", tmp_path / "out.csv").status == 0
    assert "\\udcff.png" in (tmp_path / "out.csv").read_text(encoding="utf-8")


@contextmanager
def watched() -> Iterator[tuple[int, list[bytes]]]:
    """A terminal, and what appears on it."""
    ours, theirs = os.openpty()
    seen: list[bytes] = []

    def watch() -> None:
        with suppress(OSError):  # as which the terminal's end is told
            while some := os.read(ours, 1 << 12):
                seen.append(some)

    watching = threading.Thread(target=watch)
    watching.start()
    yield theirs, seen
    os.close(theirs)
    watching.join()
    os.close(ours)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="there are no pseudo-terminals here")
@pytest.mark.parametrize("words", [["--json"], ["--csv", "-"], []], ids=["json", "csv", "blocks"])
def test_answers_go_into_a_file_while_a_person_watches_the_bar(packed, photos, tmp_path, words: list[str]) -> None:
    for index in range(30):
        shutil.copy(photos / "a.png", photos / f"{index:02}.png")
    command = [sys.executable, "-m", "anabranch", "classify", str(photos), "-m", str(packed.folder), *words]
    with (tmp_path / "out").open("wb") as out, watched() as (terminal, seen):
        assert subprocess.run(command, stdout=out, stderr=terminal, check=False).returncode == 0
    assert b"classifying" in b"".join(seen)
    told = (tmp_path / "out").read_text(encoding="utf-8")
    assert [told.count(f"/{index:02}.png") for index in range(30)] == 30 * [1]
    if words == ["--json"]:
        assert len(json.loads(told)) == 33


def test_csv_to_standard_output_is_nothing_but_csv(anabranch, packed, photos) -> None:
    done = anabranch("classify", photos, "-m", packed.folder, "--csv", "-", "--top", 9)
    rows = list(csv.reader(io.StringIO(done.out)))
    assert len(rows) == 4
    assert {len(row) for row in rows} == {2 * 5 + 2}, "five classes, however many were asked for"


def test_several_paths_and_patterns_are_answered_in_their_order(anabranch, packed, photos) -> None:
    done = anabranch("classify", photos / "deep", photos / "[ab].png", "-m", packed.folder, "--json")
    assert [Path(answer["picture"]).name for answer in json.loads(done.out)] == ["c.png", "a.png", "b.png"]


def test_a_picture_on_standard_input_is_answered(packed, photos) -> None:
    command = [sys.executable, "-m", "anabranch", "classify", "-", "-m", str(packed.folder), "--json"]
    done = subprocess.run(command, input=(photos / "a.png").read_bytes(), capture_output=True, check=True)
    (answer,) = json.loads(done.stdout)
    assert answer["picture"] == "standard input"
    assert answer["guesses"][0]["probability"] == pytest.approx(expected(packed.net, photos / "a.png").max(), abs=2e-5)


def test_a_path_that_the_system_refuses_is_one_line(anabranch, packed) -> None:
    done = anabranch("classify", "x" * 300, "-m", packed.folder)
    assert done.status in (1, 2)
    assert len(done.err.splitlines()) == 1


def test_standard_input_without_end_is_refused_in_bounded_memory(packed) -> None:
    command = [sys.executable, "-m", "anabranch", "classify", "-", "-m", str(packed.folder)]
    with Path("/dev/zero").open("rb") as endless:
        done = subprocess.run(command, stdin=endless, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: standard input: more than 80,000,000 bytes")


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_both_engines_answer_alike(anabranch, packed, photos, engine) -> None:
    done = anabranch("classify", photos / "a.png", "-m", packed.folder, "--engine", engine, "--threads", 1, "--json")
    (answer,) = json.loads(done.out)
    assert answer["guesses"][0]["probability"] == pytest.approx(expected(packed.net, photos / "a.png").max(), abs=2e-5)


def test_a_photo_is_turned_upright_where_that_is_asked(anabranch, packed, tmp_path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[274] = 6  # to be turned by a quarter, clockwise
    photo = Image.fromarray(pixels).resize((70, 50))
    photo.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    stored = np.asarray(Image.open(tmp_path / "turned.jpg"))
    Image.fromarray(np.rot90(stored, -1)).save(tmp_path / "upright.png")
    Image.fromarray(stored).save(tmp_path / "stored.png")

    def guesses(name: str, *words: str) -> object:
        [answer] = json.loads(anabranch("classify", tmp_path / name, "-m", packed.folder, "--json", *words).out)
        return answer["guesses"]

    assert guesses("turned.jpg", "--rotate-exif") == guesses("upright.png") != guesses("stored.png")
    assert guesses("turned.jpg") == guesses("stored.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jpg"], "nowhere.jpg: no such file or folder"),
        (["-", "-"], "give - once"),
        (["--json", "--csv", "x.csv", "."], "two forms of one answer"),
        (["--resume", "PHOTO"], "--resume goes on with the file of --csv"),
        (["--top", "0", "PHOTO"], "top = 0 does not fit"),
        (["--threads", "0", "PHOTO"], "threads = 0 does not fit"),
        (["--engine", "openvin", "PHOTO"], "the nearest is openvino"),
        (["--precision", "f64", "PHOTO"], "does not compute in 'f64'"),
        (["-m", "resnext50_32x5d", "PHOTO"], "resnext50_32x4d"),
        (["--streams", "0", "PHOTO"], "streams = 0 does not fit"),
        (["-m", "seresnet18d_paddle.paddle_in1k", "--streams", "0", "PHOTO"], "streams = 0 does not fit"),
        (["-m", "nowhere.safetensors", "PHOTO"], "nowhere.safetensors: no such file or folder"),
        (
            ["-m", "nowhere", "PHOTO"],
            "nowhere: no such file or folder, and nothing here is called 'nowhere'; the nearest",
        ),
        (["--csv", "no/such/folder/x.csv", "PHOTO"], "no/such/folder/x.csv: cannot be written"),
        (["--csv", f"{__file__}/x.csv", "PHOTO"], "x.csv: cannot be written"),
        (["-m", "resnext50_32x4d", "PHOTO"], "an architecture with several sets of weights"),
        ([""], "one of the paths is empty"),
    ],
)
def test_what_was_asked_wrongly_is_one_line_and_status_2(anabranch, packed, photos, arguments, message) -> None:
    arguments = [str(photos / "a.png") if argument == "PHOTO" else argument for argument in arguments]
    if "-m" not in arguments:
        arguments += ["-m", str(packed.folder)]
    done = anabranch("classify", *arguments)
    assert done.status == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1


def test_a_checkpoint_is_exported_once_and_answers(anabranch, packed, photos, tmp_path, monkeypatch) -> None:
    from anabranch.nets.load import About, Trained, save_trained

    monkeypatch.setenv("ANABRANCH_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "net.safetensors"
    save_trained(
        path, Trained(packed.net, About(name="mine", licence="MIT", class_names=tuple(LABELS), preprocess=INPUT))
    )
    made = set()
    for _ in range(2):
        done = anabranch("classify", photos / "a.png", "-m", path, "--json")
        (answer,) = json.loads(done.out)
        assert answer["guesses"][0]["probability"] == pytest.approx(
            expected(packed.net, photos / "a.png").max(), abs=2e-5
        )
        (card,) = (tmp_path / "cache/artefacts").glob("*/card.json")
        made.add(card.stat().st_mtime_ns)
    assert len(made) == 1
