from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anabranch.pack import pack
from anabranch.runtimes import open_model


@pytest.fixture
def artefact(packed, photos, tmp_path: Path) -> Path:
    """The packed net, but that its second best class is preferred a little: about half of the answers change."""
    card = open_model(packed.folder).card
    ranked = np.sort(answers(packed.folder, photos), axis=1)
    net = copy.deepcopy(packed.net)
    net.head.bias.data[int(np.argsort(answers(packed.folder, photos).mean(0))[-2])] += float(
        np.median(ranked[:, -1] - ranked[:, -2])
    )
    told = {"preprocess": card.preprocess, "labels": card.labels, "weights_name": "tiny", "licence": "CC0-1.0"}
    pack(net, tmp_path / "artefact", **told, formats=["openvino"])
    return tmp_path / "artefact"


def answers(artefact: Path, photos: Path) -> np.ndarray:
    pixels = np.stack([np.asarray(Image.open(path)) for path in sorted(photos.iterdir())])
    return open_model(artefact).predict(pixels)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    (tmp_path / "photos").mkdir()
    for index in range(20):
        colour = rng.integers(0, 256, (1, 1, 3))
        noisy = (colour + rng.normal(0, 40, (33, 33, 3))).clip(0, 255)
        Image.fromarray(noisy.astype(np.uint8)).save(tmp_path / "photos" / f"{index:02}.png")
    return tmp_path / "photos"


def test_flips_are_counted_named_and_held_to_a_limit(anabranch, packed, artefact, photos) -> None:
    ours, wanted = (answers(each, photos).argmax(1) for each in (artefact, packed.folder))
    flips = int((ours != wanted).sum())
    assert 0 < flips < 20
    done = anabranch("agree", f"{artefact}@openvino:f32", packed.folder, photos, "--max-flips", 5 * flips)
    assert done.status == 0, done.err
    assert "tiny (openvino f32) against tiny.random (openvino f32), 20 pictures of" in done.out
    assert f"  top-1   {flips:,} answers differ, {5 * flips:.2f} %" in done.out
    first = int(np.flatnonzero(ours != wanted)[0])
    assert f"    {first:02}.png: {open_model(artefact).card.labels[ours[first]]} " in done.out
    strict = anabranch("agree", artefact, packed.folder, photos, "--max-flips", 5 * flips - 1, "--json")
    assert strict.status == 1
    told = json.loads(strict.out)
    assert (told["agreement"]["top1_flips"], len(told["flips"]), told["flips_percent"]) == (flips, flips, 5 * flips)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("@int9", "'int9' is no engine and no precision; the nearest is int8"),
        ("@onnxruntme", "'onnxruntme' is no engine and no precision; the nearest is onnxruntime"),
        ("@openvino:int9", "does not compute in 'int9'"),
        ("@openvin:f32", "no engine is called 'openvin'"),
    ],
)
def test_what_no_engine_computes_is_refused(anabranch, artefact, photos, name, message) -> None:
    done = anabranch("agree", f"{artefact}{name}", artefact, photos)
    assert (done.status, message in done.err) == (2, True)


def test_a_picture_that_cannot_be_read_is_told_and_ends_with_status_1(anabranch, artefact, photos) -> None:
    (photos / "03.png").write_bytes(b"")
    done = anabranch("agree", artefact, f"{artefact}@openvino", photos)
    assert done.status == 1
    assert "19 pictures of" in done.out
    assert "03.png: the file is empty" in done.err
