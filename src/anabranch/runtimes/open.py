"""An artefact folder opened on one of the engines."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from anabranch.artefact import CARD_FILE, checked_files, read_card
from anabranch.errors import ArtefactError, UsageError, nearest
from anabranch.runtimes.predictor import Predictor

BUILTIN_NAME = "fashion-mnist"


class Engine(NamedTuple):
    format: str  # of the files that it reads
    needs: tuple[str, str] | None  # a module that may not be installed, and the extra that brings it
    predictor: str  # module:class, imported when the engine is asked for
    graphs: dict[str, str]  # precision that it computes in -> precision of the graph that it reads


ENGINES = {
    "openvino": Engine(
        "openvino",
        None,
        "anabranch.runtimes.openvino:OpenVinoPredictor",
        {"f32": "f32", "bf16": "f32", "int8": "int8"},
    ),
    "onnxruntime": Engine(
        "onnx",
        ("onnxruntime", "onnxruntime"),
        "anabranch.runtimes.onnxruntime:OnnxRuntimePredictor",
        {"f32": "f32", "int8": "int8"},
    ),
}


def builtin() -> Path:
    """The folder of the model that comes with the package. Raises ArtefactError if the installation lacks it."""
    folder = Path(__file__).resolve().parent.parent / "builtin" / BUILTIN_NAME
    if not (folder / CARD_FILE).is_file():
        raise ArtefactError(f"this installation lacks its built-in model ({folder}); reinstall anabranch")
    return folder


def installed_formats() -> list[str]:
    """The formats that an engine which is installed reads."""
    return [each.format for each in ENGINES.values() if each.needs is None or find_spec(each.needs[0]) is not None]


def open_model(
    folder: Path | str,
    *,
    engine: str = "openvino",
    precision: str | None = None,
    threads: int | None = None,
    verify: bool = False,
) -> Predictor:
    """A Predictor on the files of an artefact.

    `precision` is what the engine computes in; None: f32 where the artefact has that. `threads`: None leaves it to the
    engine, which takes all cores. `verify` hashes large files too. Raises UsageError, ArtefactError, MissingExtra.
    """
    chosen = _engine(engine, precision)
    if threads is not None and threads < 1:
        raise UsageError(f"threads = {threads} does not fit: at least 1 is wanted")
    folder = Path(folder)
    card = read_card(folder)
    graphs = card.graphs.get(chosen.format, {})
    if precision is None:
        precision = next((each for each, kind in chosen.graphs.items() if kind in graphs), "f32")
    graph = graphs.get(chosen.graphs[precision])
    if graph is None:
        raise ArtefactError(
            f"{folder} holds no files for {engine} in {precision}; it holds {_held(card.graphs)}. "
            f"Export the net again with the format {chosen.format}, and in {chosen.graphs[precision]}"
        )
    files = checked_files(folder, graph.files, verify=verify)
    module, _, name = chosen.predictor.partition(":")
    predictor: Predictor = getattr(importlib.import_module(module), name)(
        files, card, precision=precision, threads=threads
    )
    return predictor


def _engine(engine: str, precision: str | None) -> Engine:
    if engine not in ENGINES:
        raise UsageError(
            f"no engine is called {engine!r}; the nearest is {nearest(engine, ENGINES)[0]}. "
            f"There are {', '.join(ENGINES)}"
        )
    if precision is not None and precision not in ENGINES[engine].graphs:
        raise UsageError(
            f"{engine} does not compute in {precision!r} here; it computes in {', '.join(ENGINES[engine].graphs)}"
        )
    return ENGINES[engine]


def _held(graphs: object) -> str:
    assert isinstance(graphs, dict)
    return ", ".join(f"{kind} {precision}" for kind, held in graphs.items() for precision in held) or "none"
