from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
from onnx.numpy_helper import to_array
from onnx.reference import ReferenceEvaluator

from anabranch.arch import Arch
from anabranch.engines import openvino_core
from anabranch.export.graph import PixelsToLogits
from anabranch.export.int8 import prepare, write_int8
from anabranch.export.onnx import write_onnx
from anabranch.export.openvino import write_openvino
from anabranch.images.preprocess import Preprocess
from anabranch.nets.net import build

onnxruntime = pytest.importorskip("onnxruntime")

RES2 = Arch(depths=(2, 2), block="res2", groups=2, group_width=32, splits=4, squeeze=16)
RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (40, 1, 1, 3))
PIXELS = np.clip(COLOURS + RNG.normal(0, 40, (40, 33, 33, 3)), 0, 255).astype(np.uint8)
SHOWN, ASKED = PIXELS[:32], PIXELS[32:]


def answers(path: Path, pixels: np.ndarray, *, in_floats: bool = False) -> np.ndarray:
    """ONNX Runtime's; `in_floats`: each node by itself, so that what is rounded to INT8 is computed in f32."""
    options = onnxruntime.SessionOptions()
    if in_floats:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"pixels": pixels})[0]


def apart(met: np.ndarray, wanted: np.ndarray) -> float:
    """The length of the difference over that of what was wanted, without the mean that all pictures share."""
    return float(np.linalg.norm(met - wanted) / np.linalg.norm(wanted - wanted.mean(0)))


def run(model: onnx.ModelProto, pixels: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"pixels": pixels})


def value(name: str) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)


