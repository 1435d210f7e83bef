from __future__ import annotations

import errno
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anabranch import cli
from anabranch.export.write import FORMATS
from anabranch.nets.load import About, Trained, save_trained
from anabranch.runtimes import open_model
from definitions import average_precision


@pytest.fixture
def checkpoint(packed, tmp_path: Path) -> str:
    told = {"name": "tiny", "licence": "CC0-1.0", "class_names": ("a", "b", "c", "d", "e")}
    preprocess = open_model(packed.folder).card.preprocess
    save_trained(tmp_path / "tiny.safetensors", Trained(packed.net, About(preprocess=preprocess, **told)))
    return str(tmp_path / "tiny.safetensors")


@pytest.fixture
def photos(tmp_path: Path) -> str:
    """40 pictures of two of the classes."""
    rng = np.random.default_rng(0)
    for index in range(40):
        path = tmp_path / "photos" / "ab"[index % 2] / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = rng.integers(0, 256, (1, 1, 3))
        Image.fromarray((colour + rng.normal(0, 40, (33, 33, 3))).clip(0, 255).astype(np.uint8)).save(path)
    return str(tmp_path / "photos")


def test_int8_is_calibrated_and_measured_on_pictures_of_a_set(anabranch, checkpoint, photos, tmp_path) -> None:
    words = ["--precision", "f32", "--precision", "int8", "--calibrate", photos, "--max-flips", "100"]
    done = anabranch("export", checkpoint, "-o", str(tmp_path / "out"), *words)
    assert done.status == 0, done.err
    card = json.loads((tmp_path / "out/card.json").read_text())
    said = card["agreement"]["onnxruntime"]["int8"]
    right = {each: card["accuracy"][each]["int8"]["top1_right"] for each in ("openvino", "onnxruntime")}
    assert f"onnxruntime int8: at most {said['max_abs']:.2g} from the net" in done.out
    assert f"{said['top1_flips']} of 20 top-1 answers differ; {5 * right['onnxruntime']:.2f} % are right" in done.out
    assert "measured on 20 pictures of photos, others than the 20 it was calibrated by" in done.out


