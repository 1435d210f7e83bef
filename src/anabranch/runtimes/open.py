"""An artefact folder opened on one of the engines."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from numbers import Integral
from pathlib import Path
from typing import NamedTuple

from anabranch.artefact import CARD_FILE, checked_files, read_card
from anabranch.engines import usable_cores
from anabranch.errors import ArtefactError, UsageError, nearest, need
from anabranch.runtimes.predictor import Predictor

BUILTIN_NAME = "fashion-mnist"

_MOST_THREADS = 4096


class Engine(NamedTuple):
    format: str  # of the files that it reads
    needs: tuple[str, str] | None  # a module that may not be installed, and the extra that brings it
    predictor: str  # module:class, imported when the engine is asked for
    graphs: dict[str, str]  # precision that it computes in -> precision of the graph that it reads
    everyday: bool = False  # its files are written where no format is asked for
    streams: bool = False  # it can answer several callers at once
    measured: bool = True  # at export; else it wants what is not everywhere, and takes another engine's files
    on_gpu: bool = False  # it has files of its own, which are not measured as they are written
    graph: str | None = None  # module:class, for graphs that give something else than logits

    @property
    def has_files(self) -> bool:
        """Whether an export writes its format for it, and not for another engine."""
        return self.measured or self.on_gpu


ENGINES = {
    "openvino": Engine(
        "openvino",
        None,
        "anabranch.runtimes.openvino:OpenVinoPredictor",
        {"f32": "f32", "bf16": "f32", "int8": "int8"},
        everyday=True,
        streams=True,
        graph="anabranch.runtimes.openvino:OpenVinoGraph",
    ),
    "onnxruntime": Engine(
        "onnx",
        ("onnxruntime", "onnxruntime"),
        "anabranch.runtimes.onnxruntime:OnnxRuntimePredictor",
        {"f32": "f32", "int8": "int8"},
        everyday=True,
        streams=True,
        graph="anabranch.runtimes.onnxruntime:OnnxRuntimeGraph",
    ),
    "onnxruntime-cuda": Engine(
        "onnx",
        ("onnxruntime", "onnxruntime"),
        "anabranch.runtimes.onnxruntime:CudaPredictor",
        {"f32": "f32"},
        measured=False,
    ),
    "onnxruntime-tensorrt": Engine(
        "onnx",
        ("onnxruntime", "onnxruntime"),
        "anabranch.runtimes.onnxruntime:TensorRtPredictor",
        {"f32": "f32", "f16": "f32"},
        measured=False,
    ),
    "torch": Engine(
        "torch",
        ("torch", "torch"),
        "anabranch.export.eager:TorchPredictor",
        {"f32": "f32", "bf16": "f32", "f16": "f32"},
    ),
    "torch-compiled": Engine(
        "torch",
        ("torch", "torch"),
        "anabranch.export.eager:CompiledPredictor",
        {"f32": "f32", "bf16": "f32", "f16": "f32"},
        measured=False,
    ),
    "tensorrt": Engine(
        "tensorrt",
        ("tensorrt_rtx", "tensorrt"),
        "anabranch.runtimes.tensorrt:TensorRtRtxPredictor",
        {"f32": "f32", "int8": "int8"},
        measured=False,
        on_gpu=True,
    ),
    "ncnn": Engine("ncnn", ("ncnn", "edge"), "anabranch.runtimes.ncnn:NcnnPredictor", {"f32": "f32"}),
    "mnn": Engine("mnn", ("MNN", "edge"), "anabranch.runtimes.mnn:MnnPredictor", {"f32": "f32"}),
    "executorch": Engine(
        "executorch",
        ("executorch", "executorch"),
        "anabranch.runtimes.executorch:ExecutorchPredictor",
        {"f32": "f32"},
    ),
    "litert": Engine(
        "litert", ("ai_edge_litert", "litert"), "anabranch.runtimes.litert:LitertPredictor", {"f32": "f32"}
    ),
}


def builtin() -> Path:
    """The folder of the model that comes with the package. Raises ArtefactError if the installation lacks it."""
    folder = Path(__file__).resolve().parent.parent / "builtin" / BUILTIN_NAME
    if not (folder / CARD_FILE).is_file():
        raise ArtefactError(f"this installation lacks its built-in model ({folder}); reinstall anabranch")
    return folder


def everyday_formats() -> list[str]:
    """The formats of an export that asks for none: those of the everyday engines that are installed."""
    engines = [each for each in ENGINES.values() if each.everyday]
    return [each.format for each in engines if each.needs is None or find_spec(each.needs[0]) is not None]


def open_model(
    folder: Path | str,
    *,
    engine: str = "openvino",
    precision: str | None = None,
    threads: int | None = None,
    streams: int = 1,
    verify: bool = False,
) -> Predictor:
    """A Predictor on the files of an artefact.

    `precision` is what the engine computes in; None: f32 where the artefact has that. `threads`: None leaves it to the
    engine, which takes all cores. `streams`: so many callers are answered at once, each by a share of the threads; one
    picture takes longer then, and of many more are answered a second. `many_streams` says how many are best for that.
    `verify` hashes large files again that it has met before. Raises UsageError, ArtefactError, MissingExtra.
    """
    chosen = known_engine(engine, precision, threads=threads, streams=streams)
    folder = Path(folder)
    card = read_card(folder)
    graphs = card.graphs.get(chosen.format, {})
    if precision is None:
        precision = next((each for each, kind in chosen.graphs.items() if kind in graphs), "f32")
    graph = graphs.get(chosen.graphs[precision])
    if graph is None:
        if folder.is_relative_to(builtin().parent):
            raise UsageError(
                "the built-in model is there for openvino in f32 alone; an export of yours may be for others"
            )
        raise ArtefactError(
            f"{folder} holds no files for {engine} in {precision}; it holds {_held(card.graphs)}. "
            f"Export the net again with the format {chosen.format}, and in {chosen.graphs[precision]}"
        )
    if chosen.needs is not None and find_spec(chosen.needs[0]) is None:
        need(chosen.needs[0], extra=chosen.needs[1])
    files = checked_files(folder, graph.files, verify=verify)
    module, _, name = chosen.predictor.partition(":")
    shared = {"streams": streams} if chosen.streams else {}
    predictor: Predictor = getattr(importlib.import_module(module), name)(
        files, card, precision=precision, threads=threads, **shared
    )
    return predictor


def many_streams(engine: str, threads: int | None = None) -> int:
    """How many streams answer most pictures a second: one for each thread, where the engine knows streams."""
    return (threads or usable_cores()) if engine in ENGINES and ENGINES[engine].streams else 1


def known_engine(engine: str, precision: str | None = None, *, threads: int | None = None, streams: int = 1) -> Engine:
    """Raises UsageError for what it is not called, does not compute in or does not run on."""
    if engine not in ENGINES:
        raise UsageError(
            f"no engine is called {engine!r}; the nearest is {nearest(str(engine), ENGINES)[0]}. "
            f"There are {', '.join(ENGINES)}"
        )
    if precision is not None and precision not in ENGINES[engine].graphs:
        raise UsageError(
            f"{engine} does not compute in {precision!r} here; it computes in {', '.join(ENGINES[engine].graphs)}"
        )
    for name, value in (("threads", threads), ("streams", streams)):
        if value is not None and not (isinstance(value, Integral) and 1 <= value <= _MOST_THREADS):
            raise UsageError(f"{name} = {value!r} does not fit: a whole number, 1 to {_MOST_THREADS:,}, is wanted")
    if streams > 1 and not ENGINES[engine].streams:
        having = ", ".join(name for name, each in ENGINES.items() if each.streams)
        raise UsageError(f"{engine} answers one caller after the other; {having} know streams")
    if streams > (threads or usable_cores()):
        raise UsageError(f"streams = {streams} does not fit: there are {threads or usable_cores()} threads to share")
    return ENGINES[engine]


def _held(graphs: object) -> str:
    assert isinstance(graphs, dict)
    return ", ".join(f"{kind} {precision}" for kind, held in graphs.items() for precision in held) or "none"
