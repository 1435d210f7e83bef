"""How much memory a large net takes on its way to an answer, step by step, and as a share of its weights.

    python benchmarks/large.py NAME [PX] [RESULTS.jsonl]

One process builds the net with fresh weights and packs it for every engine at PX; then one process for each engine
classifies one picture. Another one writes such a net to a file as timm does, and one process for each verb identifies,
converts and exports that file, at the size of published weights. The peak of a step is Linux's VmHWM, set back after
the step before it: all memory that is resident at one time, files mapped into it counted too. Wants Linux, and room
for four times the weights where temporary files lie (TMPDIR).
"""

from __future__ import annotations

import functools
import importlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anabranch.catalogue.find import weights_of
from anabranch.record import record

if TYPE_CHECKING:
    from anabranch.nets.net import Net

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "src/anabranch/builtin/samples/trouser.png"
ENGINES = ("openvino", "onnxruntime")


class Steps:
    """Peak memory in bytes and wall seconds of each step that has ended."""

    def __init__(self) -> None:
        self.done: dict[str, dict[str, float]] = {}
        self._started = time.perf_counter()

    def end(self, name: str) -> None:
        now = time.perf_counter()
        step = self.done.setdefault(name, {"peak_bytes": 0, "wall_s": 0.0})
        step["peak_bytes"] = max(step["peak_bytes"], _peak_bytes())
        step["wall_s"] = round(step["wall_s"] + now - self._started, 1)
        self._started = now
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM becomes what is resident now: man 5 proc

    def end_with(self, module: str, function: str, name: Callable[..., str]) -> None:
        """Have a step end, called `name` of the arguments, whenever this function of this module has answered."""
        self._watch(module, function, lambda *args: None, lambda *args: self.end(name(*args)))

    def end_before(self, module: str, function: str, name: str) -> None:
        """Have a step end whenever this function of this module is about to be called."""
        self._watch(module, function, lambda *args: self.end(name), lambda *args: None)

    def _watch(self, module: str, function: str, before: Callable[..., None], after: Callable[..., None]) -> None:
        home = importlib.import_module(module)
        called = getattr(home, function)

        @functools.wraps(called)
        def watched(*args: Any, **kwargs: Any) -> Any:
            before(*args)
            answer = called(*args, **kwargs)
            after(*args)
            return answer

        setattr(home, function, watched)


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def build_and_pack(name: str, size_px: int, folder: str) -> dict[str, Any]:
    steps = Steps()
    import torch  # noqa: F401  (a step of its own)

    from anabranch.images.preprocess import Preprocess
    from anabranch.pack import pack

    steps.end_with("anabranch.export.write", "write_onnx", lambda *_: "fold, write ONNX")
    steps.end_with("anabranch.export.write", "write_openvino", lambda *_: "write OpenVINO IR")
    steps.end_before("anabranch.pack.measure", "open_model", "let go of the net or of an engine")
    steps.end_with("anabranch.pack.measure", "logits_of", lambda predictor, *_: f"answers, {predictor.engine}")
    steps.end("import torch")
    net = fresh(name)
    weights_bytes = sum(tensor.nbytes for tensor in net.parameters())
    steps.end("build")
    card = pack(
        net,
        folder,
        preprocess=Preprocess(crop_px=size_px, resize_px=size_px),
        labels=[f"class {index}" for index in range(net.num_classes)],
        weights_name=f"{name}.random",
        licence="CC0-1.0",
        keep_net=False,
    )
    steps.end("the rest")
    relative = {engine: met["f32"].relative for engine, met in card.agreement.items()}
    return {"weights_bytes": weights_bytes, "steps": steps.done, "agreement": relative}


def fresh(name: str) -> Net:
    import torch

    from anabranch.nets.net import build

    torch.manual_seed(0)
    net = build(name).eval()
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm2d):  # folded, a new one gives biases of zeros, which are left out
            torch.nn.init.normal_(part.bias, std=0.1)
    return net


def write(name: str, file: str) -> dict[str, Any]:
    import torch

    from anabranch.nets.dialects import dialect
    from anabranch.nets.spelling import to_theirs

    net = fresh(name)
    torch.save(to_theirs(net.arch, net.state_dict(), dialect("timm")), file)
    return {}


def verb(label: str, *words: str) -> dict[str, Any]:
    steps = Steps()
    from anabranch.cli import main

    sys.argv = ["anabranch", *words]
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise
    steps.end(label)
    return {"steps": steps.done}


def in_a_process_of_its_own(*call: str) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__)), *call]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def from_a_file(name: str, scratch: Path) -> dict[str, Any]:
    """The steps of each verb that reads a checkpoint."""
    file, steps = str(scratch / "timm.pth"), {}
    in_a_process_of_its_own("write", name, file)
    verbs = {
        "identify FILE": ("identify", file),
        "convert FILE to .safetensors": ("convert", file, "-o", str(scratch / "out.safetensors"), "--to", "timm"),
        "convert FILE to .pth": ("convert", file, "-o", str(scratch / "out.pth"), "--to", "mmpretrain"),
        "convert FILE to .pdparams": ("convert", file, "-o", str(scratch / "out.pdparams"), "--to", "paddleclas"),
        "export FILE": ("export", file, "-o", str(scratch / "exported"), "--like", weights_of(name)[0].name),
    }
    for label, words in verbs.items():
        steps |= in_a_process_of_its_own("verb", label, *words)["steps"]
        for written in scratch.glob("out.*"):
            written.unlink()
    return steps


def measure(name: str, size_px: int, results: Path | None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = str(Path(scratch) / "artefact")
        packed = in_a_process_of_its_own("build-and-pack", name, str(size_px), folder)
        steps, weights_bytes = packed["steps"], packed["weights_bytes"]
        for engine in ENGINES:
            words = ("classify", str(SAMPLE), "-m", folder, "--engine", engine)
            steps |= in_a_process_of_its_own("verb", f"classify one picture, {engine}", *words)["steps"]
        shutil.rmtree(folder)
        steps |= from_a_file(name, Path(scratch))
    for step in steps.values():
        step["of_weights"] = round(step["peak_bytes"] / weights_bytes, 3)
    print(f"{name} at {size_px} px: weights of {weights_bytes / 1e6:,.0f} MB")
    for label, step in steps.items():
        print(f"  {label:36} {step['peak_bytes'] / 1e6:9,.0f} MB {step['of_weights']:6.2f}x {step['wall_s']:9.1f} s")
    worst = max(steps, key=lambda label: steps[label]["peak_bytes"])
    print(f"  at most {steps[worst]['of_weights']:.2f}x the weights: {worst}")
    for engine, relative in packed["agreement"].items():
        print(f"  {engine}: {relative:.1e} of the largest logit from the net")
    if results is not None:
        measured = {"weights_bytes": weights_bytes, "steps": steps, "agreement": packed["agreement"]}
        record(results, {"what": "memory of a large net", "net": name, "size_px": size_px, **measured})


def main() -> None:
    match sys.argv[1:]:
        case ["build-and-pack", name, size_px, folder]:
            print(json.dumps(build_and_pack(name, int(size_px), folder)))
        case ["write", name, file]:
            print(json.dumps(write(name, file)))
        case ["verb", label, *words]:
            print(json.dumps(verb(label, *words)))
        case [name, *rest] if len(rest) <= 2:
            measure(name, int(rest[0]) if rest else 224, Path(rest[1]) if len(rest) > 1 else None)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
