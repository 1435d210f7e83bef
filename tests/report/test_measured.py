from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from anabranch.report.measured import (
    NOTHING,
    TABLES,
    engines_table,
    folder_table,
    formats_table,
    int8_table,
    layers_table,
    probe_table,
    speed_table,
    told,
    training_cost_table,
    training_table,
)
from anabranch.report.zoo import filled

ROOT = Path(__file__).parents[2]
WHERE = {
    "rounds": 7,
    "machine": {"cores": 2, "processor": "A processor"},
    "date": "2026-11-23T01:02:03+00:00",
    "commit": "0123456789ab",
}


def figure(median: float) -> dict[str, float]:
    return {"median": median, "min": median - 1, "max": median + 2}


@pytest.mark.parametrize("document", TABLES)
def test_the_document_is_fresh(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    for place, table in TABLES[document].items():
        assert text == filled(text, place, told(ROOT / "results", place, table)), "stale: run make docs"


def test_a_line_for_each_net_and_engine_says_size_difference_and_time() -> None:
    row = {"mb": 100.25, "relative": 2.5e-7, "ms, threads 1": figure(80), "ms, threads 2": figure(44.4)}
    engines = {"ncnn": row, "tensorrt": {"mb": 90}}
    text = formats_table([{**WHERE, "threads": [1, 2], "nets": [{"arch": "a_net", "engines": engines}]}])
    assert "| a_net | tensorrt | 90.0 |  |  |  |" in text
    assert "| a_net | ncnn | 100.2 | 2.5e-07 | 80.0 (79.0 to 82.0) | 44.4 (43.4 to 46.4) |" in text
    assert "7 rounds on 2 cores of A processor, 2026-11-23, at 0123456789ab" in text


def test_a_line_for_each_contender_says_time_and_share_of_the_peak() -> None:
    def row(median: float, share: float) -> dict[str, Any]:
        return {"batch 1": figure(median), "batch 4": figure(4 * median), "share_of_peak": {"batch 1": share}}

    told = {"anabranch f32": row(40, 0.87), "timm eager": row(100, 0.35), "peak f32": {"gmacs_per_s": 78.4}}
    run = {**WHERE, "nets": [{"arch": "a_net", "milliseconds": told}], "ratios": {"anabranch f32 over timm eager": 2.5}}
    older = {**run, "ratios": {"anabranch f32 over timm eager": 1.5}}
    other = {**run, "machine": {"cores": 2, "processor": "Another"}, "ratios": {"anabranch f32 over timm eager": 3.5}}
    text = engines_table([older, other, run])
    assert "| a_net | anabranch f32 | 40.0 (39.0 to 42.0) | 160.0 (159.0 to 162.0) | 87% |" in text
    assert "| a_net | timm eager | 100.0 (99.0 to 102.0) | 400.0 (399.0 to 402.0) | 35% |" in text
    assert "anabranch f32 over timm eager 2.50x" in text
    assert "peak f32 78 to 78 GMAC/s" in text
    assert "On Another, 2026-11-23, at 0123456789ab: anabranch f32 over timm eager 3.50x." in text
    assert "1.50x" not in text


def test_a_line_for_each_net_says_what_a_picture_takes_each_of_those_one_chooses_among() -> None:
    def net(arch: str, **met: float) -> dict[str, Any]:
        peak = {"peak f32": {"gmacs_per_s": 78.4}}
        return {"arch": arch, "milliseconds": {**{name: {"batch 1": figure(ms)} for name, ms in met.items()}, **peak}}

    nets = [net("a_net", **{"anabranch f32": 40, "timm eager": 99.96}), net("b_net", PaddleClas=61)]
    text = speed_table([{**WHERE, "nets": []}, {**WHERE, "nets": nets}])
    assert text.splitlines()[0] == "| net | timm eager | PaddleClas | anabranch f32 |"
    assert "| a_net | 100.0 |  | 40.0 |\n| b_net |  | 61.0 |  |\n" in text
    assert "one picture of 7 rounds on 2 cores of A processor, 2026-11-23, at 0123456789ab" in text


def test_a_line_for_each_precision_says_what_each_kind_of_layer_takes() -> None:
    kinds = {
        "in groups": {"milliseconds": 1.25, "share_of_peak": 0.5},
        "rest": {"milliseconds": 0.4, "share_of_peak": None},
    }
    met = {"milliseconds": 12.5, "share_of_peak": 0.87, "kinds": kinds}
    bare = {**met, "kinds": {"rest": kinds["rest"]}}
    text = layers_table([{**WHERE, "nets": [{"arch": "a_net", "precisions": {"f32": met, "int8": bare}}]}])
    assert "| net | precision | ms | in groups | rest |" in text
    assert "| a_net | f32 | 12.5 (87%) | 1.2 (50%) | 0.4 |" in text
    assert "| a_net | int8 | 12.5 (87%) |  | 0.4 |" in text


def test_a_line_for_each_folder_says_speed_share_memory_and_the_cold_start() -> None:
    row = {
        "precision": "int8",
        "predictor": "C++",
        "pictures": "500 x 375",
        "per_s": figure(50),
        "engine_alone_per_s": figure(55),
        "share": 0.909,
        "peak_mb": 412,
        "cold_start_s": figure(1.5),
    }
    scaled = {**row, "predictor": "--scaled-decode", "cold_start_s": None}
    run = {**WHERE, "figures": [row, scaled], "scaled_levels": {"mean": 0.197, "max": 3}}
    slower = [{**row, "share": 0.8}, {**row, "pictures": "larger", "share": 0.7}, {**scaled, "share": 0.75}]
    other = {**run, "machine": {"cores": 2, "processor": "Another"}, "figures": slower}
    text = folder_table([other, run])
    assert "| int8 | C++ | 500 x 375 | 50.0 (49.0 to 52.0) | 55.0 (54.0 to 57.0) | 91% | 412 | 1.50 (0.50 to" in text
    assert "| int8 | --scaled-decode | 500 x 375 | 50.0 (49.0 to 52.0) | 55.0 (54.0 to 57.0) | 91% | 412 |  |" in text
    assert "the 12-megapixel photos by 0.20 grey levels in the mean and 3 at most" in text
    told = "int8 C++ 80% (500 x 375), 70% (larger); int8 --scaled-decode 75% (500 x 375)."
    assert f"On Another, 2026-11-23, at 0123456789ab: {told}" in text


def test_a_line_for_each_net_says_what_int8_costs_on_each_engine() -> None:
    def net(arch: str, ours: float, same: float) -> dict[str, Any]:
        other = {"top1": 85.5, "same_answer": 99.5, "float_sums": arch == "b_net"}
        worst = [["stages.0.1.conv2", "Conv", 0.0234], ["head", "Gemm", 0.01]]
        told = {"openvino": {"top1": ours, "same_answer": same}, "onnxruntime": other, "worst_layers": worst}
        return {**WHERE, "arch": arch, "steps": 300, "tested": 10000, "top1_f32": 85.64, **told}

    machine = {**WHERE["machine"], "instructions": ["avx2", "avx512_vnni"]}
    before = {**net("a_net", 80.0, 90.0), "commit": "fedcba987654"}
    text = int8_table([before, {**net("b_net", 85.7, 99.33), "machine": machine}, net("a_net", 85.4, 99.2)])
    first, second = text.splitlines()[2:4]
    assert first == "| a_net | 85.64 | 85.40 | 99.20 | 85.50 | 99.50 | stages.0.1.conv2 (Conv), 2.3% | 0123456 |"
    assert second.startswith("| b_net | 85.64 | 85.70 | 99.33 | 85.50 | 99.50* |")
    assert "fedcba9" not in text
    assert "10,000 pictures, after 300 steps" in text
    assert "A processor, 2026-11-23, at 0123456; A processor with avx2, avx512_vnni, 2026-11-23, at 0123456." in text
    assert "loses at most 0.24 points, and gives at least 99.20 % of the pictures" in text


def test_a_line_for_each_way_to_train_says_seconds_times_and_top1() -> None:
    net = {
        "net": "a_net",
        "pictures": 1500,
        "seconds": {"probe in f32": figure(40), "probe in f32, and test": figure(44), "epoch": figure(200)},
        "epoch_over_probe": {"probe in f32": 5.0, "probe in f32, and test": 4.5},
        "top1": {"probe in f32": 73.04, "fine-tuned, epoch 2 of 2": 51.06, "fine-tuned, epoch 10 of 10": 63.0},
    }
    ratios = {"probe in f32": 3.0, "probe in f32, and test": 2.5, "probe in int8": 9.06}
    other = {**WHERE, "machine": {"cores": 2, "processor": "Another"}, "nets": [{**net, "epoch_over_probe": ratios}]}
    text = probe_table([other, {**WHERE, "nets": [net]}])
    told = "a_net, 1,500 photos: probe in f32 3.0x, probe in int8 9.1x."
    assert f"On Another, 2026-11-23, at 0123456789ab: {told}" in text
    lines = text.splitlines()
    assert lines[2] == "| a_net, 1,500 photos | probe in f32 | 40.0 (39.0 to 42.0) | 5.0x faster | 73.0 % |"
    assert lines[3].startswith("| a_net, 1,500 photos | an epoch of fine-tuning | 200.0 (199.0 to 202.0) |  | 51.1 % (")
    assert lines[3].endswith("51.1 % (epoch 2 of 2); 63.0 % (epoch 10 of 10) |")


def test_a_line_for_each_net_says_both_loops_speed() -> None:
    speeds = {"a_net": {"anabranch": figure(4.12), "plain": figure(2.5), "ratio": 1.648}}
    text = training_table([{**WHERE, "pictures_per_s": speeds}])
    assert "| a_net | 4.12 (3.12 to 6.12) | 2.50 (1.50 to 4.50) | 1.65x |" in text


def test_a_line_for_each_net_says_the_loops_own_cost() -> None:
    costs = {"a_net": {"loop_s": figure(4), "bare_s": figure(3.5), "own_cost": 0.0123, "steps": 44}}
    text = training_cost_table([{**WHERE, "loop_over_bare": costs}])
    assert "| a_net | 4.000 (3.000 to 6.000) | 3.500 (2.500 to 5.500) | 1.2% | 44 |" in text


def test_the_last_line_counts_and_without_one_that_is_said(tmp_path: Path) -> None:
    costs = {"a_net": {"loop_s": figure(4), "bare_s": figure(3.5), "own_cost": 0.0123, "steps": 44}}
    assert {told(tmp_path, "costs", table) for tables in TABLES.values() for table in tables.values()} == {NOTHING}
    lines = [json.dumps({**WHERE, "rounds": rounds, "loop_over_bare": costs}) for rounds in (2, 1)]
    (tmp_path / "costs.jsonl").write_text("\n".join(lines))
    assert "ranges of 1 round on" in told(tmp_path, "costs", training_cost_table)
