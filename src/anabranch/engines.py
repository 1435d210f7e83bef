"""The engines' libraries, each imported without what answering does not need. Imports none of them itself."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from anabranch.errors import need

_CONVERTER = "openvino.tools.ovc"


def openvino() -> ModuleType:
    """The openvino module, imported without its model converter unless somebody has imported it before.

    Importing the converter reports each import over the network (openvino_telemetry) and takes longer than all the
    rest; openvino does without it where it is absent. `openvino.convert_model` still works: it is fetched when asked
    for.
    """
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
