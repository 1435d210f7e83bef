from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import anabranch
from anabranch.arch import Arch
from anabranch.artefact import read_card
from anabranch.calibration import Pictures
from anabranch.engines import openvino, openvino_core
from anabranch.errors import ArtefactError, UsageError
from anabranch.export.any_size import write_any_size
from anabranch.images.preprocess import Preprocess
from anabranch.nets.net import build
from anabranch.pack import pack
from anabranch.runtimes import open_any_size

TOLD = {"labels": ["a", "b", "c"], "weights_name": "tiny", "licence": "CC0-1.0"}
SPEC = Arch(depths=(1, 1), width=8, groups=2, group_width=32, stem=(8, 8, 8), shortcut="pool", squeeze=4)
SIZES = [(32, 32), (40, 40), (60, 83), (83, 60), (31, 44), (20, 20), (120, 41), (64, 100), (96, 97)]


@pytest.fixture(scope="module")
def made(tmp_path_factory, shake) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("any") / "out"
    preprocess = Preprocess(crop_px=32, resize_px=40)
    pixels = np.random.default_rng(1).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    pictures = Pictures("noise", pixels[:8], calibration=pixels[8:])
    precisions = {"precisions": ["f32", "int8"], "pictures": pictures, "max_flips": 1.0}
    net = shake(build(SPEC, num_classes=3))
    pack(net, folder, preprocess=preprocess, formats=["openvino"], any_size=True, **precisions, **TOLD)
    return folder


def through_pillow(
    picture: np.ndarray, size: tuple[int, int], method: Image.Resampling, crop: tuple[int, int], px: int
):
    """Resized to (height, width) and cropped from (top, left), by Pillow alone."""
    resized = Image.fromarray(picture).resize(size[::-1], method)
    return np.asarray(resized)[crop[0] : crop[0] + px, crop[1] : crop[1] + px]


def identity(folder: Path, px: int) -> Path:
    """A graph (N, S, S, 3) uint8 that gives its pixels."""
    ov = openvino()
    from openvino import opset13 as op

    pixels = op.parameter([-1, px, px, 3], ov.Type.u8, name="pixels")
    ov.save_model(ov.Model([op.convert(pixels, "f32")], [pixels]), folder / "same.xml")
    return folder / "same.xml"


