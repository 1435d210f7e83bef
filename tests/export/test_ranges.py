from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array

from anabranch.errors import ExportError
from anabranch.export.ranges import find_ranges

RNG = np.random.default_rng(0)
SIDE = 64
ENTRIES = 1 << 16


@pytest.fixture
def curve(tmp_path):
    """A graph that makes of each pixel the entry of `table` that its red and green name, and its ReLU."""

    def write(table: np.ndarray) -> Path:
        nodes = [
            helper.make_node("Cast", ["pixels"], ["levels"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["levels", "places"], ["place"]),
            helper.make_node("Cast", ["place"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["value"]),
            helper.make_node("Relu", ["value"], ["logits"]),
        ]
        pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", SIDE, SIDE, 3])
        value, logits = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("value", "logits"))
        places = from_array(np.array([1, 256, 0], np.float32), "places")
        constants = [from_array(table.astype(np.float32), "table"), places]
        graph = helper.make_graph(nodes, "curve", [pixels], [logits], constants, value_info=[value, logits])
        path = tmp_path / "curve.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
        return path

    return write


def cost(values: np.ndarray, low: float, high: float) -> float:
    """The sum of squares of what rounding to 256 levels, of which one is zero, changes."""
    step = (high - low) / 255
    zero = round(-low / step)
    return float((((np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step - values) ** 2).sum())


def shown(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def named(table: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    return table.astype(np.float32)[pixels[..., 0] + 256 * pixels[..., 1].astype(int)].ravel()


EVEN = RNG.uniform(-1, 1, ENTRIES)
TAILS = RNG.choice([-1, 1], ENTRIES) * RNG.exponential(1, ENTRIES) ** 2
TABLES = {
    "even": EVEN,
    "thin tails": TAILS,
    "one thin tail": np.where(TAILS > 0, TAILS, EVEN),
    "in millions": 1e6 * TAILS,
    "in thousandths": 1e-3 * TAILS,
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_range_is_the_one_that_rounds_best(curve, table, symmetric) -> None:
    """Of 40, by rounding every value: none is better by a twentieth."""
    pixels = shown(32)
    values = named(table, pixels)
    low, high = find_ranges(curve(table), pixels, symmetric=symmetric)["value"]
    shares = np.linspace(0.05, 1, 40)
    if symmetric:
        assert low == -high
        best = min(cost(values, -share * np.abs(values).max(), share * np.abs(values).max()) for share in shares)
    else:
        values = np.maximum(values, 0)  # what the ReLU behind it leaves is what is rounded
        best = min(cost(values, 0, share * values.max()) for share in shares)
        assert low == 0
    assert cost(values, low, high) < 1.05 * best


def test_a_range_of_two_ends_is_narrowed_at_the_end_that_is_thin(curve, tmp_path) -> None:
    path = curve(TABLES["one thin tail"])
    model = onnx.load(path)
    model.graph.node[-1].CopyFrom(helper.make_node("Identity", ["value"], ["logits"]))
    onnx.save(model, path)
    pixels = shown(32)
    low, high = find_ranges(path, pixels)["value"]
    values = named(TABLES["one thin tail"], pixels)
    assert low < 0.7 * values.min()
    assert 1 < high < values.max()
    ends = np.linspace(0.1, 1, 19)
    best = min(cost(values, a * values.min(), b * values.max()) for a in ends for b in ends)
    assert cost(values, low, high) < 1.05 * best


def test_what_a_relu_alone_takes_has_the_range_of_what_that_gives(curve) -> None:
    found = find_ranges(curve(TAILS), shown(4))
    assert found["value"] == found["logits"]


def test_the_ends_are_those_of_32_pictures_in_the_mean(curve) -> None:
    """One picture of 64 with a value that is ten times as far out widens the range to the mean of 1 and 10."""
    table = np.linspace(0, 1, ENTRIES)
    table[-1] = 10
    pixels = np.minimum(shown(64), 254)
    pixels[:, 0, 0] = 254
    pixels[40] = 255
    assert find_ranges(curve(table), pixels)["value"] == (0, pytest.approx((254 / 255 + 10) / 2, rel=1e-4))


@pytest.mark.parametrize("strange", [np.inf, np.nan])
def test_what_is_not_finite_has_no_range(curve, strange) -> None:
    table = np.full(ENTRIES, strange)
    with pytest.raises(ExportError, match="no range for logits: the net gives infinities or NaN"):
        find_ranges(curve(table), shown(1))


def test_a_value_at_the_very_end_of_the_bins_is_counted(curve) -> None:
    below = np.nextafter(np.float32(1), np.float32(0))
    assert find_ranges(curve(np.full(ENTRIES, below)), shown(1))["value"] == (0, below)


def test_a_tensor_of_zeros_has_no_range(curve) -> None:
    assert find_ranges(curve(np.zeros(ENTRIES)), shown(1))["value"] == (0, 0)
