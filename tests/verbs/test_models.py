from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anabranch.arch import ARCHITECTURES
from anabranch.nets.dialects import DIALECTS
from anabranch.nets.net import build
from anabranch.nets.spelling import to_theirs


@pytest.fixture(scope="module")
def net(shake):
    torch.manual_seed(0)
    return shake(build("seresnet18d_paddle"))


@pytest.fixture
def mirrored(net, tmp_path, monkeypatch):
    """A folder that stands in for PaddleClas' address, which publishes no hash, and holds random weights."""
    theirs = to_theirs(ARCHITECTURES["seresnet18d_paddle"], net.state_dict(), DIALECTS["paddleclas"])
    arrays = {name: tensor.contiguous().numpy() for name, tensor in theirs.items()}
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror/SE_ResNet18_vd_pretrained.pdparams").write_bytes(pickle.dumps(arrays, protocol=2))
    monkeypatch.setenv("ANABRANCH_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("ANABRANCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "mirror/SE_ResNet18_vd_pretrained.pdparams"


@pytest.fixture
def photo(tmp_path) -> Path:
    """As large as PaddleClas resizes to, so that nothing but its crop is left to do."""
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def expected(net: torch.nn.Module, photo: Path) -> np.ndarray:
    square = np.asarray(Image.open(photo))[16:240, 16:240] / 255
    x = torch.from_numpy((square - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225])
    with torch.inference_mode():
        return net(x.permute(2, 0, 1)[None].float()).softmax(1)[0].numpy()


def test_the_name_of_published_weights_leads_to_their_answers(anabranch, net, mirrored, photo) -> None:
    done = anabranch("classify", "-m", "SE_ResNet18_vd", photo, "--json", "--top", 3)
    assert done.status == 0
    assert "warning: seresnet18d_paddle.paddle_in1k: " in done.err  # nobody published its hash
    assert "exporting seresnet18d_paddle.paddle_in1k, once" in done.err
    (answer,) = json.loads(done.out)
    probabilities = expected(net, photo)
    assert [guess["class"] for guess in answer["guesses"]] == np.argsort(-probabilities)[:3].tolist()
    assert answer["guesses"][0]["probability"] == pytest.approx(probabilities.max(), rel=1e-3)


def test_a_damaged_artefact_in_the_cache_is_made_anew(anabranch, mirrored, photo, tmp_path) -> None:
    asked = ("classify", "-m", "SE_ResNet18_vd", photo, "--json")
    whole = anabranch(*asked)
    (kept,) = (tmp_path / "cache/artefacts").glob("*/f32.bin")
    kept.write_bytes(kept.read_bytes()[:-1])
    again = anabranch(*asked)
    assert (again.status, "exporting seresnet18d_paddle.paddle_in1k, once" in again.err) == (0, True)
    guesses = [json.loads(each.out)[0]["guesses"] for each in (whole, again)]
    assert guesses[0] == guesses[1]


def test_an_artefact_of_ones_own_stays_whatever_is_wrong_with_it_and_wherever_it_lies(
    anabranch, mirrored, photo, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("ANABRANCH_CACHE", str(tmp_path))
    like = ["--like", "seresnet18d_paddle.paddle_in1k"]
    assert anabranch("export", mirrored, "-o", tmp_path / "mine", "--format", "openvino", *like).status == 0
    files = {path.name for path in (tmp_path / "mine").iterdir()}
    done = anabranch("classify", "-m", tmp_path / "mine", photo, "--precision", "int8")
    assert (done.status, "holds no files for openvino in int8" in done.err) == (1, True)
    assert {path.name for path in (tmp_path / "mine").iterdir()} == files


def test_a_zoos_file_is_exported_like_the_weights_it_is_like(anabranch, mirrored, tmp_path) -> None:
    done = anabranch("export", mirrored, "-o", tmp_path / "artefact", "--format", "openvino", "--json")
    assert done.status == 2
    assert "name published weights that it is like" in done.err
    like = ["--like", "seresnet18d_paddle.paddle_in1k"]
    done = anabranch("export", mirrored, "-o", tmp_path / "artefact", "--format", "openvino", "--json", *like)
    card = json.loads(done.out)
    assert (card["architecture"]["name"], card["licence"]) == ("seresnet18d_paddle", "Apache-2.0")
    assert (card["preprocess"]["resampler"], card["preprocess"]["rounding"]) == ("opencv-bilinear", "paddleclas")
    assert (tmp_path / "artefact/labels.txt").read_text().splitlines()[0] == "tench"


def test_a_name_that_nothing_has_is_told_before_what_int8_wants(anabranch, photo) -> None:
    done = anabranch("classify", "-m", "resnext5O_32x4d", photo, "--precision", "int8")
    assert (done.status, "calibrated" in done.err, "resnext50_32x4d" in done.err) == (2, False, True)


def test_a_file_that_is_not_there_is_no_misspelt_name(anabranch, photo) -> None:
    done = anabranch("classify", "-m", "drawer/net.pth", photo)
    assert (done.status, done.err.splitlines()) == (
        2, ["error: drawer/net.pth: no such file or folder; give an artefact folder or a checkpoint"])  # fmt: skip


@pytest.mark.parametrize("verb", [("export", "-o", "out"), ("classify", "photo.png", "-m"), ("evaluate", "set", "-m")])
def test_a_runs_folder_is_told_with_its_result(anabranch, tmp_path, monkeypatch, verb) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/new").mkdir(parents=True)
    (tmp_path / "runs/new/recipe.json").touch()
    (tmp_path / "photo.png").touch()
    done = anabranch(*verb, "runs/new")
    assert (done.status, done.err) == (2, "error: runs/new is a run's folder; it has no result yet\n")
    (tmp_path / "runs/new/model.safetensors").touch()
    done = anabranch(*verb, "runs/new")
    told = "error: runs/new is a run's folder; its result is runs/new/model.safetensors\n"
    assert (done.status, done.err) == (2, told)


def test_an_artefact_that_is_to_be_exported_is_told_to_be_no_file(anabranch, packed, tmp_path) -> None:
    done = anabranch("export", packed.folder, "-o", tmp_path / "out")
    assert (done.status, done.err) == (2, f"error: {packed.folder} is a folder; give a checkpoint, which is a file\n")


def test_identify_says_what_a_file_is(anabranch, mirrored) -> None:
    done = anabranch("identify", mirrored)
    assert "is        seresnet18d_paddle, as paddleclas spells it" in done.out
    assert "classes   1,000" in done.out
    told = json.loads(anabranch("identify", mirrored, "--json").out)
    assert told["candidates"] == [{"architecture": "seresnet18d_paddle", "dialect": "paddleclas"}]


def test_identify_says_what_stands_in_the_way_of_a_file(anabranch, tmp_path) -> None:
    grey = build("resnet18", in_channels=1)
    theirs = to_theirs(grey.arch, grey.state_dict(), DIALECTS["timm"])
    torch.save({name: tensor for name, tensor in theirs.items() if not name.startswith("fc.")}, tmp_path / "grey.pth")
    done = anabranch("identify", tmp_path / "grey.pth")
    assert "classes   none: its classifier is absent" in done.out
    assert "channels  1; what is trained, exported and classified here has 3" in done.out


def test_convert_writes_what_identify_knows_again(anabranch, mirrored, tmp_path) -> None:
    done = anabranch("convert", mirrored, "-o", tmp_path / "again.safetensors", "--to", "paddleclas")
    assert done.out.startswith(f"{tmp_path / 'again.safetensors'}: seresnet18d_paddle as paddleclas spells it, ")
    told = json.loads(anabranch("identify", tmp_path / "again.safetensors", "--json").out)
    assert told["kind"] == "safetensors"
    assert told["candidates"] == [{"architecture": "seresnet18d_paddle", "dialect": "paddleclas"}]


def test_convert_refuses_a_net_that_the_other_zoo_computes_differently(anabranch, mirrored, tmp_path) -> None:
    done = anabranch("convert", mirrored, "-o", tmp_path / "timm.pth", "--to", "timm")
    assert done.status == 1
    assert "timm does not compute seresnet18d_paddle: it has nothing like projected_first_shortcut" in done.err


def test_what_was_exported_once_answers_again_without_torch(anabranch, mirrored, photo) -> None:
    first = anabranch("classify", "-m", "SE_ResNet18_vd", photo, "--json")
    command = "import sys; from anabranch.cli import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    again = subprocess.run(
        [sys.executable, "-c", command, "classify", "-m", "SE_ResNet18_vd", photo, "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "exporting" not in again.stderr
    times = ("decode_ms", "infer_ms")
    answers = [
        [{key: one[key] for key in one if key not in times} for one in json.loads(each)]
        for each in (first.out, again.stdout)
    ]
    assert answers[0] == answers[1]


def test_a_place_that_is_taken_is_refused_before_anything_is_fetched(anabranch, mirrored, tmp_path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/holiday.jpg").write_text("precious")
    done = anabranch("export", "SE_ResNet18_vd", "-o", tmp_path / "mine")
    assert (done.status, "holds something that is not an artefact" in done.err) == (1, True)
    assert not (tmp_path / "cache").exists()


def test_an_export_that_is_ended_leaves_nothing_behind(mirrored, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    words = ["export", "SE_ResNet18_vd", "-o", str(tmp_path / "out/artefact")]
    process = subprocess.Popen([sys.executable, "-m", "anabranch", *words], stderr=subprocess.DEVNULL)
    while not list((tmp_path / "out").iterdir()):
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    assert process.wait() == 143
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--engine", "openvno"], "the nearest is openvino"),
        (["--precision", "int9"], "does not compute in 'int9'"),
        (["--threads", "0"], "threads = 0 does not fit"),
        (["--precision", "int8"], "is no artefact, and int8 is calibrated as one is made: anabranch export"),
    ],
)
def test_what_no_engine_does_is_refused_before_anything_is_fetched_or_exported(
    anabranch, mirrored, photo, tmp_path, words, said
) -> None:
    done = anabranch("classify", "-m", "SE_ResNet18_vd", photo, *words)
    assert (done.status, said in done.err) == (2, True)
    assert "exporting" not in done.err
    assert not (tmp_path / "cache").exists()
