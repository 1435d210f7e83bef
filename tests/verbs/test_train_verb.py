from __future__ import annotations

import json
from pathlib import Path

import pytest

from anabranch.artefact import read_card

RECIPE = Path(__file__).parents[2] / "recipes" / "fashion-mnist.toml"
DATASET = Path("/usr/share/datasets/fashion-mnist")
needs_dataset = pytest.mark.skipif(not DATASET.is_dir(), reason="the package dataset-fashion-mnist is not installed")


@pytest.mark.slow
@needs_dataset
def test_a_recipe_becomes_an_artefact_that_answers(anabranch, tmp_path) -> None:
    run, artefact = tmp_path / "run", tmp_path / "artefact"
    trained = anabranch("train", RECIPE, "--smoke", "--out", run, "--set", "optimise.epochs=1")
    assert trained.status == 0
    assert "epoch   1" in trained.out
    assert str(run / "model.safetensors") in trained.out

    exported = anabranch("export", run / "model.safetensors", "-o", artefact, "--json")
    assert exported.status == 0
    assert json.loads(exported.out)["agreement"].keys() == {"openvino", "onnxruntime"}
    assert read_card(artefact).labels[9] == "ankle boot"
    again = anabranch("export", run / "model.safetensors", "-o", artefact)
    assert again.status != 0
    assert str(artefact) in again.err
    small = anabranch(
        "export", run / "model.safetensors", "-o", artefact, "--format", "openvino", "--stored", "f16", "--overwrite"
    )
    assert small.status == 0
    assert "measured on 8 synthetic pictures" in small.out
    assert read_card(artefact).graphs.keys() == {"openvino"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.toml"], "nowhere.toml: cannot be read"),
        ([RECIPE, "--set", "optimise.epoch=1"], "the nearest are epochs"),
        ([RECIPE, "--set", "data.train.path=/nowhere"], "/nowhere"),
    ],
)
def test_what_was_asked_wrongly_is_one_line(anabranch, tmp_path, arguments, message) -> None:
    done = anabranch("train", *arguments, "--out", tmp_path / "run")
    assert done.status in (1, 2)
    assert message in done.err
    assert len(done.err.splitlines()) == 1


def test_a_checkpoint_that_is_none_is_refused(anabranch, tmp_path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    done = anabranch("export", tmp_path / "x.safetensors", "-o", tmp_path / "artefact")
    assert done.status == 1
    assert "x.safetensors" in done.err
    assert not (tmp_path / "artefact").exists()
