from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from anabranch.arch import Arch
from anabranch.engines import openvino_core
from anabranch.export.graph import PixelsToLogits
from anabranch.export.int8 import write_int8
from anabranch.export.onnx import write_onnx
from anabranch.export.sums import keep_sums
from anabranch.images.preprocess import Preprocess
from anabranch.nets.net import Net, build

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (400, 1, 1, 3))
PIXELS = np.clip(COLOURS + RNG.normal(0, 40, (400, 33, 33, 3)), 0, 255).astype(np.uint8)
SHOWN, ASKED = PIXELS[:32], PIXELS[32:]
NETS = {
    "bottleneck": Arch(depths=(2, 2), width=8, groups=2, group_width=32, squeeze=4),
    "res2": Arch(depths=(2, 2), block="res2", width=8, group_width=16, splits=4),
    "basic": Arch(depths=(2, 2), block="basic", width=8, stem=(8, 8, 8), shortcut="pool"),
}


@pytest.fixture(scope="module", params=NETS)
def graphs(request, shake, tmp_path_factory) -> dict[str, Path]:
    torch.manual_seed(0)
    net = shake(build(NETS[request.param], num_classes=5))
    return written(net, tmp_path_factory.mktemp(request.param))


def written(net: Net, folder: Path) -> dict[str, Path]:
    paths = {name: folder / f"{name}.onnx" for name in ("f32", "rounded", "kept")}
    write_onnx(PixelsToLogits(net, Preprocess(crop_px=33, resize_px=33)), paths["f32"], size_px=33)
    write_int8(paths["f32"], paths["rounded"], SHOWN)
    keep_sums(paths["rounded"], paths["kept"], SHOWN)
    return paths


def run(path: Path, names: list[str], *, pixels: np.ndarray = ASKED, fused: bool = True) -> list[np.ndarray]:
    model = onnx.load(path)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    if not fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(names, {"pixels": pixels})


def blocks_ends(path: Path) -> list[str]:
    """The ReLU of each block's sum in f32. In INT8 the sum has its name, and its levels are the ReLU."""
    graph = onnx.load(path).graph
    sums = {node.output[0] for node in graph.node if node.op_type == "Add"}
    return [node.output[0] for node in graph.node if node.op_type == "Relu" and node.input[0] in sums]


def test_a_sum_is_handed_on_as_it_is(graphs) -> None:
    sums = blocks_ends(graphs["f32"])
    assert len(sums) == 4
    nodes = onnx.load(graphs["kept"]).graph.node
    last = [node.input[0] for node in nodes if node.op_type == "ReduceMean"][-1]  # those before it are gates'
    blocks = [node for node in nodes if node.output[0] in sums]
    reads = {sums.index(node.output[0]): node.input[0] for node in blocks} | {4: last}
    handed_on = (0, 2, 3)  # at a stage's end it goes on through a convolution alone
    met = run(graphs["kept"], [*sums, *(reads[block + 1] for block in handed_on)], fused=False)
    for block, taken in zip(handed_on, met[4:], strict=True):
        np.testing.assert_array_equal(taken, np.maximum(met[block], 0))


def test_every_convolution_reads_levels_still(graphs) -> None:
    model = onnx.load(graphs["kept"])
    nodes = {name: node for node in model.graph.node for name in node.output}
    read = [nodes[node.input[0]].op_type for node in model.graph.node if node.op_type == "Conv"]
    assert set(read) == {"DequantizeLinear"}
    assert len(read) == sum(node.op_type == "Conv" for node in onnx.load(graphs["f32"]).graph.node)
    held = [numpy_helper.to_array(each).dtype for each in model.graph.initializer if len(each.dims) == 4]
    assert set(held) == {np.dtype(np.int8)}


def test_the_logits_are_as_high_in_the_mean(graphs) -> None:
    wanted, met = (run(graphs[name], ["logits"], pixels=SHOWN)[0].mean(0) for name in ("f32", "kept"))
    spread = run(graphs["f32"], ["logits"])[0].std()
    np.testing.assert_allclose(met, wanted, atol=0.02 * spread)


def test_where_little_is_added_to_what_passes_the_answers_come_nearer_on_both_engines(shake, tmp_path) -> None:
    torch.manual_seed(0)
    net = shake(build(Arch(depths=(6,), width=8), num_classes=5))
    for block in net.stages[0]:
        block.branch.expand.norm.weight.data *= 0.02
        block.branch.expand.norm.bias.data *= 0.02
    graphs = written(net, tmp_path)
    (wanted,) = run(graphs["f32"], ["logits"])

    def far(met: np.ndarray) -> float:
        return float(np.linalg.norm(met - wanted) / np.linalg.norm(wanted - wanted.mean(0)))

    rounded = far(run(graphs["rounded"], ["logits"])[0])
    compiled = openvino_core().compile_model(graphs["kept"], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for met in (run(graphs["kept"], ["logits"])[0], compiled({"pixels": ASKED})["logits"]):
        assert 0 < far(met) < 0.95 * rounded
    computed = {node.get_rt_info()["runtimePrecision"].value for node in compiled.get_runtime_model().get_ops()}
    assert computed & {"i8", "u8"}
