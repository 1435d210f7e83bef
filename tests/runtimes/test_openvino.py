from __future__ import annotations

import numpy as np
import pytest

from anabranch.engines import openvino
from anabranch.errors import UsageError
from anabranch.runtimes import open_model

CPU_HAS_BF16 = "BF16" in openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def test_f32_is_what_openvino_was_told_to_compute_in(packed):
    compiled = open_model(packed.folder)._compiled
    assert str(compiled.get_property("INFERENCE_PRECISION_HINT")) == "<Type: 'float32'>"
    assert {node.get_rt_info()["runtimePrecision"].value for node in compiled.get_runtime_model().get_ops()} <= {
        "f32", "u8", "i32", "i64", "f16", "undefined"}  # fmt: skip


@pytest.mark.skipif(CPU_HAS_BF16, reason="this processor computes bf16")
def test_bf16_is_refused_where_the_processor_has_none(packed):
    with pytest.raises(UsageError, match="no bf16"):
        open_model(packed.folder, precision="bf16")


@pytest.mark.skipif(not CPU_HAS_BF16, reason="this processor computes no bf16")
def test_bf16_is_near_f32_and_not_the_same(packed):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 33, 33, 3), dtype=np.uint8)
    exact = open_model(packed.folder).predict(pixels)
    rough = open_model(packed.folder, precision="bf16").predict(pixels)
    apart = np.abs(rough - exact).max() / np.abs(exact).max()
    assert 0 < apart < 0.05


def test_the_number_of_threads_reaches_openvino(packed):
    assert open_model(packed.folder, threads=1)._compiled.get_property("INFERENCE_NUM_THREADS") == 1
