from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from anabranch.arch import Arch, Quirk
from anabranch.engines import openvino_core
from anabranch.errors import ExportError
from anabranch.export.write import weights_sha256, write_graphs
from anabranch.images.preprocess import Preprocess
from anabranch.nets.net import build

onnxruntime = pytest.importorskip("onnxruntime")

# Odd sizes and strides, so that every padding and every ceiling of a pool counts.
SPECS = {
    "legacy": (
        Arch(depths=(1, 1), width=8, block="basic", squeeze=4, quirks=frozenset({
            Quirk.RELU_BEFORE_SQUEEZE, Quirk.SQUEEZE_IN_EIGHTS, Quirk.PROJECTED_FIRST_SHORTCUT,
            Quirk.UNPADDED_STEM_POOL})), 63),
    "bottleneck": (
        Arch(depths=(1, 2), width=8, groups=2, group_width=64, stem=(8, 8, 16), shortcut="pool", squeeze=4,
             quirks=frozenset({Quirk.HALVED_REDUCE, Quirk.STRIDE_IN_REDUCE})), 41),
    "res2": (
        Arch(depths=(2, 2), width=8, block="res2", splits=4, group_width=16, groups=2, stem=(8,), stem_stride=1,
             shortcut="pool", quirks=frozenset({Quirk.SPLITS_RESET_ON_STRIDE, Quirk.MEAN_SKIPS_PADDING})), 21),
    "conv3x3": (Arch(depths=(1, 1, 1), width=8, shortcut="conv3x3"), 39),
}  # fmt: skip


def run_onnx(path, pixels):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"pixels": pixels})[0]


def run_openvino(path, pixels):
    compiled = openvino_core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled({"pixels": pixels})["logits"]


def normalised(pixels, preprocess):
    x = (pixels.astype(np.float64) / 255 - preprocess.mean) / preprocess.std
    return torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float32))


def assert_engines_agree(net, folder, size_px, counts=(1, 3, 4)):
    preprocess = Preprocess(crop_px=size_px, resize_px=size_px, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3))
    write_graphs(net, folder, preprocess=preprocess, formats=["openvino", "onnx"])
    for count in counts:
        pixels = np.random.default_rng(count).integers(0, 256, (count, size_px, size_px, 3), dtype=np.uint8)
        with torch.inference_mode():
            wanted = net(normalised(pixels, preprocess)).numpy()
        for run, name in ((run_onnx, "f32.onnx"), (run_openvino, "f32.xml")):
            met = run(folder / name, pixels)
            assert np.abs(met - wanted).max() <= 1e-4 * np.abs(wanted).max(), name


def test_every_quirk_is_among_the_nets_written_here():
    assert frozenset().union(*(spec.quirks for spec, _ in SPECS.values())) == set(Quirk)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_both_engines_give_the_logits_of_the_net(name, shake, tmp_path):
    torch.manual_seed(2)
    spec, size_px = SPECS[name]
    assert_engines_agree(shake(build(spec, num_classes=7)), tmp_path, size_px)


