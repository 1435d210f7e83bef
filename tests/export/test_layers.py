from __future__ import annotations

import csv

import numpy as np
import onnx
import pytest
from onnx.numpy_helper import from_array, to_array

from anabranch.export.int8 import write_int8
from anabranch.export.layers import layer_errors, write_layers

pytest.importorskip("onnxruntime")

RNG = np.random.default_rng(0)
PIXELS = np.clip(RNG.integers(0, 256, (20, 1, 1, 3)) + RNG.normal(0, 40, (20, 33, 33, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def int8(packed, tmp_path_factory):
    path = tmp_path_factory.mktemp("layers") / "int8.onnx"
    write_int8(packed.folder / "f32.onnx", path, PIXELS)
    return path


def test_every_convolution_stands_in_its_order_under_its_modules_name(packed, int8) -> None:
    layers = layer_errors(packed.folder / "f32.onnx", int8, PIXELS[:4])
    named = list(dict.fromkeys(layer.name for layer in layers))
    graph = onnx.load(packed.folder / "f32.onnx").graph
    weights = [name for node in graph.node if node.op_type in ("Conv", "Gemm") for name in node.input[1:2]]
    wanted = [name.removesuffix(".weight") for name in weights]
    assert [name for name in named if name in wanted] == wanted


def test_errors_are_a_few_hundredths_and_grow_on_the_way(packed, int8) -> None:
    layers = layer_errors(packed.folder / "f32.onnx", int8, PIXELS[:4])
    assert all(layer.own < 0.04 and 0 < layer.grown < 0.1 for layer in layers)
    assert layers[-1].grown > layers[-1].own


def test_a_layer_whose_range_is_spoilt_is_told_from_the_others(packed, int8, tmp_path) -> None:
    model = onnx.load(int8)
    quantize = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    spoilt = quantize[len(quantize) // 2]
    for tensor in model.graph.initializer:
        if tensor.name == spoilt.input[1]:
            tensor.CopyFrom(from_array(to_array(tensor) * np.float32(20), tensor.name))
    onnx.save(model, tmp_path / "int8.onnx")
    before = layer_errors(packed.folder / "f32.onnx", int8, PIXELS[:4])
    after = layer_errors(packed.folder / "f32.onnx", tmp_path / "int8.onnx", PIXELS[:4])
    worse = [index for index, (old, new) in enumerate(zip(before, after, strict=True)) if new.own > 5 * old.own]
    assert 1 <= len(worse) <= 2, "some layers share their input's scale"
    assert all(new.grown == old.grown for old, new in zip(before[: worse[0]], after[: worse[0]], strict=True))
    assert after[worse[0]].grown > 3 * before[worse[0]].grown


def test_the_file_has_a_row_for_each_layer(packed, int8, tmp_path) -> None:
    write_layers(packed.folder / "f32.onnx", int8, PIXELS[:4], tmp_path / "layers.csv")
    rows = list(csv.DictReader((tmp_path / "layers.csv").read_text(encoding="utf-8").splitlines()))
    layers = layer_errors(packed.folder / "f32.onnx", int8, PIXELS[:4])
    assert [row["layer"] for row in rows] == [layer.name for layer in layers]
    assert [float(row["grown error"]) for row in rows] == pytest.approx([layer.grown for layer in layers], abs=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["layers.csv"]