@pytest.fixture(scope="module")
def written(packed, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("int8") / "int8.onnx"
    assert write_int8(packed.folder / "f32.onnx", path, SHOWN) == ["int8.onnx"]
    return path


def openvinos(path: Path) -> openvino.CompiledModel:
    return openvino_core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def test_the_answers_are_near_those_in_f32_on_both_engines(packed, written, tmp_path) -> None:
    wanted = answers(packed.folder / "f32.onnx", ASKED)
    assert 0 < apart(answers(written, ASKED), wanted) < 0.15
    assert write_openvino(written, tmp_path / "int8.xml", stored="int8") == ["int8.xml", "int8.bin"]
    compiled = openvinos(tmp_path / "int8.xml")
    assert 0 < apart(compiled({"pixels": ASKED})["logits"], wanted) < 0.15
    computed = {node.get_rt_info()["runtimePrecision"].value for node in compiled.get_runtime_model().get_ops()}
    assert computed & {"i8", "u8"}


def test_it_asks_for_no_more_than_the_graph_in_f32(packed, written) -> None:
    """Domains that no operation is of are refused by ONNX Runtime 1.15, where they are newer than it."""
    f32, int8 = onnx.load(packed.folder / "f32.onnx"), onnx.load(written)
    assert [(each.domain, each.version) for each in int8.opset_import] == [("", 18)]
    assert int8.opset_import == f32.opset_import
    assert int8.ir_version == f32.ir_version == 8


def test_nothing_overflows_on_any_processor(written, tmp_path) -> None:
    """Without VNNI, two products of u8 and s8 are added in 16 bits: with weights of 8 bits that overflows."""
    held = {tensor.name: to_array(tensor) for tensor in onnx.load(written).graph.initializer}
    weights = [each.astype(int) for name, each in held.items() if each.dtype == np.int8 and each.ndim > 1]
    assert max(np.abs(each).max() for each in weights) * 255 * 2 < 1 << 15
    write_openvino(written, tmp_path / "int8.xml", stored="int8")
    wanted = answers(written, ASKED, in_floats=True)
    assert apart(answers(written, ASKED), wanted) < 0.1
    assert apart(openvinos(tmp_path / "int8.xml")({"pixels": ASKED})["logits"], wanted) < 0.1


def test_each_weight_is_stored_in_eight_bits_with_a_scale_for_each_output_channel(packed, written) -> None:
    held = {tensor.name: to_array(tensor) for tensor in onnx.load(written).graph.initializer}
    weights = {t.name: to_array(t) for t in onnx.load(packed.folder / "f32.onnx").graph.initializer if len(t.dims) == 4}
    assert weights
    for name, wanted in weights.items():
        bits, scale = held[f"{name}_quantized"], held[f"{name}_scale"]
        assert (bits.dtype, scale.shape) == (np.int8, (len(wanted),))
        bits = bits.reshape(len(wanted), -1, *wanted.shape[1:]).sum(1)  # groups side by side have zeros but for one
        assert np.abs(bits * scale[:, None, None, None] - wanted).max() <= 0.501 * scale.max()


@pytest.mark.parametrize("symmetric", [False, True])
def test_each_layers_output_is_as_high_in_the_mean_as_in_f32(packed, tmp_path, symmetric) -> None:
    """Of the same inputs, by ONNX's own reference: errors cancel in the mean, all but a twentieth of their length.

    All but the last layer's, which takes off what the others leave.
    """
    path = tmp_path / "int8.onnx"
    write_int8(packed.folder / "f32.onnx", path, SHOWN, symmetric=symmetric)
    exact, rounded = onnx.load(prepare(packed.folder / "f32.onnx", tmp_path / "prepared.onnx")), onnx.load(path)
    made_by = {name: node for node in rounded.graph.node for name in node.output}
    twins = {node.name: node for node in exact.graph.node}
    layers = [node for node in rounded.graph.node if node.op_type in ("Conv", "Gemm") and len(node.input) == 3]
    assert len(layers) == sum(node.name.startswith(("node_conv2d", "node_linear")) for node in twins.values()) == 12
    taken = [twins[node.name].input[0] for node in layers]
    given = [twins[node.name].output[0] for node in layers]
    exact.graph.output.extend(onnx.ValueInfoProto(name=name) for name in {*taken, *given})
    held = dict(zip([each.name for each in exact.graph.output], run(exact, SHOWN), strict=True))
    shares = []
    for node, name, output in zip(layers, taken, given, strict=True):
        ways = [made_by[each] for each in node.input if each in made_by]
        ways = [made_by[ways[0].input[0]], *ways, node]
        alone = onnx.helper.make_graph(ways, "layer", [value(name)], [value(node.output[0])], rounded.graph.initializer)
        same = [onnx.helper.make_opsetid("", 19)]  # the first that the reference has, for what has not changed since 13
        model = onnx.helper.make_model(alone, opset_imports=same)
        (met,) = ReferenceEvaluator(model).run(None, {name: held[name]})
        wrong = (met - held[output]).mean((0, *range(2, met.ndim)))
        shares.append(np.linalg.norm(wrong) / np.linalg.norm(met - held[output], axis=1).mean())
    assert layers[-1].op_type == "Gemm"
    assert max(shares[:-1]) < 0.05


@pytest.mark.parametrize("symmetric", [False, True])
def test_each_logit_is_as_high_in_the_mean_as_in_f32(packed, tmp_path, symmetric) -> None:
    """On the pictures that were shown: errors cancel in the mean, all but a fiftieth of their size."""
    write_int8(packed.folder / "f32.onnx", tmp_path / "int8.onnx", SHOWN, symmetric=symmetric)
    wanted = answers(packed.folder / "f32.onnx", SHOWN)
    wrong = answers(tmp_path / "int8.onnx", SHOWN, in_floats=symmetric) - wanted
    assert np.abs(wrong.mean(0)).max() < 0.02 * np.abs(wrong).mean()


@pytest.mark.parametrize("arch", [Arch(depths=(2, 2), width=8), RES2], ids=["bottleneck", "res2"])
def test_channels_that_training_has_all_but_switched_off_are_worth_their_bias(shake, tmp_path, arch) -> None:
    """Of weights so small, in levels so small, the bias would take more levels than 32 bits hold."""

    def errors(gamma: float) -> np.ndarray:
        """Of both engines, of a net in which every third channel of each norm is as small."""
        torch.manual_seed(0)
        net = shake(build(arch, num_classes=5))
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.data[::3] = gamma
        write_onnx(PixelsToLogits(net, Preprocess(crop_px=33, resize_px=33)), tmp_path / "f32.onnx", size_px=33)
        write_int8(tmp_path / "f32.onnx", tmp_path / "int8.onnx", SHOWN)
        write_openvino(tmp_path / "int8.onnx", tmp_path / "int8.xml", stored="int8")
        wanted = answers(tmp_path / "f32.onnx", ASKED)
        given = answers(tmp_path / "int8.onnx", ASKED), openvinos(tmp_path / "int8.xml")({"pixels": ASKED})["logits"]
        return np.array([apart(each, wanted) for each in given])

    off = errors(0.0)
    for gamma in (1e-6, 1e-12):
        assert (errors(gamma) < 1.2 * off).all()


def test_logits_are_not_rounded(packed, written) -> None:
    assert {node.op_type for node in onnx.load(written).graph.node if "logits" in node.output} == {"Gemm"}
    met = answers(written, PIXELS, in_floats=True)
    assert len(np.unique(met)) > 0.9 * met.size, "of 200 numbers in the levels of 8 bits fewer would be apart"


def test_openvinos_files_hold_the_weights_in_eight_bits(packed, written, tmp_path) -> None:
    write_openvino(written, tmp_path / "int8.xml", stored="int8")
    assert (tmp_path / "int8.bin").stat().st_size < 0.5 * (packed.folder / "f32.bin").stat().st_size


def test_what_is_brighter_than_all_that_was_shown_is_answered_badly(packed, tmp_path) -> None:
    write_int8(packed.folder / "f32.onnx", tmp_path / "dark.onnx", SHOWN // 8)
    wanted = answers(packed.folder / "f32.onnx", ASKED)
    assert apart(answers(tmp_path / "dark.onnx", ASKED), wanted) > 0.3


def test_one_strange_picture_does_not_make_the_ranges_wide(packed, tmp_path) -> None:
    def ranges(name: str, pixels: np.ndarray) -> np.ndarray:
        """The scale of each activation."""
        write_int8(packed.folder / "f32.onnx", tmp_path / name, pixels)
        held = {tensor.name: to_array(tensor) for tensor in onnx.load(tmp_path / name).graph.initializer}
        return np.array([held[each] for each in sorted(held) if each.endswith("_scale") and held[each].ndim == 0])

    dark = np.tile(SHOWN // 8, (4, 1, 1, 1))
    strange = np.concatenate([SHOWN[:1], dark[1:]])
    narrow, wide, met = ranges("dark", dark), ranges("bright", SHOWN), ranges("strange", strange)
    widened = (met - narrow)[wide > 2 * narrow] / (wide - narrow)[wide > 2 * narrow]
    assert len(widened) > 3
    assert np.median(widened) < 0.3, "it is in one of four batches"


def test_the_same_pictures_give_the_same_file_and_nothing_else_is_left(packed, written, tmp_path) -> None:
    write_int8(packed.folder / "f32.onnx", tmp_path / "int8.onnx", SHOWN)
    assert (tmp_path / "int8.onnx").read_bytes() == written.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]


def test_it_says_nothing_and_names_no_path_of_this_machine(packed, tmp_path) -> None:
    code = f"""
from pathlib import Path
import numpy as np
from anabranch.export.int8 import write_int8
f32, int8 = Path({str(packed.folder / "f32.onnx")!r}), Path({str(tmp_path / "int8.onnx")!r})
write_int8(f32, int8, np.zeros((2, 33, 33, 3), np.uint8))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert (done.stdout, done.stderr) == ("", "")
    held = (tmp_path / "int8.onnx").read_bytes()
    assert b"/anabranch/" not in held
    assert str(tmp_path).encode() not in held
