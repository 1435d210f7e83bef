"""Biases of a quantised graph, corrected for what rounding adds to each layer's output in the mean.

After Nagel et al. 2019 (https://arxiv.org/abs/1906.04721, section 4.2), with means that are met on pictures. What a
convolution makes of the mean of its inputs is the mean of what it makes of each: one map a layer tells it, borders too.
What the layers add together, on inputs that are rounded themselves, is taken off the logits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from anabranch.export.look import look, session
from anabranch.export.onnx import OUTPUT

_LINEAR = ("Conv", "Gemm")
PICTURES = 128
_MOST_LEVELS = 1 << 30  # of a bias; half of what 32 bits hold

Array = NDArray[Any]


class _Graph:
    def __init__(self, path: Path):
        self.model = onnx.load(path)
        self.constants = {each.name: each for each in self.model.graph.initializer}
        self.made_by = {name: node for node in self.model.graph.node for name in node.output}
        self.biased = {  # all linear layers but some gates
            node.name: node for node in self.model.graph.node if node.op_type in _LINEAR and len(node.input) > 2
        }

    def array(self, name: str) -> Array:
        return numpy_helper.to_array(self.constants[name])


class _Mean:
    """A tensor over all pictures, as it is and as the graph rounds it."""

    def __init__(self, scale: Array, zero: Array):
        self._scale, self._zero, self._levels = np.float32(scale), int(zero), np.iinfo(zero.dtype)
        self.exact: Array = np.zeros(())
        self.rounded: Array = np.zeros(())

    def add(self, values: NDArray[np.float32], of: int) -> None:
        """values: (N, ...), of the `of` pictures that there are in all."""
        levels = np.rint(values / self._scale)
        np.clip(levels, self._levels.min - self._zero, self._levels.max - self._zero, out=levels)
        self.exact = self.exact + values.sum(0, dtype=np.float64) / of
        self.rounded = self.rounded + levels.sum(0, dtype=np.float64) * float(self._scale) / of


def correct_biases(f32: Path, quantised: Path, pixels: NDArray[np.uint8], *, symmetric: bool = False) -> None:
    """Write `quantised` anew: on `pixels` (M, S, S, 3) its layers' outputs are as high in the mean as those of `f32`.

    Up to 128 of the pictures are looked at. f32: the graph that it was made from, with the names that it has. Each
    layer is held against its twin on inputs of the f32 graph: what the layers before it do is theirs to mend. The
    logits of the whole are then as high in the mean as those of f32. A `symmetric` graph is for other processors, and
    is computed in floats. Raises MissingExtra.
    """
    exact, rounded = _Graph(f32), _Graph(quantised)
    pixels = pixels[:PICTURES]
    taken = {name: rounded.made_by[rounded.made_by[node.input[0]].input[0]] for name, node in rounded.biased.items()}
    means = {
        each.input[0]: _Mean(rounded.array(each.input[1]), rounded.array(each.input[2])) for each in taken.values()
    }
    logits = np.zeros(())
    for tensors in look(f32, [*means, OUTPUT], pixels):
        logits = logits + tensors.pop(OUTPUT).sum(0, dtype=np.float64) / len(pixels)
        for name, values in tensors.items():
            means[name].add(values, len(pixels))
    for name, node in rounded.biased.items():
        mean, twin = means[taken[name].input[0]], exact.biased[name]
        bias = exact.array(twin.input[2]).astype(np.float64)
        _make_room(rounded, node, bias, exact.array(twin.input[1]))
        wanted = _output(exact, twin, mean.exact, exact.array(twin.input[1]))
        met = _output(exact, twin, mean.rounded, _floats(rounded, node.input[1]))
        _write_bias(rounded, node.input[2], bias + wanted - met)
    onnx.save(rounded.model, quantised)
    centre_logits(quantised, logits, pixels, fused=not symmetric)


def centre_logits(quantised: Path, wanted: Array, pixels: NDArray[np.uint8], *, fused: bool = True) -> None:
    """Write a graph anew, so that on `pixels` (M, S, S, 3) its logits are in the mean what is wanted: (K,)."""
    graph = _Graph(quantised)
    last = graph.made_by[OUTPUT]
    if last.name in graph.biased:
        name, met = last.input[2], mean_logits(quantised, pixels, fused=fused)
        bias = graph.array(name) if name in graph.constants else _floats(graph, name)
        _write_bias(graph, name, bias + (wanted - met))
        onnx.save(graph.model, quantised)


def mean_logits(path: Path, pixels: NDArray[np.uint8], *, fused: bool = True) -> Array:
    """Of a graph, over the pictures: (K,)."""
    asked = look(path, [OUTPUT], pixels, fused=fused)
    return np.asarray(np.concatenate([each[OUTPUT] for each in asked]).mean(0, dtype=np.float64))


def _output(exact: _Graph, node: onnx.NodeProto, mean: Array, weight: Array) -> NDArray[np.float64]:
    """What a layer without its bias gives for each channel in the mean over places: (C,)."""
    alone = onnx.NodeProto()
    alone.CopyFrom(node)
    del alone.input[:]
    alone.input.extend(["x", "w"])
    x, w, y = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("x", "w", alone.output[0])
    )
    model = onnx.helper.make_model(
        onnx.helper.make_graph([alone], "layer", [x, w], [y]),
        opset_imports=exact.model.opset_import,
        ir_version=exact.model.ir_version,
    )
    given = {"x": mean[None].astype(np.float32), "w": weight}
    (output,) = session(model.SerializeToString()).run(None, given)
    return np.asarray(output.mean(axis=(0, *range(2, output.ndim)), dtype=np.float64))


def _floats(graph: _Graph, name: str) -> NDArray[np.float32]:
    """A tensor behind DequantizeLinear, of one scale or one for each channel of its first axis."""
    levels, scale, zero = (graph.array(each) for each in graph.made_by[name].input)
    return (levels.astype(np.float32) - _across(zero, levels)) * _across(scale, levels)


def _across(each: Array, levels: Array) -> Array:
    """One number, or one for each channel, as it is taken with the levels."""
    return each.reshape(-1, *[1] * (levels.ndim - 1)) if each.ndim else each


def _make_room(graph: _Graph, node: onnx.NodeProto, bias: NDArray[np.floating], weight: Array) -> None:
    """Coarser weights for channels whose bias would have levels beyond 32 bits, and so is as good as all of the output.

    A level of the bias is the product of an input's and a weight's, and as small as the channel's largest weight. What
    the weights add needs room too.
    """
    if node.input[2] in graph.constants:
        return
    _, bias_scale, _ = graph.made_by[node.input[2]].input
    weight_levels, weight_scale, weight_zero = graph.made_by[node.input[1]].input
    coarser = np.maximum(1, np.abs(bias) / (graph.array(bias_scale).astype(np.float64) * _MOST_LEVELS))
    if (coarser == 1).all():
        return
    old = graph.array(weight_scale)
    for name in (bias_scale, weight_scale):
        scale = graph.array(name) * (coarser if old.ndim else coarser.max())
        _replace(graph, name, scale.astype(np.float32))
    levels, scale = graph.array(weight_levels), graph.array(weight_scale)
    limits = np.iinfo(levels.dtype)
    rounded = np.rint(weight / _across(scale, levels)) + _across(graph.array(weight_zero), levels)
    _replace(graph, weight_levels, np.clip(rounded, limits.min, limits.max).astype(levels.dtype))


def _write_bias(graph: _Graph, name: str, bias: NDArray[np.floating]) -> None:
    """In floats, or in the levels of its scale."""
    if name in graph.constants:
        _replace(graph, name, bias.astype(np.float32))
    else:
        name, scale, _ = graph.made_by[name].input
        _replace(graph, name, np.rint(bias / graph.array(scale)).astype(np.int32))


def _replace(graph: _Graph, name: str, array: Array) -> None:
    graph.constants[name].CopyFrom(numpy_helper.from_array(array, name))
