"""How fast each engine answers: ours in every precision, and what people use today, turn by turn in one run.

    PYTHONPATH=tests python benchmarks/engines.py [ROUNDS] [RESULTS.jsonl]

All nets have random weights and 224 px; INT8 is calibrated by noise, so that its answers mean nothing. Each contender
is a process of its own with as many threads as there are cores, which waits while the others answer; those of one net
take turns, round after round, in an order that rotates. "timm" is its eager net, and the same in channels_last or
exported to ONNX Runtime; "PaddleClas" is Paddle Inference with oneDNN. Beside them the machine's own peak in each
precision: large 1x1 convolutions in OpenVINO. Printed and recorded: medians and ranges over the rounds, of one
batch; ratios of medians; the share of the peak. Wants the publishers' environments: make publishers.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from random_net import export

from anabranch.nets.count import count
from anabranch.record import record
from anabranch.runtimes.openvino import offered_precisions
from parity import environments

sys.path.insert(0, str(Path(__file__).parent / "contenders"))
import peak

HERE = Path(peak.__file__).parent
PEERS = Path(__file__).parents[1] / "tests/parity/peers"
THREADS = str(len(os.sched_getaffinity(0)))
BATCHES = (1, 4, 8)
PRECISIONS = offered_precisions()


@dataclass(frozen=True)
class Contest:
    arch: str
    timm: str | None
    paddle: str | None


CONTESTS = (
    Contest("resnext50_32x4d", "resnext50_32x4d", "ResNeXt50_32x4d"),
    Contest("seresnext50_32x4d", "seresnext50_32x4d", "SE_ResNeXt50_32x4d"),
    Contest("res2net50_26w_4s", "res2net50_26w_4s", None),
    Contest("res2net50_26w_4s_paddle", None, "Res2Net50_26w_4s"),
)


class Contender:
    def __init__(self, script: str, *words: str, python: str | Path = sys.executable):
        path = os.pathsep.join([str(HERE), str(PEERS)])
        settings = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": THREADS, "OMP_WAIT_POLICY": "PASSIVE"}
        command = [str(python), str(HERE / script), *words, THREADS]
        self.process = subprocess.Popen(
            command, env=settings, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def seconds(self, batch: int, times: int) -> list[float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"batch": batch, "times": times}), file=self.process.stdin, flush=True)
        told = self.process.stdout.readline()
        if not told:
            raise RuntimeError(f"{' '.join(map(str, self.process.args))} ended")  # type: ignore[arg-type]
        seconds: list[float] = json.loads(told)
        return seconds


@contextmanager
def contenders(contest: Contest, artefact: Path) -> Iterator[dict[str, Contender]]:
    in_torch, in_paddle = environments.python("torch"), environments.python("paddleclas")
    found = {f"anabranch {each}": Contender("ours.py", str(artefact), "openvino", each) for each in PRECISIONS}
    found |= {
        f"anabranch {each}, onnxruntime": Contender("ours.py", str(artefact), "onnxruntime", each)
        for each in ("f32", "int8")
    }
    if contest.timm:
        for way in ("eager", "channels-last", "onnxruntime"):
            found[f"timm {way}"] = Contender("timm_net.py", contest.timm, way, python=in_torch)
    if contest.paddle:
        found["PaddleClas"] = Contender("paddle_net.py", contest.paddle, python=in_paddle)
    found |= {f"peak {each}": Contender("peak.py", each) for each in PRECISIONS}
    with ExitStack() as stack:
        for each in found.values():
            stack.callback(each.process.communicate)  # which ends it, as nobody asks any more
        yield found


def compete(contest: Contest, artefact: Path, rounds: int) -> dict[str, dict[int, list[float]]]:
    """Seconds of a batch, one for each round, by contender and size of batch."""
    met: dict[str, dict[int, list[float]]] = {}
    with contenders(contest, artefact) as running:
        for number in range(rounds):
            names = list(running)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                for batch in (1,) if name.startswith("peak") else BATCHES:
                    best = statistics.median(running[name].seconds(batch, 3))
                    met.setdefault(name, {}).setdefault(batch, []).append(best)
    return met


def spread(seconds: list[float]) -> dict[str, float]:
    figures = {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}
    return {name: round(1000 * value, 2) for name, value in figures.items()}


def tell(contest: Contest, met: Mapping[str, Mapping[int, list[float]]]) -> dict[str, Any]:
    """Print a net's table, and give what is recorded: milliseconds, and the share of the peak in its precision."""
    macs = count(contest.arch).macs
    rows: dict[str, Any] = {}
    for name, by_batch in met.items():
        rows[name] = {f"batch {batch}": spread(seconds) for batch, seconds in by_batch.items()}
        precision = next((each for each in PRECISIONS if f" {each}" in name), "f32")
        best = peak.MACS / statistics.median(met[f"peak {precision}"][1])
        if name.startswith("peak"):
            rows[name] = {"gmacs_per_s": round(best / 1e9, 1)}
            print(f"{contest.arch:24} {name:28} {best / 1e9:8.1f} GMAC/s")
            continue
        shares = {batch: batch * macs / statistics.median(seconds) / best for batch, seconds in by_batch.items()}
        rows[name]["share_of_peak"] = {f"batch {batch}": round(share, 3) for batch, share in shares.items()}
        told = "  ".join(f"{1000 * statistics.median(s):8.1f} ms {shares[b]:4.0%}" for b, s in by_batch.items())
        print(f"{contest.arch:24} {name:28} {told}")
    return {"arch": contest.arch, "macs": macs, "milliseconds": rows}


def ratios(told: list[dict[str, Any]]) -> dict[str, float]:
    """Geometric means over the nets, of medians at batch 1: how many times as fast as each of the others."""
    found: dict[str, float] = {}
    for precision in PRECISIONS:
        for other in ("timm eager", "timm onnxruntime", "PaddleClas"):
            logs = [
                math.log(rows[other]["batch 1"]["median"] / rows[f"anabranch {precision}"]["batch 1"]["median"])
                for rows in (each["milliseconds"] for each in told)
                if other in rows
            ]
            if logs:
                found[f"anabranch {precision} over {other}"] = round(math.exp(statistics.mean(logs)), 2)
    return found


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    told = []
    with tempfile.TemporaryDirectory() as folder:
        for contest in CONTESTS:
            artefact = Path(folder) / contest.arch
            export(contest.arch, artefact, formats=["openvino", "onnx"], precisions=["f32", "int8"])
            told.append(tell(contest, compete(contest, artefact, rounds)))
    found = ratios(told)
    for name, ratio in found.items():
        print(f"{name}: {ratio:.2f}x at batch 1, geometric mean")
    if len(sys.argv) > 2:
        record(
            Path(sys.argv[2]), {"what": "engines", "rounds": rounds, "threads": THREADS, "nets": told, "ratios": found}
        )


if __name__ == "__main__":
    main()
