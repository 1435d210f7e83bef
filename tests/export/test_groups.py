from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from anabranch.arch import Arch
from anabranch.export.graph import PixelsToLogits
from anabranch.export.groups import widen_groups
from anabranch.export.int8 import write_int8
from anabranch.export.onnx import write_onnx
from anabranch.images.preprocess import Preprocess
from anabranch.nets.net import build

pytest.importorskip("onnxruntime")

RNG = np.random.default_rng(0)


def convolution(path: Path, *, channels_in: int, channels_out: int, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Write a graph of one convolution of u8 and s8, and give its weights in levels, and their scales."""
    levels = RNG.integers(-64, 65, (channels_out, channels_in // groups, 3, 3), dtype=np.int8)
    scales = np.ldexp(np.float32(1), RNG.integers(-7, -3, channels_out))  # powers of two: floats add exactly
    constants = {
        "levels": levels,
        "scales": scales,
        "zeros": np.zeros(channels_out, np.int8),
        "step": np.float32(0.5),
        "zero": np.uint8(3),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "step", "zero"], ["exact"]),
        helper.make_node("DequantizeLinear", ["levels", "scales", "zeros"], ["weights"], axis=0),
        helper.make_node("Conv", ["exact", "weights"], ["y"], group=groups, strides=[2, 2], pads=[1, 1, 1, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", channels_in, 9, 9])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return levels, scales


@pytest.mark.parametrize(
    ("groups", "channels_in", "channels_out", "left"),
    [
        (32, 128, 128, 8),  # 4 channels each, four together
        (32, 256, 256, 16),
        (32, 512, 512, 32),  # 16 channels each: as they were
        (6, 24, 12, 2),  # four do not part 6 groups, three do; fewer come out than go in
        (5, 20, 10, 5),
        (7, 21, 14, 7),  # five of 3 channels do not part 7 groups
        (3, 60, 30, 3),
        (8, 8, 16, 8),  # of one channel: as they were
        (1, 4, 4, 1),
    ],
)
def test_wider_groups_give_what_torch_gives_for_the_narrow_ones(tmp_path, groups, channels_in, channels_out, left):
    path = tmp_path / "one.onnx"
    levels, scales = convolution(path, channels_in=channels_in, channels_out=channels_out, groups=groups)
    widen_groups(path, 16)
    model = onnx.load(path)
    assert [helper.get_node_attr_value(node, "group") for node in model.graph.node if node.op_type == "Conv"] == [left]
    x = RNG.integers(0, 256, (2, channels_in, 9, 9), dtype=np.uint8)
    (met,) = ReferenceEvaluator(model).run(None, {"x": x})
    exact, weights = (torch.tensor(each, dtype=torch.float64) for each in (x, levels))
    sums = torch.conv2d(exact - 3, weights, stride=2, padding=1, groups=groups).numpy()
    assert np.array_equal(met, sums * 0.5 * scales[:, None, None])


def test_a_net_in_int8_has_groups_of_8_channels_and_more(shake, tmp_path):
    net = shake(build(Arch(depths=(1, 1), width=64, groups=8, group_width=4), num_classes=5))
    write_onnx(PixelsToLogits(net, Preprocess(crop_px=33, resize_px=33)), tmp_path / "f32.onnx", size_px=33)
    pixels = RNG.integers(0, 256, (32, 33, 33, 3), dtype=np.uint8)
    for symmetric, wanted in ((False, [4, 8]), (True, [8, 8])):
        path = tmp_path / f"{symmetric}.onnx"
        write_int8(tmp_path / "f32.onnx", path, pixels, symmetric=symmetric)
        each = [
            helper.get_node_attr_value(node, "group") for node in onnx.load(path).graph.node if node.op_type == "Conv"
        ]
        assert [groups for groups in each if groups > 1] == wanted
