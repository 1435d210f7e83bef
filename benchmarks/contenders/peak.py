"""What this machine computes at best: large 1x1 convolutions in OpenVINO. python peak.py PRECISION THREADS.

Four in a row, or reading the input and looking through the output would take half of the time where AMX computes.
"""

from __future__ import annotations

import sys

import numpy as np
import openvino as ov
from openvino import opset13 as op
from turns import take_turns

LAYERS, CHANNELS, SIDE_PX = 4, 1024, 56
MACS = LAYERS * CHANNELS * CHANNELS * SIDE_PX * SIDE_PX  # of one answer
SPREAD = 1 / 16  # of the weights: activations stay of one order of magnitude


def model(precision: str) -> ov.Model:
    x = op.parameter([1, CHANNELS, SIDE_PX, SIDE_PX], np.float32)
    rng = np.random.default_rng(0)
    y = x
    for _ in range(LAYERS):
        w = op.constant(rng.normal(0, SPREAD, (CHANNELS, CHANNELS, 1, 1)).astype(np.float32))
        if precision == "int8":
            y, w = _rounded(y, 0, 4, 256), _rounded(w, -4 * SPREAD, 4 * SPREAD, 255)
        y = op.relu(op.convolution(y, w, [1, 1], [0, 0], [0, 0], [1, 1]))
    if precision == "int8":
        y = _rounded(y, 0, 4, 256)
    return ov.Model([op.reduce_max(y, op.constant([1, 2, 3]), keep_dims=False)], [x])


def _rounded(values: ov.Node, lowest: float, highest: float, levels: int) -> ov.Node:
    limits = np.float32(lowest), np.float32(highest)
    return op.fake_quantize(values, *limits, *limits, levels)


if __name__ == "__main__":
    precision, threads = sys.argv[1:]
    hint = "bf16" if precision == "bf16" else "f32"
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": int(threads), "PERFORMANCE_HINT": "LATENCY"}
    request = ov.Core().compile_model(model(precision), "CPU", settings).create_infer_request()
    x = np.abs(np.random.default_rng(0).standard_normal((1, CHANNELS, SIDE_PX, SIDE_PX))).astype(np.float32)
    take_turns(lambda _: request.infer([x], share_inputs=True), dtype="uint8", layout="NHWC", side_px=1)