# SENet154_vd of PaddleClas is a SE-ResNeXt-152 of 122 million parameters; a small picture keeps it short.
PUBLISHED = {
    "resnext50_32x4d": 224,
    "seresnext50e_32x4d": 224,
    "res2net50_14w_8s_paddle": 224,
    "seresnext152e_64x4d": 65,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_nets_agree_on_both_engines(name, shake, tmp_path):
    torch.manual_seed(0)
    assert_engines_agree(shake(build(name)), tmp_path, PUBLISHED[name], counts=(2,))


def test_the_graph_is_of_the_pinned_opset_and_takes_any_batch(packed):
    model = onnx.load(packed.folder / "f32.onnx")
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert model.ir_version == 8  # ONNX Runtime 1.15 refuses 10
    (taken,), (given,) = model.graph.input, model.graph.output
    assert (taken.name, taken.type.tensor_type.elem_type) == ("pixels", onnx.TensorProto.UINT8)
    assert (given.name, given.type.tensor_type.elem_type) == ("logits", onnx.TensorProto.FLOAT)
    sizes = [dim.dim_param or dim.dim_value for dim in taken.type.tensor_type.shape.dim]
    assert sizes == ["batch", 33, 33, 3]


def test_openvino_gets_one_constant_for_each_weight_and_no_arithmetic_on_them(packed):
    model = openvino_core().read_model(packed.folder / "f32.xml")
    kinds = {op.get_type_name() for op in model.get_ops()}
    assert not kinds & {"ShapeOf", "Reshape", "Concat", "VariadicSplit", "Gather"}


def test_normalisation_stays_outside_the_first_convolution(packed):
    model = onnx.load(packed.folder / "f32.onnx")
    kinds = [node.op_type for node in model.graph.node]
    assert kinds[: kinds.index("Conv")] == ["Cast", "Transpose", "Div", "Sub", "Div"]


def test_no_norm_is_left_in_the_graph(packed):
    kinds = {node.op_type for node in onnx.load(packed.folder / "f32.onnx").graph.node}
    assert "BatchNormalization" not in kinds


@pytest.mark.slow
def test_the_exporter_says_nothing(tmp_path):
    code = f"""
from pathlib import Path
from anabranch.arch import Arch
from anabranch.export.write import write_graphs
from anabranch.images.preprocess import Preprocess
from anabranch.nets.net import build
net = build(Arch(depths=(1,), width=8, stem_stride=1), num_classes=2)
write_graphs(net, Path({str(tmp_path)!r}), preprocess=Preprocess(crop_px=9, resize_px=9), formats=["openvino", "onnx"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.slow
def test_weights_too_large_for_one_file_lie_beside_it_and_both_engines_find_them(shake, tmp_path, monkeypatch):
    monkeypatch.setattr("anabranch.export.onnx.EXTERNAL_DATA_FROM_BYTES", 1000)
    torch.manual_seed(2)
    assert_engines_agree(shake(build(Arch(depths=(1,), width=8), num_classes=7)), tmp_path, 33, counts=(2,))
    assert {path.name for path in tmp_path.iterdir()} == {"f32.onnx", "f32.onnx.data", "f32.xml", "f32.bin"}
    assert (tmp_path / "f32.onnx").stat().st_size < (tmp_path / "f32.onnx.data").stat().st_size


def test_the_hash_of_tensors_is_the_one_worked_out_by_hand():
    net = torch.nn.Linear(2, 1)
    net.weight.data[:] = torch.tensor([[1.0, -2.0]])
    net.bias.data[:] = 0.5
    said = (
        b"bias torch.float32 (1,)\n" + np.float32([0.5]).tobytes()
        + b"weight torch.float32 (1, 2)\n" + np.float32([1, -2]).tobytes()
    )  # fmt: skip
    assert weights_sha256(net) == hashlib.sha256(said).hexdigest()


def test_the_hash_of_tensors_sees_values_and_not_the_count_of_batches():
    net = torch.nn.BatchNorm2d(3)
    before = weights_sha256(net)
    net.num_batches_tracked += 1
    assert weights_sha256(net) == before
    net.running_mean[1] = 1
    assert weights_sha256(net) != before


def test_the_file_that_another_graph_needs_is_not_left_behind(packed, tmp_path, monkeypatch):
    def copied(graph, path, *, size_px):
        path.write_bytes((packed.folder / "f32.onnx").read_bytes())
        return [path.name]

    monkeypatch.setattr("anabranch.export.write.write_onnx", copied)
    write_graphs(packed.net, tmp_path, preprocess=Preprocess(crop_px=33, resize_px=33), formats=["openvino"])
    assert {path.name for path in tmp_path.iterdir()} == {"f32.xml", "f32.bin"}


def test_a_failure_after_the_first_file_leaves_nothing_behind(packed, tmp_path, monkeypatch):
    def copied(graph, path, *, size_px):
        path.write_bytes((packed.folder / "f32.onnx").read_bytes())
        return [path.name]

    def failing(onnx_path, path, *, stored):
        path.write_text("<half of a graph")
        raise ExportError("the disk is full")

    monkeypatch.setattr("anabranch.export.write.write_onnx", copied)
    monkeypatch.setattr("anabranch.export.write.write_openvino", failing)
    with pytest.raises(ExportError, match="the disk is full"):
        write_graphs(
            packed.net, tmp_path, preprocess=Preprocess(crop_px=33, resize_px=33), formats=["openvino", "onnx"]
        )
    assert list(tmp_path.iterdir()) == []
