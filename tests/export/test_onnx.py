"""A net written with its weights beside the graph, as a large one is."""

from __future__ import annotations

import copy
import weakref
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
from onnx.numpy_helper import to_array

from anabranch.arch import Arch
from anabranch.engines import openvino_core
from anabranch.export.graph import PixelsToLogits
from anabranch.export.onnx import write_onnx
from anabranch.images.preprocess import Preprocess
from anabranch.nets.blocks import ConvNorm
from anabranch.nets.net import Net, build

onnxruntime = pytest.importorskip("onnxruntime")

PREPROCESS = Preprocess(crop_px=33, resize_px=33, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3))
NORMALISATION = 6  # scalars: the means and the deviations of three channels


class Written(NamedTuple):
    net: Net
    before: dict[str, torch.Tensor]  # its state before it was written
    path: Path
    names: list[str]
    most_held: int  # folded convolutions that had values at one time


@pytest.fixture(scope="module")
def written(tmp_path_factory, shake):
    torch.manual_seed(5)
    spec = Arch(depths=(1, 1), width=16, groups=4, group_width=32, shortcut="pool", squeeze=4)
    net = shake(build(spec, num_classes=7)).train()
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)  # the exporter leaves out a bias of zeros
    before, path = copy.deepcopy(net.state_dict()), tmp_path_factory.mktemp("beside") / "net.onnx"
    alive, counts, fold = weakref.WeakSet(), [0], ConvNorm.folded

    def counted(part):
        module = fold(part)
        if module[0].weight.device.type == "cpu":
            alive.add(module)
            counts.append(len(alive))
        return module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConvNorm, "folded", counted)
        patch.setattr("anabranch.export.onnx.EXTERNAL_DATA_FROM_BYTES", 1000)
        names = write_onnx(PixelsToLogits(net, PREPROCESS), path, size_px=33)
    return Written(net, before, path, names, max(counts))


def initialisers(path, *, values):
    return {each.name: each for each in onnx.load(path, load_external_data=values).graph.initializer}


def beside(path):
    """(offset, length) in bytes of each weight that lies beside the graph, in the order of the file."""
    fields = [
        {field.key: field.value for field in each.external_data}
        for each in initialisers(path, values=False).values()
        if each.data_location == onnx.TensorProto.EXTERNAL
    ]
    assert {each["location"] for each in fields} == {"net.onnx.data"}
    return sorted((int(each["offset"]), int(each["length"])) for each in fields)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("count", [1, 3])
def test_an_engine_that_finds_the_weights_beside_the_graph_gives_the_logits_of_the_net(written, engine, count):
    pixels = np.random.default_rng(count).integers(0, 256, (count, 33, 33, 3), dtype=np.uint8)
    normal = (pixels.astype(np.float64) / 255 - PREPROCESS.mean) / PREPROCESS.std
    with torch.no_grad():
        x = torch.from_numpy(normal.transpose(0, 3, 1, 2).astype(np.float32))
        wanted = copy.deepcopy(written.net).eval()(x).numpy()
    if engine == "onnxruntime":
        session = onnxruntime.InferenceSession(str(written.path), providers=["CPUExecutionProvider"])
        met = session.run(None, {"pixels": pixels})[0]
    else:
        compiled = openvino_core().compile_model(written.path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        met = compiled({"pixels": pixels})["logits"]
    assert np.abs(met - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_the_files_written_are_those_named_and_onnx_accepts_them(written):
    assert written.names == ["net.onnx", "net.onnx.data"]
    assert {path.name for path in written.path.parent.iterdir()} == set(written.names)
    onnx.checker.check_model(written.path, full_check=True)


def test_each_weight_beside_the_graph_starts_where_any_system_can_map_it(written):
    assert all(offset % 65536 == 0 for offset, _ in beside(written.path))


def test_weights_neither_overlap_nor_leave_more_room_than_their_alignment_needs(written):
    spans = beside(written.path)
    ends = [offset + length for offset, length in spans]
    starts = [offset for offset, _ in spans[1:]] + [(written.path.parent / "net.onnx.data").stat().st_size]
    assert all(0 <= start - end < 65536 for end, start in zip(ends, starts, strict=True))


def test_every_scalar_of_the_folded_net_is_in_the_files_once(written):
    parts = list(written.net.modules())
    convs = sum(part.weight.numel() + part.out_channels for part in parts if isinstance(part, torch.nn.Conv2d))
    linear = sum(part.weight.numel() + part.out_features for part in parts if isinstance(part, torch.nn.Linear))
    held = [to_array(each) for each in initialisers(written.path, values=True).values()]
    assert sum(each.size for each in held if each.dtype == np.float32) == convs + linear + NORMALISATION + 1  # by 255
    assert sum(length for _, length in beside(written.path)) <= 4 * (convs + linear)


def test_the_values_are_those_of_each_norm_folded_by_hand(written):
    held = initialisers(written.path, values=True)
    folder = str(written.path.parent)
    for name, part in written.net.named_modules():
        if not isinstance(part, ConvNorm):
            continue
        norm = part.norm
        gain = (norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()).detach().numpy()
        weight = part.conv.weight.detach().numpy() * gain[:, None, None, None]
        bias = norm.bias.detach().numpy() - norm.running_mean.numpy() * gain
        for kind, wanted in (("weight", weight), ("bias", bias)):
            met = to_array(held[f"net.{name}.0.{kind}"], base_dir=folder)
            np.testing.assert_allclose(met, wanted, rtol=1e-6, atol=1e-7, err_msg=name)


def test_one_folded_convolution_is_held_at_a_time(written):
    assert written.most_held == 1


def test_writing_leaves_the_net_as_it_was(written):
    assert all(part.training for part in written.net.modules())
    state = written.net.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in written.before.items())
