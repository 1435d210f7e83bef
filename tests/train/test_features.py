from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from anabranch.arch import Arch
from anabranch.errors import DatasetError, ExportError, UsageError
from anabranch.images.labelled import open_labelled
from anabranch.images.preprocess import Preprocess
from anabranch.nets.net import build
from anabranch.runtimes.openvino import OpenVinoPredictor, offered_precisions
from anabranch.train.features import chosen_precision, features

INPUT = Preprocess(crop_px=24, resize_px=24, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3))
CPU_HAS_BF16 = "bf16" in offered_precisions()
COUNT = 20  # of the pictures of a set


@pytest.fixture
def seen(monkeypatch) -> list[int]:
    """How many pictures the engine was asked about, call by call."""
    counts: list[int] = []
    predict = OpenVinoPredictor.predict

    def counted(self, pixels):
        counts.append(len(pixels))
        return predict(self, pixels)

    monkeypatch.setattr(OpenVinoPredictor, "predict", counted)
    return counts


# ---- Features ------------------------------------------------------------------------------------------------------


def test_features_are_what_the_net_embeds_in_the_order_of_the_pictures(net, coloured, kept) -> None:
    data = open_labelled(coloured)
    done: list[int] = []
    met = features(net, data, INPUT, cache=kept, report=done.append)
    pixels = np.stack([INPUT(data.picture(i)) for i in range(COUNT)])
    x = torch.from_numpy(((pixels / 255 - INPUT.mean) / INPUT.std).transpose(0, 3, 1, 2).astype(np.float32))
    with torch.inference_mode():
        wanted = net.embed(x).numpy()
    assert met.values.dtype == np.float32
    np.testing.assert_allclose(met.values, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())
    assert met.indices.tolist() == list(range(COUNT))
    assert done[-1] == COUNT


def test_features_are_computed_once_whatever_the_head_and_the_labels(net, coloured, kept, seen) -> None:
    first = features(net, open_labelled(coloured), INPUT, cache=kept)
    assert sum(seen) >= COUNT
    seen.clear()
    other = build(net.arch, num_classes=3)
    other.load_state_dict({**other.state_dict(), **{k: v for k, v in net.state_dict().items() if "head" not in k}})
    relabelled = replace(open_labelled(coloured), labels=np.zeros(COUNT, np.int64))
    done: list[int] = []
    again = features(other, relabelled, INPUT, cache=kept, report=done.append)
    assert seen == []
    assert done == [COUNT]
    np.testing.assert_array_equal(again.values, first.values)


