"""The range in which each tensor of a quantised graph is rounded: what pictures show, narrowed to where it rounds best.

Levels that only the rarest values need make all others coarse. The square of what a range costs is a twelfth of a
step's square for what lies inside (uniform noise), and for what lies outside the square of its distance to the end.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from anabranch.errors import ExportError
from anabranch.export.look import look

_GROUP = 32  # pictures, whose ends are averaged: one strange picture makes no range wide; `look` gives a part of these
_BINS = 8192
_COUNTED = 1 << 14  # values of a tensor and picture; its ends are those of all values
_STEPS = 255
_SHARES = np.linspace(1.0, 0.3, 29)  # of an end that was met
_ROUNDS = 2  # in which one end and then the other is moved

Range = tuple[float, float]  # lowest, at most 0, and highest, at least 0: zero itself is always a level


def find_ranges(f32: Path, pixels: NDArray[np.uint8], *, symmetric: bool = False) -> dict[str, Range]:
    """The range of each float tensor that may be rounded, by what it holds on `pixels` (M, S, S, 3).

    f32: a graph that knows its tensors' types. `symmetric`: both ends are as far from zero. Raises MissingExtra,
    and ExportError where a tensor holds what no range can.
    """
    graph = onnx.load(f32, load_external_data=False).graph
    clipped = {} if symmetric else _clipped(graph)
    floats = {each.name for each in graph.value_info if each.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    names = [name for node in graph.node for name in node.output if name in floats - clipped.keys()]
    met = {name: _Values() for name in names}
    done = 0
    for tensors in look(f32, names, pixels):
        for name, values in tensors.items():
            if not np.isfinite(values).all():
                raise ExportError(
                    f"INT8 has no range for {name}: the net gives infinities or NaN inside; export it in f32"
                )
            met[name].add(values, group=done // _GROUP)
        done += len(values)
    found = {name: _narrowed(values, symmetric=symmetric) for name, values in met.items()}
    return found | {before: found[after] for before, after in clipped.items()}


def _clipped(graph: onnx.GraphProto) -> dict[str, str]:
    """What a ReLU alone takes, and what that gives. Rounded to levels from zero up the one is the other."""
    readers = Counter(name for node in graph.node for name in node.input)
    relus = [node for node in graph.node if node.op_type == "Relu" and readers[node.input[0]] == 1]
    return {node.input[0]: node.output[0] for node in relus}


class _Values:
    """What a tensor holds over all pictures: the ends of each group, and how often it holds which value but zero."""

    def __init__(self) -> None:
        self._ends: list[Range] = []
        self._limit = 2.0**-20  # the bins lie evenly from -limit to limit
        self.counts: NDArray[np.int64] = np.zeros(_BINS, np.int64)

    def add(self, values: NDArray[np.float32], *, group: int) -> None:
        """values: (N, ...), of N pictures of a group; groups come in their order."""
        lowest, highest = min(0.0, float(values.min())), max(0.0, float(values.max()))
        if group == len(self._ends):
            self._ends.append((0.0, 0.0))
        self._ends[group] = (min(lowest, self._ends[group][0]), max(highest, self._ends[group][1]))
        while max(-lowest, highest) >= self._limit:  # two bins become one, and there is as much room again
            self._limit *= 2
            self.counts = np.pad(self.counts.reshape(-1, 2).sum(1), _BINS // 4)
        some = values.reshape(-1)[:: values.size // (len(values) * _COUNTED) | 1]  # odd, to walk through all columns
        bins = ((some[some != 0] + self._limit) * (_BINS / (2 * self._limit))).astype(np.int64)
        self.counts += np.bincount(np.minimum(bins, _BINS - 1), minlength=_BINS)  # a sum is rounded up at the very end

    @property
    def ends(self) -> Range:
        lowest, highest = np.mean(self._ends, axis=0)
        return float(lowest), float(highest)

    @property
    def centres(self) -> NDArray[np.floating]:
        return (np.arange(_BINS) + 0.5) * (2 * self._limit / _BINS) - self._limit


def _narrowed(values: _Values, *, symmetric: bool) -> Range:
    lowest, highest = values.ends
    counts, centres = values.counts, values.centres

    def cost(low: float, high: float) -> float:
        outside = np.maximum(centres - high, 0) + np.maximum(low - centres, 0)
        inside = counts[outside == 0].sum() * ((high - low) / _STEPS) ** 2 / 12
        return float(inside + (counts * outside**2).sum())

    if symmetric:
        end = max(-lowest, highest)
        end *= min(_SHARES, key=lambda share: cost(-end * share, end * share))
        return -end, end
    low, high = lowest, highest
    for _ in range(_ROUNDS):
        high = highest * min(_SHARES, key=lambda share: cost(low, highest * share))
        low = lowest * min(_SHARES, key=lambda share: cost(lowest * share, high))
    return float(low), float(high)
