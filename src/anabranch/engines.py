"""The engines' libraries, each imported without what answering does not need. Imports none of them itself."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from anabranch.errors import need

_CONVERTER = "openvino.tools.ovc"
_one = threading.RLock()
_cores: list[Any] = []
_silence = threading.RLock()  # held while both outputs lead nowhere, or a second thread would keep them there


def openvino() -> ModuleType:
    """The openvino module, imported without its model converter unless somebody has imported it before.

    Importing the converter reports each import over the network (openvino_telemetry) and takes longer than all the
    rest; openvino does without it where it is absent. `openvino.convert_model` still works: it is fetched when asked
    for.
    """
    with _one:
        module = _openvino()
        module.Type.u8.to_dtype()  # makes the table of numpy's types, at which two threads would wait for each other
    return module


def openvino_core() -> Any:
    """The openvino.Core of this process, which is never let go.

    For as long as a Core has its CPU plugin, signals come to the thread that made it on a stack of OpenVINO's. Where of
    two the first goes first, the second leaves that thread a stack that is no more, and Ctrl-C a segmentation fault
    (OpenVINO 2026.4, src/plugins/intel_cpu/src/sigstack_manager.cpp).
    """
    with _one:
        if not _cores:
            _cores.append(openvino().Core())
    return _cores[0]


def _openvino() -> ModuleType:
    if "openvino" in sys.modules or _CONVERTER in sys.modules:
        return importlib.import_module("openvino")
    sys.modules[_CONVERTER] = None  # type: ignore[assignment]  # the import system's own sign for "absent"
    try:
        module = importlib.import_module("openvino")
    finally:
        del sys.modules[_CONVERTER]

    def __getattr__(name: str) -> object:  # noqa: N807  # PEP 562
        if name != "convert_model":
            raise AttributeError(f"module 'openvino' has no attribute {name!r}")
        return importlib.import_module(_CONVERTER).convert_model

    module.__getattr__ = __getattr__  # type: ignore[method-assign]
    return module


def onnxruntime() -> ModuleType:
    """Raises MissingExtra."""
    return need("onnxruntime", extra="onnxruntime")


def mnn() -> ModuleType:
    """Raises MissingExtra."""
    with silenced():  # it tells its developers what the processor can do
        return need("MNN", extra="edge")


def tensorrt() -> tuple[ModuleType, Any, list[str]]:
    """TensorRT-RTX, a logger for it that prints nothing, and the errors that it has heard. Raises MissingExtra."""
    module = need("tensorrt_rtx", extra="tensorrt")
    said: list[str] = []

    class Heard(module.ILogger):  # type: ignore[misc, name-defined]
        def log(self, severity: Any, message: str) -> None:
            if severity in (module.ILogger.ERROR, module.ILogger.INTERNAL_ERROR):
                said.append(message)

    return module, Heard(), said


def usable_cores() -> int:
    """Those that this process may run on, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def silenced() -> Iterator[None]:
    """Send nowhere what libraries write to either output past Python's own streams."""
    with _silence:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        kept = [(number, os.dup(number)) for number in (1, 2)]
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            for number, _ in kept:
                os.dup2(nowhere, number)
            yield
        finally:
            for number, old in kept:
                os.dup2(old, number)
                os.close(old)
            os.close(nowhere)