def test_the_pictures_at_hand_are_called_by_their_folder(anabranch, checkpoint, photos, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(photos)
    words = ["--format", "onnx", "--precision", "int8", "--calibrate", ".", "--max-flips", "100"]
    done = anabranch("export", checkpoint, "-o", tmp_path / "out", *words)
    assert "measured on 20 pictures of photos, others" in done.out, done.err


def test_the_folder_that_one_is_in_is_not_replaced(anabranch, checkpoint, tmp_path, monkeypatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    done = anabranch("export", checkpoint, "-o", ".", "--format", "onnx")
    assert done.status == 1
    assert "holds the folder that you are in, and cannot be replaced; name a folder in it" in done.err
    assert [*Path.cwd().iterdir()] == []


def test_a_place_that_is_no_text_is_refused_before_the_work(anabranch, checkpoint, tmp_path) -> None:
    done = anabranch("export", checkpoint, "-o", f"{tmp_path}/o\udcff", "--format", "onnx")
    assert (done.status, "is no UTF-8, and graphs cannot be written there" in done.err) == (1, True)


def test_int8_is_calibrated_by_pictures_of_several_labels_each(anabranch, packed, photos, tmp_path) -> None:
    preprocess = open_model(packed.folder).card.preprocess
    told = {"name": "tiny", "licence": "CC0-1.0", "class_names": tuple("abcde"), "multi_label": True}
    save_trained(tmp_path / "several.safetensors", Trained(packed.net, About(preprocess=preprocess, **told)))
    names = sorted(str(path.relative_to(photos)) for path in Path(photos).rglob("*.png"))
    rows = [f"{name},{('a;b', 'e', '')[at % 3]}" for at, name in enumerate(names)]
    listed = Path(photos, "list.csv")
    listed.write_text("\n".join(["path,label", *rows]))
    Path(photos, "classes.json").write_text(json.dumps(list("abcde")))
    words = ["--format", "openvino", "--precision", "int8", "--calibrate", str(listed), "--max-flips", "100"]
    done = anabranch("export", str(tmp_path / "several.safetensors"), "-o", str(tmp_path / "out"), *words)
    assert (done.status, done.err) == (0, "")
    assert "measured on 20 pictures of list.csv, others than the 20 it was calibrated by" in done.out
    card = json.loads((tmp_path / "out/card.json").read_text())
    assert (card["multi_label"], card.get("accuracy", {})) == (True, {})
    scored = anabranch("evaluate", str(listed), "-m", str(tmp_path / "out"), "--precision", "int8", "--json")
    pixels = np.stack([preprocess(np.asarray(Image.open(Path(photos, name)))) for name in names])
    logits = open_model(tmp_path / "out", precision="int8").predict(pixels)
    shown = [[at % 3 == 0, at % 3 == 0, False, False, at % 3 == 1] for at in range(40)]
    precisions = [average_precision(logits[:, k], np.array(shown)[:, k]) for k in (0, 1, 4)]
    assert json.loads(scored.out)["map"] == pytest.approx(100 * np.mean(precisions), abs=1e-3)


def test_the_number_of_pictures_that_are_measured_on_may_be_given(anabranch, checkpoint, photos, tmp_path) -> None:
    rng = np.random.default_rng(1)
    for index in range(300):
        Image.fromarray(rng.integers(0, 256, (33, 33, 3), dtype=np.uint8)).save(Path(photos, "b", f"n{index}.png"))
    words = ["--format", "openvino", "--calibrate", photos, "--measure", "35"]
    alone = anabranch("export", checkpoint, "-o", str(tmp_path / "alone"), *words)
    assert "measured on 35 pictures of photos\n" in alone.out
    words += ["--precision", "int8", "--max-flips", "100"]
    done = anabranch("export", checkpoint, "-o", str(tmp_path / "out"), *words)
    assert done.status == 0, done.err
    assert "measured on 35 pictures of photos, others than the 300 it was calibrated by" in done.out
    alone = anabranch("export", checkpoint, "-o", str(tmp_path / "new"), "--measure", "35")
    assert (alone.status, "of --calibrate DATA; give that too" in alone.err) == (2, True)


def test_int8_without_pictures_says_how_to_give_some(anabranch, checkpoint, tmp_path) -> None:
    done = anabranch("export", checkpoint, "-o", str(tmp_path / "out"), "--precision", "int8")
    assert done.status == 2
    assert "say where some lie with --calibrate DATA" in done.err
    assert not (tmp_path / "out").exists()


def test_classes_that_the_model_does_not_know_are_told_on_standard_error(
    anabranch, checkpoint, photos, tmp_path
) -> None:
    Path(photos, "a").rename(Path(photos, "hen"))
    words = ["--format", "openvino", "--precision", "int8", "--calibrate", photos, "--max-flips", "100"]
    done = anabranch("export", checkpoint, "-o", str(tmp_path / "out"), *words)
    assert done.status == 0, done.err
    assert "warning: " in done.err
    assert "no accuracy is measured: the set has 2 classes and the model 5" in done.err
    assert "accuracy" not in json.loads((tmp_path / "out/card.json").read_text())


def test_the_error_of_each_layer_is_written_even_where_the_export_is_refused(
    anabranch, checkpoint, photos, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("anabranch.pack.measure.F32_TOLERANCE", 0.0)
    words = ["--precision", "f32", "--precision", "int8", "--calibrate", photos]
    words += ["--layers", str(tmp_path / "layers.csv")]
    refused = anabranch("export", checkpoint, "-o", str(tmp_path / "out"), *words)
    assert (refused.status, "away from the net" in refused.err) == (1, True)
    rows = (tmp_path / "layers.csv").read_text().splitlines()
    assert rows[0] == "layer,operation,own error,grown error"
    assert rows[-1].startswith("net.head,Gemm,")
    assert not (tmp_path / "out").exists()
    other = anabranch("export", checkpoint, "-o", str(tmp_path / "new"), "--layers", str(tmp_path / "layers.csv"))
    assert (other.status, "ask for --precision int8 too" in other.err) == (2, True)


def test_the_error_of_layers_is_not_written_into_what_is_replaced(anabranch, checkpoint, photos, tmp_path) -> None:
    words = ["export", checkpoint, "-o", tmp_path / "out", "--format", "onnx", "--overwrite"]
    assert anabranch(*words).status == 0
    words += ["--precision", "int8", "--calibrate", photos, "--layers", tmp_path / "out/layers.csv"]
    done = anabranch(*words)
    assert (done.status, "it would lie in the artefact, which holds its own files alone" in done.err) == (2, True)


def test_a_repository_lies_in_the_artefact_and_is_named(anabranch, checkpoint, tmp_path) -> None:
    done = anabranch("export", checkpoint, "-o", str(tmp_path / "out"), "--format", "onnx", "--deploy", "triton")
    assert done.status == 0, done.err
    assert f"{tmp_path / 'out/deploy/triton'} is ready for triton" in done.out
    assert (tmp_path / "out/deploy/triton/tiny/config.pbtxt").is_file()
    files = {each.stat().st_ino: each.stat().st_size for each in (tmp_path / "out").rglob("*") if each.is_file()}
    linked = [each for each in (tmp_path / "out").rglob("*") if each.is_file() and each.stat().st_nlink > 1]
    assert len(linked) > 1, "the repository is of hard links"
    assert f", {sum(files.values()) / 1e6:.1f} MB\n" in done.out


def test_an_artefact_whose_repository_could_not_be_written_is_whole(
    anabranch, checkpoint, tmp_path, monkeypatch
) -> None:
    words = ["export", checkpoint, "-o", str(tmp_path / "out"), "--format", "onnx", "--deploy", "triton"]

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("anabranch.deploy._write_triton", full)
        done = anabranch(*words)
    assert done.status == 1
    assert f"{tmp_path / 'out'} is written and whole, but" in done.err
    assert done.err.endswith("No space left on device; mend that, and repeat this with --overwrite\n")
    assert anabranch("classify", "src/anabranch/builtin/samples", "-m", tmp_path / "out", "--engine", "onnxruntime").out
    assert anabranch(*words, "--overwrite").status == 0


@pytest.mark.skipif(sys.platform == "darwin", reason="names are UTF-8 there")
def test_pictures_in_a_folder_whose_name_is_no_text_are_named_with_backslashes(
    anabranch, checkpoint, photos, tmp_path
) -> None:
    Path(photos).rename(tmp_path / "p\udcff")
    words = ["--format", "onnx", "--precision", "int8", "--calibrate", tmp_path / "p\udcff", "--max-flips", "100"]
    done = anabranch("export", checkpoint, "-o", tmp_path / "out", *words)
    assert "measured on 20 pictures of p\\udcff, others" in done.out, done.err


def test_a_server_that_lacks_its_format_is_refused_before_anything_is_made(anabranch, checkpoint, tmp_path) -> None:
    done = anabranch("export", checkpoint, "-o", str(tmp_path / "out"), "--format", "onnx", "--deploy", "ovms")
    assert done.status == 2
    assert "ovms is given openvino files" in done.err
    assert not (tmp_path / "out").exists()


def test_graphs_of_any_size_are_measured_and_given_to_servers(anabranch, checkpoint, tmp_path) -> None:
    words = ["--format", "openvino", "--any-size", "--deploy", "ovms"]
    done = anabranch("export", checkpoint, "-o", str(tmp_path / "out"), *words)
    assert done.status == 0, done.err
    card = json.loads((tmp_path / "out/card.json").read_text())
    said = card["agreement"]["openvino"]["any-size"]
    assert f"openvino any-size: at most {said['max_abs']:.2g} from pictures resized outside, on logits up" in done.out
    served = tmp_path / "out/deploy/ovms/tiny-any-size/1/any-size.xml"
    assert served.read_bytes() == (tmp_path / "out/any-size.xml").read_bytes()


def test_every_format_that_can_be_written_is_offered() -> None:
    (offered,) = (each.type for each in cli.app.commands["export"].params if each.name == "formats")
    assert set(offered.choices) == set(FORMATS)


def test_the_net_itself_is_written_for_torch_and_answers(anabranch, checkpoint, photos, tmp_path) -> None:
    done = anabranch("export", checkpoint, "-o", str(tmp_path / "out"), "--format", "torch")
    assert done.status == 0, done.err
    assert "  torch f32: at most" in done.out
    asked = anabranch("classify", str(Path(photos, "a/00.png")), "-m", str(tmp_path / "out"), "--engine", "torch")
    assert asked.status == 0, asked.err
    assert "(tiny on torch f32)" in asked.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "onnx", "--stored", "f16"], "f16"),
        (["--format", "onnx", "--precision", "bf16"], "onnx files are not computed in 'bf16'"),
        (["--format", "onnx", "--any-size"], "graphs of any size are written for openvino"),
        (["--format", "torch", "--backbone"], "a backbone is written for openvino and onnx"),
        (["--precision", "int8", "--calibrate", "nowhere"], "nowhere: no such file or folder"),
        (["--precision", "int8", "--calibrate", "PHOTOS", "--layers", "no/l.csv"], "there is no folder no; make it"),
        (
            ["--precision", "int8", "--calibrate", "PHOTOS", "--layers", "."],
            "--layers .: this is a folder; name a file",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_before_a_download(anabranch, photos, tmp_path, words, said) -> None:
    words = [photos if word == "PHOTOS" else word for word in words]
    done = anabranch("export", "resnext50_32x4d.tv_in1k", "-o", str(tmp_path / "out"), *words)
    assert (done.status in (1, 2), said in done.err) == (True, True), done.err


def test_a_split_that_is_not_there_is_refused(anabranch, checkpoint, photos, tmp_path) -> None:
    words = ["--precision", "int8", "--calibrate", str(Path(photos, "a")), "--split", "val"]
    done = anabranch("export", checkpoint, "-o", str(tmp_path / "out"), *words)
    assert (done.status, "split 'val'" in done.err) == (1, True), done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--split", "train"], "--split is one of --calibrate DATA; give that too"),
        (["--stored", "f16", "--precision", "int8", "--calibrate", "PHOTOS"], "--stored f16 is for files in f32"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(anabranch, checkpoint, photos, tmp_path, words, said) -> None:
    words = [photos if word == "PHOTOS" else word for word in words]
    done = anabranch("export", checkpoint, "-o", str(tmp_path / "out"), *words)
    assert (done.status, said in done.err) == (2, True)
    assert not (tmp_path / "out").exists()