def test_a_changed_picture_is_answered_anew(net, coloured, kept, seen) -> None:
    first = features(net, open_labelled(coloured), INPUT, cache=kept)
    seen.clear()
    Image.new("RGB", (30, 26), (250, 10, 10)).save(coloured / "red" / "00.png")
    changed = features(net, open_labelled(coloured), INPUT, cache=kept)
    assert sum(seen) == COUNT
    moved = np.abs(changed.values - first.values).max(1) > 1e-3
    assert np.flatnonzero(moved).tolist() == [COUNT // 2]  # the first of the second folder


def test_another_backbone_or_another_input_is_answered_anew(net, shake, coloured, kept, seen) -> None:
    features(net, open_labelled(coloured), INPUT, cache=kept)
    other = shake(build(net.arch, num_classes=7), seed=1)
    for changed in ((other, INPUT), (net, replace(INPUT, resize_px=28))):
        seen.clear()
        features(changed[0], open_labelled(coloured), changed[1], cache=kept)
        assert sum(seen) >= COUNT


@pytest.mark.parametrize("damage", ["cut short", "one bit"])
def test_damaged_features_are_computed_anew(net, coloured, kept, seen, damage) -> None:
    first = features(net, open_labelled(coloured), INPUT, cache=kept)
    (file,) = (kept / "features").iterdir()
    held = bytearray(file.read_bytes())
    held[-40] ^= 1
    file.write_bytes(held[: len(held) // 2] if damage == "cut short" else held)
    seen.clear()
    again = features(net, open_labelled(coloured), INPUT, cache=kept)
    assert sum(seen) == COUNT
    np.testing.assert_allclose(again.values, first.values, rtol=0, atol=1e-5)
    seen.clear()
    features(net, open_labelled(coloured), INPUT, cache=kept)
    assert seen == []


def test_a_damaged_backbone_is_exported_anew(net, coloured, tmp_path) -> None:
    first = features(net, open_labelled(coloured), INPUT, cache=tmp_path)
    (weights,) = tmp_path.glob("backbones/*/*.bin")
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    (file,) = (tmp_path / "features").iterdir()
    file.unlink()
    again = features(net, open_labelled(coloured), INPUT, cache=tmp_path)
    np.testing.assert_allclose(again.values, first.values, rtol=0, atol=1e-5)


def test_an_unreadable_picture_is_told_and_left_out_only_where_that_is_allowed(net, coloured, kept) -> None:
    (coloured / "blue" / "03.png").write_bytes(b"no picture")
    data = open_labelled(coloured)
    with pytest.raises(DatasetError, match=r"1 of 20 of its pictures cannot be read.*03\.png"):
        features(net, data, INPUT, cache=kept)
    met = features(net, data, INPUT, cache=kept, unreadable=0.05)
    left_out = data.names.index("blue/03.png")
    assert met.indices.tolist() == [i for i in range(COUNT) if i != left_out]
    assert met.values.shape == (COUNT - 1, net.head.in_features)
    assert [name for name, _ in met.unreadable] == ["blue/03.png"]
    with pytest.raises(DatasetError, match=r"data\.unreadable = 0\.01"):  # what is kept is held to the share too
        features(net, data, INPUT, cache=kept, unreadable=0.01)
    moved = open_labelled(coloured.rename(coloured.with_name("moved")))
    ((_, reason),) = features(net, moved, INPUT, cache=kept, unreadable=0.05).unreadable
    assert reason.startswith(f"{coloured.with_name('moved')}/blue/03.png: ")


def test_an_engine_that_does_not_agree_with_torch_is_refused(
    net, coloured, write_coloured, tmp_path, kept, monkeypatch
) -> None:
    features(net, open_labelled(coloured), INPUT, cache=kept)  # whose export was honest
    write_coloured(tmp_path / "others", seed=1)
    predict = OpenVinoPredictor.predict
    monkeypatch.setattr(OpenVinoPredictor, "predict", lambda self, pixels: predict(self, pixels) * 1.01)
    with pytest.raises(ExportError, match=r"differ from the net's by 1\.0\d% of their length"):
        features(net, open_labelled(tmp_path / "others"), INPUT, cache=kept)
    monkeypatch.undo()
    features(net, open_labelled(tmp_path / "others"), INPUT, cache=kept)


def test_features_in_int8_are_near_those_in_f32_and_kept_beside_them(net, coloured, kept, seen) -> None:
    data = open_labelled(coloured)
    exact = features(net, data, INPUT, cache=kept)
    rough = features(net, data, INPUT, cache=kept, precision="int8")
    apart = np.linalg.norm(rough.values - exact.values) / np.linalg.norm(exact.values)
    assert 1e-4 < apart < 0.1
    seen.clear()
    np.testing.assert_array_equal(features(net, data, INPUT, cache=kept, precision="int8").values, rough.values)
    np.testing.assert_array_equal(features(net, data, INPUT, cache=kept).values, exact.values)
    assert seen == []


@pytest.mark.skipif(not CPU_HAS_BF16, reason="this processor computes no bf16")
def test_features_in_bf16_are_of_the_same_graph_and_near_those_in_f32(net, coloured, kept, seen) -> None:
    data = open_labelled(coloured)
    exact = features(net, data, INPUT, cache=kept)
    exported = set((kept / "backbones").iterdir())
    rough = features(net, data, INPUT, cache=kept, precision="bf16")
    apart = np.linalg.norm(rough.values - exact.values) / np.linalg.norm(exact.values)
    assert 1e-4 < apart < 0.05
    assert set((kept / "backbones").iterdir()) == exported
    seen.clear()
    np.testing.assert_array_equal(features(net, data, INPUT, cache=kept, precision="bf16").values, rough.values)
    assert seen == []


@pytest.mark.parametrize(
    ("offered", "wanted", "chosen"),
    [
        (("f32", "bf16", "int8"), "auto", "bf16"),
        (("f32", "int8"), "auto", "f32"),
        (("f32", "bf16", "int8"), "f32", "f32"),
        (("f32", "int8"), "bf16", "bf16"),  # which `features` then refuses
    ],
)
def test_the_processor_chooses_between_f32_and_bf16_unless_one_is_named(offered, wanted, chosen, monkeypatch) -> None:
    monkeypatch.setattr("anabranch.train.features.offered_precisions", lambda: offered)
    assert chosen_precision(wanted) == chosen


def test_a_precision_that_the_processor_lacks_is_refused_before_an_export(net, coloured, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("anabranch.runtimes.openvino.offered_precisions", lambda: ("f32",))
    with pytest.raises(UsageError, match="no bf16"):
        features(net, open_labelled(coloured), INPUT, cache=tmp_path / "kept", precision="bf16")
    assert not (tmp_path / "kept").exists()


def test_a_net_as_it_is_built_has_features_in_int8(coloured, kept) -> None:
    """Its biases are zero, and the exporter leaves them out of the graph."""
    torch.manual_seed(0)
    data = open_labelled(coloured)
    net = build(Arch(depths=(1,), width=8, groups=2, group_width=8), num_classes=2)
    exact, rough = (features(net, data, INPUT, cache=kept, precision=precision) for precision in ("f32", "int8"))
    assert 1e-4 < np.linalg.norm(rough.values - exact.values) / np.linalg.norm(exact.values) < 0.1


def test_too_few_pictures_show_int8_no_ranges(net, coloured, kept) -> None:
    for path in sorted(coloured.rglob("*.png"))[::2]:
        path.unlink()
    with pytest.raises(DatasetError, match="INT8 wants at least 16 pictures that can be read.*there are 10"):
        features(net, open_labelled(coloured), INPUT, cache=kept, precision="int8")


def test_a_cache_without_room_for_the_backbone_is_told_with_how_to_name_another(
    net, coloured, kept, monkeypatch
) -> None:
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=1))
    with pytest.raises(ExportError, match=r"ANABRANCH_CACHE may name another place: .* has room for 1 bytes"):
        features(net, open_labelled(coloured), replace(INPUT, resize_px=25), cache=kept)


# ---- The head ------------------------------------------------------------------------------------------------------


def test_features_that_cannot_be_kept_are_there_all_the_same(net, coloured, tmp_path) -> None:
    features(net, open_labelled(coloured), INPUT, cache=tmp_path)
    (file,) = (tmp_path / "features").iterdir()
    file.unlink()
    file.parent.rmdir()
    file.parent.write_bytes(b"a file in the way")
    met = features(net, open_labelled(coloured), INPUT, cache=tmp_path)
    assert len(met.values) == COUNT
    assert met.not_kept is not None
    assert met.not_kept.startswith(f"{file}: cannot be written (")