@pytest.mark.parametrize("resampler", ["pillow-bilinear", "pillow-bicubic"])
@pytest.mark.parametrize(
    ("rounding", "fit", "height", "width", "size", "crop"),
    [  # sizes and crops by hand
        ("torchvision", "shorter-side", 60, 83, (40, 55), (4, 12)),  # 55.3; 23 / 2 = 11.5, to the even 12
        ("torchvision", "shorter-side", 77, 50, (61, 40), (14, 4)),  # 61.6; 29 / 2 = 14.5, to the even 14
        ("paddleclas", "shorter-side", 60, 83, (40, 55), (4, 11)),
        ("paddleclas", "shorter-side", 77, 50, (62, 40), (15, 4)),  # 61.6, rounded
        ("paddleclas", "shorter-side", 80, 101, (40, 50), (4, 9)),  # 50.5, to the even 50
        ("paddleclas", "shorter-side", 80, 103, (40, 52), (4, 10)),  # 51.5, to the even 52
        ("torchvision", "squash", 33, 90, (40, 40), (4, 4)),
        ("torchvision", "shorter-side", 40, 40, (40, 40), (4, 4)),
    ],
)
def test_pixels_are_pillows_within_a_level(tmp_path, resampler, rounding, fit, height, width, size, crop) -> None:
    preprocess = Preprocess(crop_px=32, resize_px=40, fit=fit, resampler=resampler, rounding=rounding)
    write_any_size(identity(tmp_path, 32), tmp_path / "any.xml", preprocess, halved=False)
    compiled = openvino_core().compile_model(tmp_path / "any.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    met = compiled([noise[None]])[0][0]
    method = Image.Resampling[resampler.removeprefix("pillow-").upper()]
    apart = np.abs(met - through_pillow(noise, size, method, crop, 32))
    assert met.shape == (32, 32, 3)
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.05  # most where weights are plain fractions, whose sums end in a half


@pytest.mark.parametrize(("height", "width", "size"), [(60, 81, (40, 54)), (30, 47, (40, 62)), (80, 160, (40, 80))])
def test_pixels_are_opencvs_within_a_level(tmp_path, height, width, size) -> None:
    preprocess = Preprocess(crop_px=32, resize_px=40, resampler="opencv-bilinear")
    write_any_size(identity(tmp_path, 32), tmp_path / "any.xml", preprocess, halved=False)
    compiled = openvino_core().compile_model(tmp_path / "any.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    resized = cv2.resize(noise, size[::-1], interpolation=cv2.INTER_LINEAR)
    top, left = ((side - 32) // 2 for side in size)  # none of them odd by two
    apart = np.abs(compiled([noise[None]])[0][0] - resized[top : top + 32, left : left + 32])
    assert apart.max() <= 1
    assert (apart > 0).mean() < 0.2  # its weights have 11 bits


def test_many_sizes_take_little_more_memory_than_a_few(made) -> None:
    """In a process of its own: what is resident after 40 sizes, beside what was after 5."""
    script = f"""
import anabranch, numpy as np
predict = anabranch.open_any_size({str(made)!r}).predict
def resident():
    return int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0])
for number in range(40):
    predict(np.zeros((1, 375 + number, 500 + 2 * number, 3), np.uint8))
    if number in (4, 39):
        print(resident())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    few, many = map(int, done.stdout.split())
    assert many - few < 100_000  # kB; OpenVINO's own Interpolate keeps 30,000 for each size


@pytest.mark.parametrize("precision", ["f32", "int8"])
@pytest.mark.parametrize("size", SIZES)
def test_answers_are_those_of_pictures_resized_outside(made, precision, size) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    model = anabranch.open_model(made, precision=precision)
    wanted = model.predict(np.stack([model.card.preprocess(each) for each in pictures]))
    met = open_any_size(made, precision=precision, threads=1).predict(pictures)
    np.testing.assert_allclose(met, wanted, atol=0.05 * float(np.abs(wanted).max()))


def test_the_card_says_what_resizing_inside_changes(made) -> None:
    card = read_card(made, verify=True)
    assert set(card.graphs["openvino"]) == {"f32", "int8", "any-size", "any-size-int8"}
    assert 0 <= card.agreement["openvino"]["any-size"].relative < 0.05
    assert 0 <= card.agreement["openvino"]["any-size-int8"].relative < 0.05


def test_an_artefact_without_one_says_how_to_make_it(packed) -> None:
    with pytest.raises(ArtefactError, match="export the net again with --any-size"):
        open_any_size(packed.folder)


def test_a_precision_that_has_none_is_refused(made) -> None:
    with pytest.raises(UsageError, match="does not compute in 'f16'"):
        open_any_size(made, precision="f16")


@pytest.mark.parametrize(
    "pictures", [np.zeros((8, 8, 3), np.uint8), np.zeros((1, 8, 8, 3)), np.zeros((1, 0, 8, 3), "u1")]
)
def test_what_is_no_picture_is_refused(made, pictures) -> None:
    with pytest.raises(UsageError, match=r"uint8 \(N, H, W, 3\)"):
        open_any_size(made).predict(pictures)


def test_a_graph_of_another_net_than_the_cards_is_refused(made, tmp_path) -> None:
    folder = shutil.copytree(made, tmp_path / "copy")
    card = json.loads((folder / "card.json").read_text())
    graphs = card["graphs"]["openvino"]
    graphs["any-size"] = graphs["f32"]
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(ArtefactError, match=r"the card says \(N, H, W, 3\)"):
        open_any_size(folder)


@pytest.mark.parametrize(
    ("preprocess", "formats", "why"),
    [
        (Preprocess(crop_px=32, resize_px=40, resampler="opencv-bicubic"), ["openvino"], "resizes as opencv-bicubic"),
        (Preprocess(crop_px=32, resize_px=30), ["openvino"], "resize_px = 30 is below crop_px = 32"),
        (Preprocess(crop_px=32, resize_px=40), ["onnx"], "written for openvino"),
    ],
)
def test_what_no_graph_can_do_is_refused_at_export(tmp_path, preprocess, formats, why) -> None:
    net = build(SPEC, num_classes=3).eval()
    with pytest.raises(UsageError, match=why):
        pack(net, tmp_path / "out", preprocess=preprocess, formats=formats, any_size=True, **TOLD)
    assert not (tmp_path / "out").exists()


def test_opening_one_imports_no_torch(made) -> None:
    code = f"""
import sys
import numpy as np
import anabranch
anabranch.open_any_size({str(made)!r}).predict(np.zeros((1, 40, 50, 3), np.uint8))
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_below_one_are_refused(made, threads) -> None:
    with pytest.raises(UsageError, match=f"threads = {threads} does not fit"):
        open_any_size(made, threads=threads)


def test_what_is_no_picture_is_refused_by_name(made) -> None:
    with pytest.raises(UsageError, match=r"takes pixels as uint8 \(N, H, W, 3\); it met a list"):
        open_any_size(made).predict([[1]])
