"""What this machine computes at best: one large 1x1 convolution in OpenVINO. python peak.py PRECISION THREADS."""

from __future__ import annotations

import sys

import numpy as np
import openvino as ov
from openvino import opset13 as op
from turns import take_turns

CHANNELS, SIDE_PX = 1024, 56
MACS = CHANNELS * CHANNELS * SIDE_PX * SIDE_PX  # of one answer


def model(precision: str) -> ov.Model:
    x = op.parameter([1, CHANNELS, SIDE_PX, SIDE_PX], np.float32)
    weights = np.random.default_rng(0).standard_normal((CHANNELS, CHANNELS, 1, 1)).astype(np.float32)
    y, w = x, op.constant(weights)
    if precision == "int8":
        y = op.fake_quantize(y, *(np.float32(v) for v in (0, 4, 0, 4)), 256)
        w = op.fake_quantize(w, *(np.float32(v) for v in (-4, 4, -4, 4)), 255)
    conv = op.convolution(y, w, [1, 1], [0, 0], [0, 0], [1, 1])
    if precision == "int8":
        conv = op.fake_quantize(op.relu(conv), *(np.float32(v) for v in (0, 400, 0, 400)), 256)
    return ov.Model([op.reduce_max(conv, op.constant([1, 2, 3]), keep_dims=False)], [x])


if __name__ == "__main__":
    precision, threads = sys.argv[1:]
    hint = "bf16" if precision == "bf16" else "f32"
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": int(threads), "PERFORMANCE_HINT": "LATENCY"}
    request = ov.Core().compile_model(model(precision), "CPU", settings).create_infer_request()
    x = np.abs(np.random.default_rng(0).standard_normal((1, CHANNELS, SIDE_PX, SIDE_PX))).astype(np.float32)
    take_turns(lambda _: request.infer([x], share_inputs=True), dtype="uint8", layout="NHWC", side_px=1)
