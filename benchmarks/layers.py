"""Which kinds of layer a net's time goes to in each precision.

    python benchmarks/layers.py [ROUNDS] [RESULTS.jsonl]

The nets of benchmarks/engines.py with random weights, through OpenVINO at 224 px and batch 1, with a thread for each
core. Each round times every net and precision in turn, and asks OpenVINO's own profile what each layer took. Beside
them the machine's peak, and what was tried to make INT8 faster: convolutions in groups in bf16 amid it, where the
processor has that. Printed and recorded: medians over the rounds of milliseconds, and the share of the peak.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from random_net import export
from torch import nn

from anabranch.arch import arch as row
from anabranch.engines import openvino_core
from anabranch.nets.net import Net
from anabranch.record import record
from anabranch.runtimes.openvino import offered_precisions

sys.path.insert(0, str(Path(__file__).parent / "contenders"))
import peak

NETS = ("resnext50_32x4d", "seresnext50_32x4d", "res2net50_26w_4s", "res2net50_26w_4s_paddle")
THREADS = len(os.sched_getaffinity(0))
PRECISIONS = offered_precisions()
TIMES = 10  # a round
GROUPED, ONE_BY_ONE, LARGER, HEAD, REST = "in groups", "1 x 1", "larger", "head", "other than convolutions"
PIXELS = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)


def macs(arch: str) -> dict[str, int]:
    """Multiply-accumulates of a picture by kind of layer."""
    found: dict[str, int] = defaultdict(int)

    def add(kind: str, layer: nn.Module, _: Any, output: torch.Tensor) -> None:
        found[kind] += output.numel() * layer.weight[0].numel()  # type: ignore[operator, union-attr]

    with torch.device("meta"):
        net = Net(row(arch), num_classes=1000).eval()
        for layer in net.modules():
            if isinstance(layer, nn.Linear):
                layer.register_forward_hook(partial(add, HEAD))
            elif isinstance(layer, nn.Conv2d):
                kind = GROUPED if layer.groups > 1 else ONE_BY_ONE if layer.kernel_size == (1, 1) else LARGER
                layer.register_forward_hook(partial(add, kind))
        net(torch.empty(1, 3, 224, 224))
    return dict(found)


def kind_of(profiled: Any) -> str:
    if profiled.node_type == "GroupConvolution":
        return GROUPED
    if profiled.node_type == "Convolution":
        return ONE_BY_ONE if "1x1" in profiled.exec_type else LARGER
    return HEAD if profiled.node_type.startswith("FullyConnected") else REST


def with_groups_in_floats(int8: Path, path: Path) -> Path:
    """The same graph with weights in floats where a convolution has groups, which then is not computed in INT8."""
    model = onnx.load(int8)
    held = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    made_by = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type == "Conv" and any(each.name == "group" and each.i > 1 for each in node.attribute):
            levels, scale, _ = (held[name] for name in made_by[node.input[1]].input)
            model.graph.initializer.append(
                numpy_helper.from_array(levels.astype(np.float32) * scale[:, None, None, None], f"{node.name}.floats")
            )
            node.input[1] = f"{node.name}.floats"
    onnx.save(model, path)
    return path


class Contender:
    def __init__(self, model: Any, hint: str, given: np.ndarray):
        settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": THREADS, "PERFORMANCE_HINT": "LATENCY"}
        core = openvino_core()
        self._plain, self._profiled = (
            core.compile_model(model, "CPU", {**settings, "PERF_COUNT": profiled}).create_infer_request()
            for profiled in (False, True)
        )
        self._given = given
        self.milliseconds: list[float] = []
        self.by_kind: dict[str, list[float]] = defaultdict(list)

    def take_a_turn(self) -> None:
        seconds = []
        for _ in range(TIMES):
            start = perf_counter()
            self._plain.infer([self._given], share_inputs=True)
            seconds.append(perf_counter() - start)
        self.milliseconds.append(1000 * statistics.median(seconds))
        self._profiled.infer([self._given], share_inputs=True)  # finds the caches as the other one left them
        self._profiled.infer([self._given], share_inputs=True)
        took: dict[str, float] = defaultdict(float)
        for each in self._profiled.get_profiling_info():
            took[kind_of(each)] += 1000 * each.real_time.total_seconds()
        for kind, milliseconds in took.items():
            self.by_kind[kind].append(milliseconds)


def peaks() -> dict[str, Contender]:
    x = np.abs(np.random.default_rng(0).standard_normal((1, peak.CHANNELS, peak.SIDE_PX, peak.SIDE_PX)))
    return {
        each: Contender(peak.model(each), "bf16" if each == "bf16" else "f32", x.astype(np.float32))
        for each in PRECISIONS
    }


@contextmanager
def contenders(arch: str) -> Iterator[dict[str, Contender]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / arch
        export(arch, folder, formats=["openvino", "onnx"], precisions=["f32", "int8"])
        found = {
            each: Contender(
                folder / ("int8.xml" if each == "int8" else "f32.xml"), "bf16" if each == "bf16" else "f32", PIXELS
            )
            for each in PRECISIONS
        }
        if "bf16" in PRECISIONS and GROUPED in macs(arch):
            mixed = with_groups_in_floats(folder / "int8.onnx", Path(name) / "mixed.onnx")
            found["int8, groups in bf16"] = Contender(mixed, "bf16", PIXELS)
        yield found


def tell(arch: str, running: dict[str, Contender], best: dict[str, float]) -> dict[str, Any]:
    """Print a net's lines, and give what is recorded. best: MACs a millisecond at the machine's best."""
    counted, rows = macs(arch), {}
    for name, each in running.items():
        reach = best[name.split(",")[0]]
        total = statistics.median(each.milliseconds)
        kinds = {}
        for kind, milliseconds in each.by_kind.items():
            took = statistics.median(milliseconds)
            share = round(counted[kind] / took / reach, 3) if kind in counted and took else None
            kinds[kind] = {"milliseconds": round(took, 2), "share_of_peak": share}
        share = sum(counted.values()) / total / reach
        rows[name] = {"milliseconds": round(total, 2), "share_of_peak": round(share, 3), "kinds": kinds}
        told = ", ".join(
            f"{kind} {met['milliseconds']:.2f} ms" + (f" ({met['share_of_peak']:.0%})" if met["share_of_peak"] else "")
            for kind, met in kinds.items()
        )
        print(f"{arch}, {name}: {total:.2f} ms ({share:.0%} of the peak): {told}", flush=True)
    return {"arch": arch, "precisions": rows}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    told = []
    for arch in NETS:
        with contenders(arch) as running:
            highest = peaks()
            for _ in range(rounds):
                for each in (*running.values(), *highest.values()):
                    each.take_a_turn()
            best = {name: peak.MACS / statistics.median(each.milliseconds) for name, each in highest.items()}
            told.append(tell(arch, running, best))
    if len(sys.argv) > 2:
        record(Path(sys.argv[2]), {"what": "layers", "rounds": rounds, "threads": THREADS, "nets": told})


if __name__ == "__main__":
    main()
