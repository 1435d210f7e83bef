"""The C++ predictor answers as Python does, and says as clearly why it does not."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino.opset13 as op
import pytest
from PIL import Image

from anabranch.artefact import read_card, sha256
from anabranch.errors import Error
from anabranch.pack import pack
from anabranch.runtimes import builtin, open_model
from anabranch.runtimes.openvino import offered_precisions
from anabranch.runtimes.pipeline import classify
from odd_jpegs import in_scans, upright_411

pytestmark = pytest.mark.cpp

SAMPLES = sorted((builtin().parent / "samples").glob("*.png"))
SIZES = [(28, 28), (29, 31), (250, 301)]
ENCODINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "444": ("RGB", {"subsampling": "4:4:4"}),
    "420": ("RGB", {"subsampling": "4:2:0"}),
    "grey": ("L", {}),
    "progressive": ("RGB", {"progressive": True}),
    "restart": ("RGB", {"restart_marker_blocks": 2}),
}


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory) -> list[Path]:
    """The sample photos as JPEGs of several sizes and encodings."""
    folder = tmp_path_factory.mktemp("jpegs")
    for sample in SAMPLES:
        for size in SIZES:
            for name, (mode, options) in ENCODINGS.items():
                with Image.open(sample) as image:
                    image.convert(mode).resize(size).save(folder / f"{sample.stem}-{size[0]}-{name}.jpg", **options)
    return sorted(folder.iterdir())


def answers(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def assert_same_answers(cpp: list[dict[str, Any]], folder: Path, pictures: list[Path], **options: Any) -> None:
    python = list(classify(open_model(folder, **options), pictures, top=5))
    assert [answer["picture"] for answer in cpp] == [answer.name for answer in python]
    labels = [[guess["label"] for guess in answer["guesses"]] for answer in cpp]
    assert labels == [[guess.label for guess in answer.guesses] for answer in python]
    probabilities = [[guess["probability"] for guess in answer["guesses"]] for answer in cpp]
    wanted = [[guess.probability for guess in answer.guesses] for answer in python]
    np.testing.assert_allclose(probabilities, wanted, rtol=0, atol=1e-5)


def test_the_built_in_model_answers_as_in_python(predict, jpegs):
    assert_same_answers(answers(predict(builtin(), *jpegs, "--json")), builtin(), jpegs)


def test_one_picture_is_answered_as_in_python(predict, jpegs):
    assert_same_answers(answers(predict(builtin(), jpegs[0], "--json", "--threads", 1)), builtin(), jpegs[:1])


PREPROCESSES: dict[str, dict[str, Any]] = {
    "as packed": {},
    "squash": {"fit": "squash", "resize_px": 33},
    "bicubic and padded": {"resampler": "pillow-bicubic", "resize_px": 30},
    "PaddleClas": {"resampler": "opencv-bilinear", "rounding": "paddleclas"},
}


@pytest.mark.parametrize("multi_label", [False, True], ids=["one label", "many labels"])
@pytest.mark.parametrize("named", PREPROCESSES)
def test_another_artefact_answers_as_in_python(named, multi_label, predict, packed, with_card, jpegs):
    def change(card):
        card["preprocess"].update(PREPROCESSES[named])
        card["multi_label"] = multi_label

    folder = with_card(packed.folder, change)
    assert_same_answers(answers(predict(folder, *jpegs, "--json")), folder, jpegs)


def test_int8_is_taken_where_the_artefact_has_no_f32(predict, packed, with_card, jpegs):
    """Its name alone is another here: what is int8 the graph says."""

    def rename(card):
        card["graphs"]["openvino"] = {"int8": card["graphs"]["openvino"]["f32"]}

    folder = with_card(packed.folder, rename)
    assert_same_answers(answers(predict(folder, *jpegs[:3], "--json")), folder, jpegs[:3], precision="int8")


def test_bf16_is_computed_of_the_files_of_f32_where_the_processor_has_it(predict, packed, jpegs):
    done = predict(packed.folder, *jpegs[:3], "--json", "--precision", "bf16")
    if "bf16" not in offered_precisions():
        assert (done.returncode, b"this processor computes no bf16" in done.stderr) == (2, True)
        return
    exact = answers(predict(packed.folder, *jpegs[:3], "--json"))
    python = classify(open_model(packed.folder, precision="bf16"), jpegs[:3])
    for met, near, wanted in zip(answers(done), exact, python, strict=True):
        assert met != near
        of_class = {guess.class_index: guess.probability for guess in wanted.guesses}
        assert {guess["class"]: guess["probability"] for guess in met["guesses"]} == pytest.approx(of_class, abs=2e-3)


def test_a_block_shows_each_guess_in_percent(predict, packed, jpegs):
    done = predict(packed.folder, jpegs[0], "--top", 2)
    best = next(iter(classify(open_model(packed.folder), jpegs[:1], top=2))).guesses
    name, *lines = done.stdout.decode().splitlines()
    assert name == str(jpegs[0])
    assert [line.split() for line in lines] == [[guess.label, f"{100 * guess.probability:.2f}", "%"] for guess in best]


def test_no_name_gives_orders_to_a_terminal(predict, packed, with_card, jpegs, tmp_path):
    labels = "\x1b[2Jgone\x9b \u202e\ttabbed\nb\nc\nd\ne\n".encode()

    def change(card):
        card["labels"]["sha256"] = hashlib.sha256(labels).hexdigest()

    folder = with_card(packed.folder, change)
    (folder / "labels.txt").write_bytes(labels)
    names = ["\x1b]0;title\x07.jpg", "in two\nlines.jpg", os.fsdecode(b"\xff.jpg")]
    for name in names:
        shutil.copy(jpegs[0], tmp_path / name)
    done = predict(folder, *(tmp_path / name for name in names), tmp_path / "\x1b[31mlacking.jpg")
    assert done.returncode == 1
    assert not {*done.stdout, *done.stderr} & {*range(9), *range(11, 32), 0x7F}
    told_all = (
        r"\x1b]0;title\x07.jpg",
        r"in two\x0alines.jpg",
        r"\udcff.jpg",
        r"\x1b[2Jgone\x9b \u202e\x09tabbed",
    )
    for told in told_all:
        assert told in done.stdout.decode()
    assert r"\x1b[31mlacking.jpg: no such file" in done.stderr.decode()


@pytest.fixture
def folder_of_pictures(tmp_path, jpegs) -> Path:
    """At several depths, behind a link, hidden, with names that CSV must quote, of other kinds, and one cut short."""
    root = tmp_path / "pictures"
    places = [
        "b.jpg",
        "a,1.JPEG",
        'say "x".jpg',
        "ä.jpg",
        "z/1.jpg",
        "z/y/2.jpe",
        "z-y/3.jpg",
        ".hidden.jpg",
        ".h/4.jpg",
        "in two\r lines.jpg",
        "in two\n lines.jpg",
        os.fsdecode(b"no text: \xe2\x82 \xc0\x80 \xed\xa0\x80 \xff.jpg"),
        "\x1b[31mred\x1b[0m.jpg",
    ]
    for place, jpeg in zip(places, jpegs, strict=False):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(jpeg, root / place)
    (root / "z" / "up").symlink_to(root)
    (root / "cut.jpg").write_bytes(jpegs[0].read_bytes()[:400])
    (root / "notes.txt").write_text("no picture")
    return root


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def assert_same_csv(
    predict: Callable[..., subprocess.CompletedProcess[bytes]], folder: str | Path, *, status: int
) -> None:
    cpp = predict(builtin(), folder, "--top", 3)
    python = subprocess.run(
        [sys.executable, "-m", "anabranch", "classify", folder, "--csv", "-", "--top", "3"],
        capture_output=True,
        check=False,
    )
    assert (cpp.returncode, python.returncode) == (status, status), cpp.stderr
    assert cpp.stdout.splitlines()[0] == python.stdout.splitlines()[0]
    met, wanted = rows(cpp.stdout.decode()), rows(python.stdout.decode())
    exact = ["picture", "label1", "label2", "label3"]
    assert [[row[key] for key in exact] for row in met] == [[row[key] for key in exact] for row in wanted]
    assert [bool(row["error"]) for row in met] == [bool(row["error"]) for row in wanted]
    for key in ("probability1", "probability2", "probability3"):
        met_digits, wanted_digits = ([float(row[key] or "nan") for row in table] for table in (met, wanted))
        np.testing.assert_allclose(met_digits, wanted_digits, rtol=0, atol=2e-6)


def test_a_folder_gives_the_csv_of_the_python_command(predict, folder_of_pictures):
    assert_same_csv(predict, folder_of_pictures, status=1)


def test_links_that_lead_round_are_passed_over_as_in_python(predict, jpegs, tmp_path):
    """Folders that link to each other, and a link to itself, which is neither a folder nor a picture."""
    root = tmp_path / "loop"
    for name, jpeg in zip("ab", jpegs, strict=False):
        (root / name).mkdir(parents=True)
        shutil.copy(jpeg, root / name / f"{name}.jpg")
    (root / "a" / "x").symlink_to("../b")
    (root / "b" / "y").symlink_to("../a")
    (root / "b" / "me").symlink_to("me")
    assert_same_csv(predict, root, status=0)


def test_a_folder_is_named_sorted_and_searched_as_in_python(predict, jpegs, tmp_path):
    """Without what leads nowhere in its path, letter by letter, and without pipes; a link to nothing is told."""
    folder = tmp_path / "odd"
    (folder / "deep").mkdir(parents=True)
    for name in (b"\xff.jpg", "\uff41.jpg".encode(), "\U0001f600.jpg".encode(), b"a.jpg", b"deep/b.jpg"):
        shutil.copy(jpegs[0], os.fsencode(folder) + b"/" + name)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "nothing.jpg").symlink_to("nowhere")
    assert_same_csv(predict, f"{tmp_path}//./odd/", status=1)


def test_many_pictures_are_answered_in_order(predict, packed, jpegs, tmp_path):
    """Far more than are held at a time, large among small ones."""
    for index in range(120):
        shutil.copy(jpegs[index * 7 % len(jpegs)], tmp_path / f"{index:03}.jpg")
    done = predict(packed.folder, tmp_path, "--json")
    assert_same_answers(answers(done), packed.folder, sorted(tmp_path.iterdir()))


@pytest.mark.parametrize("more", [-1, 0, 1, 19])
def test_among_many_those_that_cannot_be_read_cost_no_other_its_answer(predict, jpegs, tmp_path, more):
    """One by one and, from 32 a core on, in batches of eight: some of a batch, all of one, and the last picture."""
    count = 32 * len(os.sched_getaffinity(0)) + more
    for index in range(count):
        jpeg = jpegs[index * 7 % len(jpegs)].read_bytes()
        is_cut = index in (3, 40, count - 1) or 16 <= index < 24
        (tmp_path / f"{index:04}.jpg").write_bytes(jpeg[:400] if is_cut else jpeg)
    assert_same_csv(predict, tmp_path, status=1)


def cut_short(jpeg: bytes) -> bytes:
    return jpeg[: len(jpeg) // 2]


def too_many_pixels(jpeg: bytes) -> bytes:
    frame = jpeg.index(b"\xff\xc0")
    return jpeg[: frame + 5] + struct.pack(">HH", 10_000, 10_000) + jpeg[frame + 9 :]


def png(_: bytes) -> bytes:
    return SAMPLES[0].read_bytes()


def cmyk(_: bytes) -> bytes:
    file = io.BytesIO()
    Image.new("CMYK", (40, 30)).save(file, "JPEG")
    return file.getvalue()


def strip(_: bytes) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (5000, 1)).save(file, "JPEG")
    return file.getvalue()


def too_many_pixels_in_scans(_: bytes) -> bytes:
    data = in_scans(np.zeros((16, 16, 3), np.uint8))
    frame = data.index(b"\xff\xc0")
    return data[: frame + 5] + struct.pack(">HH", 5001, 5000) + data[frame + 9 :]


BAD_PICTURES = {
    "cut short": (cut_short, "cannot be decoded as JPEG"),
    "a header without a picture": (lambda jpeg: jpeg[:30], "cannot be decoded as JPEG"),
    "too many pixels": (too_many_pixels, "10000 x 10000 pixels are too many: at most 50000000"),
    "too many pixels in scans": (
        too_many_pixels_in_scans,
        "5000 x 5001 pixels are too many: at most 25000000 are decoded in a multi-scan JPEG",
    ),
    "a subsampling without a name": (
        lambda _: upright_411(np.zeros((8, 32, 3), np.uint8)),
        "Could not determine subsampling type",
    ),
    "PNG under a wrong name": (png, "not a JPEG, by its first bytes"),
    "CMYK": (cmyk, "only YCbCr and grey JPEG is read here"),
    "a strip": (strip, "5000 x 1 pixels are a strip"),
    "empty": (lambda _: b"", "the file is empty"),
}


@pytest.mark.parametrize("named", BAD_PICTURES)
def test_a_bad_picture_is_one_line_and_the_others_are_answered(named, predict, packed, jpegs, tmp_path):
    make, sentence = BAD_PICTURES[named]
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(make(jpegs[0].read_bytes()))
    done = predict(packed.folder, jpegs[0], bad, jpegs[1], "--json")
    error = done.stderr.decode()
    assert (done.returncode, error.count("\n")) == (1, 1)
    assert error.startswith(f"error: {bad}: ")
    assert sentence in error
    assert ["guesses" in answer for answer in json.loads(done.stdout)] == [True, False, True]


def test_a_strip_that_opencv_cannot_resize_is_refused_as_in_python(predict, packed, with_card, jpegs, tmp_path):
    def change(card):
        card["preprocess"].update(resampler="opencv-bilinear", resize_px=128)

    folder, strip = with_card(packed.folder, change), tmp_path / "strip.jpg"
    Image.new("RGB", (4000, 1)).save(strip)
    done = predict(folder, strip, jpegs[0], "--json")
    (python,) = classify(open_model(folder), [strip])
    assert (done.returncode, done.stderr.decode()) == (1, f"error: {python.error}\n")
    assert "guesses" in json.loads(done.stdout)[1]


def test_a_picture_may_come_through_a_pipe(built, predict, packed, jpegs):
    command = f"{built / 'predict' / 'predict'} {packed.folder} <(cat {jpegs[0]}) --json"
    piped = subprocess.run(["bash", "-c", command], capture_output=True, check=False, timeout=60)
    guesses = [answers(done)[0]["guesses"] for done in (piped, predict(packed.folder, jpegs[0], "--json"))]
    assert guesses[0] == guesses[1]


def test_logits_that_are_not_finite_are_one_line_as_in_python(predict, packed, with_card, jpegs):
    folder = with_card(packed.folder, lambda card: None)
    weights, bias = folder / "f32.bin", packed.net.head.bias.detach().numpy().tobytes()
    held = weights.read_bytes()
    assert held.count(bias) == 1
    weights.write_bytes(held.replace(bias, np.full(len(bias) // 4, np.nan, np.float32).tobytes()))
    folder = with_card(folder, lambda card: files_of(card)["f32.bin"].update(sha256=sha256(weights)), "described")
    done = predict(folder, jpegs[0], jpegs[1], "--json")
    errors = [answer.error for answer in classify(open_model(folder), jpegs[:2])]
    assert errors[0] is not None
    assert "answers with logits that are not finite" in errors[0]
    assert (done.returncode, done.stderr.decode()) == (1, "".join(f"error: {error}\n" for error in errors))
    assert [answer["error"] for answer in json.loads(done.stdout)] == errors


def test_a_missing_picture_is_one_line_and_the_others_are_answered(predict, packed, jpegs, tmp_path):
    done = predict(packed.folder, tmp_path / "nothing.jpg", jpegs[0], "--json")
    assert (done.returncode, done.stderr.decode()) == (1, f"error: {tmp_path / 'nothing.jpg'}: no such file\n")
    assert "guesses" in json.loads(done.stdout)[1]


@pytest.fixture(scope="module")
def any_size(tmp_path_factory, packed) -> Path:
    """An artefact that holds the graph that resizes and crops too."""
    folder = tmp_path_factory.mktemp("any") / "out"
    card = read_card(packed.folder)
    told = {"preprocess": card.preprocess, "labels": card.labels, "weights_name": "tiny", "licence": "CC0-1.0"}
    pack(packed.net, folder, formats=["openvino"], any_size=True, **told)
    return folder


def test_a_graph_that_resizes_by_itself_is_refused(predict, with_card, any_size, jpegs):
    def change(card):
        card["graphs"]["openvino"]["f32"] = card["graphs"]["openvino"]["any-size"]

    done = predict(with_card(any_size, change), jpegs[0])
    assert done.returncode == 1
    assert "takes u8 [?,?,?,3]" in done.stderr.decode()


@pytest.mark.parametrize("home", [{}, {"HOME": ""}])
def test_without_a_home_nothing_is_kept_in_the_folder_at_hand(built, packed, jpegs, tmp_path, home):
    (tmp_path / "here").mkdir()
    words = [built / "predict" / "predict", packed.folder, jpegs[0]]
    done = subprocess.run(words, cwd=tmp_path / "here", env=home, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize("told", ["~", "~/", "~/kept"])
def test_the_cache_may_lie_in_a_home(built, packed, jpegs, tmp_path, told):
    for name in ("here", "home"):
        (tmp_path / name).mkdir()
    words = [built / "predict" / "predict", packed.folder, jpegs[0]]
    variables = {"HOME": str(tmp_path / "home"), "ANABRANCH_CACHE": told}
    done = subprocess.run(words, cwd=tmp_path / "here", env=variables, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert list((tmp_path / "here").iterdir()) == []
    assert list((tmp_path / "home" / told[2:] / "openvino").glob("*.blob"))


def test_a_cache_in_nobodys_home_is_refused(built, packed, jpegs):
    words = [built / "predict" / "predict", packed.folder, jpegs[0]]
    done = subprocess.run(words, env={"ANABRANCH_CACHE": "~nobody-at-all/kept"}, capture_output=True, check=False)
    wanted = "error: ANABRANCH_CACHE is '~nobody-at-all/kept', and no such home is known here; write the whole path\n"
    assert (done.returncode, done.stderr.decode()) == (2, wanted)


def test_a_folder_without_jpegs_is_refused(predict, packed, tmp_path):
    done = predict(packed.folder, tmp_path)
    assert (done.returncode, done.stderr.decode()) == (1, f"error: {tmp_path}: no JPEG in this folder\n")


def files_of(card: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = card["graphs"]["openvino"]["f32"]["files"]
    return found


BAD_CARDS = {
    "newer": (lambda card: card.update(card_version=2), "card_version is 2, made by a newer anabranch"),
    "without a key": (lambda card: card.pop("preprocess"), "card.json lacks 'preprocess'"),
    "with another type": (
        lambda card: card["preprocess"].update(crop_px="33"),
        'preprocess.crop_px is "33"; a whole number of at least 1, at most 65535 was expected',
    ),
    "with an unknown resampler": (
        lambda card: card["preprocess"].update(resampler="opencv-bicubic"),
        'preprocess.resampler is "opencv-bicubic"; pillow-bilinear or pillow-bicubic or opencv-bilinear was expected',
    ),
    "with too few labels": (
        lambda card: card["labels"].update(count=6),
        "labels.count is 6, but the labels beside it are 5",
    ),
    "with other labels than its maker's": (
        lambda card: card["labels"].update(sha256="0" * 64),
        "labels.sha256 is not that of the labels beside it",
    ),
    "with a hash that is none": (
        lambda card: files_of(card)["f32.bin"].update(sha256="A" * 64),
        'files.f32.bin.sha256 is "AAAA',
    ),
    "with a path up": (
        lambda card: files_of(card).update({"../f32.bin": files_of(card).pop("f32.bin")}),
        "'../f32.bin' leaves the folder; a plain path inside it was expected",
    ),
    "with an absolute path": (
        lambda card: files_of(card).update({"/f32.bin": files_of(card).pop("f32.bin")}),
        "'/f32.bin' leaves the folder",
    ),
    "with a path that is not plain": (
        lambda card: files_of(card).update({"s//f32.bin": files_of(card).pop("f32.bin")}),
        "'s//f32.bin' leaves the folder",
    ),
    "with a path that ends within": (
        lambda card: files_of(card).update({"f32.bin\0": files_of(card).pop("f32.bin")}),
        "'f32.bin\\x00' leaves the folder",
    ),
    "without classes": (lambda card: card["labels"].update(count=0), "labels.count is 0; a whole number of at least 1"),
    "with another size": (lambda card: files_of(card)["f32.bin"].update(bytes=7), "bytes; the card says 7"),
    "with a file that is missing": (
        lambda card: files_of(card).update({"f33.bin": files_of(card).pop("f32.bin")}),
        "is incomplete: f33.bin is missing",
    ),
    "without the weights": (
        lambda card: files_of(card).pop("f32.bin"),
        "card.json names no .bin file; export it again",
    ),
    "with another size of pixels than the graph's": (
        lambda card: card["preprocess"].update(crop_px=34),
        "the card says u8 [?,34,34,3]",
    ),
    "without OpenVINO's files": (
        lambda card: card.update(graphs={}),
        "holds no files for openvino in f32; it holds none",
    ),
}


@pytest.mark.parametrize("named", BAD_CARDS)
def test_a_card_that_does_not_fit_is_refused_in_one_line(named, predict, packed, with_card, jpegs):
    change, sentence = BAD_CARDS[named]
    done = predict(with_card(packed.folder, change), jpegs[0])
    error = done.stderr.decode()
    assert (done.returncode, done.stdout, error.count("\n")) == (1, b"", 1)
    assert error.startswith("error: ")
    assert sentence in error


DAMAGED_CARDS = {
    "cut short": (lambda text: text[:100], "it is not JSON"),
    "with a key twice": (
        lambda text: text.replace(b'"preprocess": {', b'"preprocess": {"crop_px": 33, '),
        "the key 'crop_px' occurs twice in one object",
    ),
    "with a byte order mark": (lambda text: b"\xef\xbb\xbf" + text, "it begins with a byte order mark"),
    "nested": (lambda text: b'{"card_version": ' + 80_000 * b"[" + 80_000 * b"]" + b"}", "it is nested too deep"),
}


@pytest.mark.parametrize("named", DAMAGED_CARDS)
def test_a_damaged_card_is_refused_in_one_line(named, predict, packed, with_card, jpegs):
    damage, reason = DAMAGED_CARDS[named]
    folder = with_card(packed.folder, lambda card: None)
    card = folder / "card.json"
    card.write_bytes(damage(card.read_bytes()))
    done = predict(folder, jpegs[0])
    wanted = f"error: {card} is damaged: {reason}. Copy or export the artefact again\n"
    assert (done.returncode, done.stderr.decode()) == (1, wanted)
    with pytest.raises(Error, match="is damaged"):
        read_card(folder)


def test_labels_that_are_not_utf8_are_refused(predict, packed, with_card, jpegs):
    labels = packed.folder.joinpath("labels.txt").read_bytes()
    labels = b"\xff" + labels[labels.index(b"\n") :]
    told = hashlib.sha256(labels).hexdigest()
    folder = with_card(packed.folder, lambda card: card["labels"].update(sha256=told))
    (folder / "labels.txt").write_bytes(labels)
    done = predict(folder, jpegs[0])
    with pytest.raises(Error, match=r"labels\.txt is not UTF-8"):
        read_card(folder)
    assert (done.returncode, done.stderr.decode()) == (
        1, f"error: {folder / 'labels.txt'} is not UTF-8. Copy or export the artefact again\n")  # fmt: skip


def test_of_two_graphs_the_first_that_the_card_names_answers(predict, packed, with_card, jpegs):
    """Both have the first's weights here; the second's graph is none."""
    folder = with_card(packed.folder, lambda card: None)
    shutil.copy(folder / "f32.xml", folder / "z.xml")
    (folder / "a.xml").write_text("none")

    def change(card):
        weights = files_of(card)["f32.bin"]
        described = {
            path: {"bytes": (folder / path).stat().st_size, "sha256": sha256(folder / path)}
            for path in ("z.xml", "a.xml")
        }
        card["graphs"]["openvino"]["f32"]["files"] = {**described, "f32.bin": weights}

    twice = with_card(folder, change, "twice")
    assert_same_answers(answers(predict(twice, jpegs[0], "--json")), twice, jpegs[:1])


def test_a_graph_of_one_batch_is_refused_as_in_python(predict, packed, with_card, jpegs):
    folder = with_card(packed.folder, lambda card: None)
    graph = folder / "f32.xml"
    pixels = op.parameter([-1, 33, 33, 3], np.uint8)
    mean = op.reduce_mean(op.convert(pixels, "f32"), op.constant([0, 1, 2], np.int64), keep_dims=False)
    scores = op.matmul(op.unsqueeze(mean, op.constant([0], np.int64)), np.ones((3, 5), np.float32), False, False)
    openvino.save_model(openvino.Model([scores], [pixels]), graph, compress_to_fp16=False)

    def change(card):
        for name, described in files_of(card).items():
            described.update(bytes=(folder / name).stat().st_size, sha256=sha256(folder / name))

    folder = with_card(folder, change, "described")
    done = predict(folder, jpegs[0])
    assert done.returncode == 1
    assert "gives f32 [1,5]; the card says u8 [?,33,33,3] and f32 [?,5]" in done.stderr.decode()
    with pytest.raises(Error, match=r"gives \(1, 5\); the card says .* \(N, 5\)"):
        open_model(folder)


def test_weights_with_a_bit_turned_are_refused_as_in_python(predict, packed, with_card, jpegs):
    folder = with_card(packed.folder, lambda card: None)
    weights = folder / "f32.bin"
    held = bytearray(weights.read_bytes())
    held[len(held) // 2] ^= 1
    weights.write_bytes(held)
    done = predict(folder, jpegs[0])
    with pytest.raises(Error, match="is not the file that the card describes") as met:
        open_model(folder)
    assert (done.returncode, done.stderr.decode()) == (1, f"error: {met.value}\n")


def test_a_link_out_of_the_artefact_is_refused(predict, packed, with_card, jpegs, tmp_path):
    folder = with_card(packed.folder, lambda card: None)
    (folder / "f32.bin").rename(tmp_path / "f32.bin")
    (folder / "f32.bin").symlink_to(tmp_path / "f32.bin")
    done = predict(folder, jpegs[0])
    assert done.returncode == 1
    assert f"leads out of the artefact, to {tmp_path / 'f32.bin'}" in done.stderr.decode()


def test_a_damaged_graph_is_refused_in_one_line(predict, packed, with_card, jpegs):
    folder = with_card(packed.folder, lambda card: None)
    graph = folder / "f32.xml"
    text = graph.read_bytes()
    graph.write_bytes(text[:1000] + b"<" * 100 + text[1100:])
    folder = with_card(folder, lambda card: files_of(card)["f32.xml"].update(sha256=sha256(graph)), "described")
    graph = folder / "f32.xml"
    done = predict(folder, jpegs[0])
    error = done.stderr.decode()
    assert (done.returncode, error.count("\n")) == (1, 1)
    assert error.startswith(f"error: OpenVINO cannot read {graph}: ")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "no artefact is named"),
        (["somewhere"], "no picture is named"),
        (["somewhere", "a.jpg", "--top", "0"], "--top 0 does not fit: a whole number of at least 1 is wanted"),
        (["somewhere", "a.jpg", "--precision", "f16"], "--precision f16 is not known here"),
        (["somewhere", "a.jpg", "--csv"], "no option is called --csv"),
        (["somewhere", "a.jpg", "--top"], "--top wants a value"),
    ],
)
def test_a_wrong_command_line_has_an_exit_status_of_its_own(words, sentence, predict):
    done = predict(*words)
    assert done.returncode == 2
    assert sentence in done.stderr.decode()


def test_the_benchmark_measures_every_quantity(predict, packed, jpegs):
    measured = json.loads(predict(packed.folder, "--bench", jpegs[0], "--json").stdout)
    assert (measured.pop("model"), measured.pop("precision")) == ("tiny.random", "f32")
    assert set(measured) == {"cold_start_ms", "latency_ms", "num_latencies", "throughput_per_s"}
    assert min(measured.values()) > 0
