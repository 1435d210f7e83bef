from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

import anabranch
from anabranch.arch import Arch, Quirk
from anabranch.artefact import read_card
from anabranch.errors import ArtefactError, UsageError
from anabranch.images.preprocess import Preprocess
from anabranch.nets.net import Net, build
from anabranch.pack import pack
from anabranch.runtimes import open_backbone

PREPROCESS = Preprocess(crop_px=64, resize_px=64, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3))
SPECS = {
    "pooled": Arch(depths=(1, 1, 1, 1), width=8, groups=2, group_width=32, stem=(8, 8, 8), shortcut="pool", squeeze=4),
    "split": Arch(
        depths=(2, 1, 1),
        width=8,
        block="res2",
        group_width=16,
        splits=4,
        stem_stride=1,
        quirks=frozenset({Quirk.MEAN_SKIPS_PADDING, Quirk.SPLITS_RESET_ON_STRIDE}),
    ),
    "caffe": Arch(depths=(1, 1), width=8, squeeze=4, quirks=frozenset({Quirk.UNPADDED_STEM_POOL})),
}


class Made(NamedTuple):
    net: Net
    folder: Path


@pytest.fixture(scope="module", params=SPECS)
def made(request, tmp_path_factory, shake) -> Made:
    torch.manual_seed(0)
    net = shake(build(SPECS[request.param], num_classes=3))
    folder = tmp_path_factory.mktemp("backbone") / "out"
    told = {"labels": ["a", "b", "c"], "weights_name": "tiny", "licence": "CC0-1.0"}
    pack(net, folder, preprocess=PREPROCESS, backbone=True, **told)
    return Made(net, folder)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("size", [(64, 64), (96, 41), (33, 130)])
def test_pictures_of_any_size_get_the_nets_own_features(made, engine, size) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    normal = (torch.from_numpy(pixels) / 255 - torch.tensor(PREPROCESS.mean)) / torch.tensor(PREPROCESS.std)
    with torch.inference_mode():
        wanted = made.net.features(normal.permute(0, 3, 1, 2))
    backbone = open_backbone(made.folder, engine=engine, threads=1)
    met = backbone.features(pixels)
    assert [each.shape[1] for each in met] == list(backbone.channels)
    for stride, ours, torchs in zip(backbone.strides, met, wanted, strict=True):
        lacking = [0, 1] if Quirk.UNPADDED_STEM_POOL in made.net.arch.quirks else [0]
        assert all(-(-side // stride) - length in lacking for side, length in zip(size, ours.shape[2:], strict=True))
        assert ours.shape == torchs.shape
        np.testing.assert_allclose(ours, torchs.numpy(), atol=1e-5 * float(torchs.abs().max()))
    np.testing.assert_allclose(backbone.embed(pixels), wanted[-1].mean((2, 3)).numpy(), atol=1e-4)


def test_the_card_says_how_far_the_features_are_from_the_nets(made) -> None:
    card = read_card(made.folder, verify=True)
    for engine, kind in (("openvino", "openvino"), ("onnxruntime", "onnx")):
        assert 0 < card.agreement[engine]["features"].relative < 1e-5
        assert set(card.graphs[kind]) == {"f32", "features"}


def test_classifying_with_such_an_artefact_goes_on_as_before(made) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    assert anabranch.open_model(made.folder).predict(pixels).shape == (1, 3)


def test_an_artefact_without_one_says_how_to_make_it(packed) -> None:
    with pytest.raises(ArtefactError, match="export the net again with --backbone"):
        open_backbone(packed.folder)


def test_engines_that_run_none_are_refused(made) -> None:
    with pytest.raises(UsageError, match="ncnn runs no backbones here; these do: openvino, onnxruntime"):
        open_backbone(made.folder, engine="ncnn")


@pytest.mark.parametrize(
    "pixels", [np.zeros((2, 64, 64), np.uint8), np.zeros((1, 64, 64, 3)), np.zeros((0, 64, 64, 3), "u1"), [[1]]]
)
def test_what_is_no_picture_is_refused(made, pixels) -> None:
    with pytest.raises(UsageError, match=r"uint8 \(N, H, W, 3\), H and W of at least \d+; it met"):
        open_backbone(made.folder).features(pixels)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_picture_may_be_as_small_as_the_largest_stride_and_no_smaller(made, engine) -> None:
    backbone = open_backbone(made.folder, engine=engine)
    least = backbone.strides[-1]
    assert backbone.features(np.zeros((1, least, least, 3), np.uint8))[-1].shape[2:] == (1, 1)
    with pytest.raises(UsageError, match=f"H and W of at least {least}; it met"):
        backbone.embed(np.zeros((1, least, least - 1, 3), np.uint8))


def test_a_graph_of_another_net_than_the_cards_is_refused(made, tmp_path) -> None:
    folder = shutil.copytree(made.folder, tmp_path / "copy")
    card = json.loads((folder / "card.json").read_text())
    card["architecture"]["spec"]["width"] *= 2
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(ArtefactError, match="gives .* channels; the card says"):
        open_backbone(folder)


def test_formats_that_have_none_are_refused(tmp_path) -> None:
    told = {"labels": ["a", "b"], "weights_name": "tiny", "licence": "CC0-1.0"}
    net = build(Arch(depths=(1,), width=8), num_classes=2).eval()
    with pytest.raises(UsageError, match="a backbone is written for openvino and onnx"):
        pack(net, tmp_path / "out", preprocess=PREPROCESS, formats=["ncnn"], backbone=True, **told)


def test_opening_one_imports_no_torch(made) -> None:
    code = f"""
import sys
import numpy as np
import anabranch
anabranch.open_backbone({str(made.folder)!r}).embed(np.zeros((1, 40, 40, 3), np.uint8))
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_many_sizes_take_little_more_memory_than_some(made) -> None:
    """In a process of its own: what is resident after 400 sizes, beside what was after 100."""
    script = f"""
import anabranch, numpy as np
features = anabranch.open_backbone({str(made.folder)!r}, threads=1).features
for number in range(400):
    features(np.zeros((1, 64 + number % 20, 64 + number // 20, 3), np.uint8))
    if number in (99, 399):
        print(int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    some, many = map(int, done.stdout.split())
    assert many - some < 30_000  # kB; what is kept for each size would take twice that
