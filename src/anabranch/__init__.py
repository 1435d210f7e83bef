"""The split-transform-merge family of image classifiers, from any checkpoint to a fast, verified classifier."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from anabranch.arch import ARCHITECTURES, Arch, Quirk, arch
from anabranch.errors import Error, need
from anabranch.version import VERSION as __version__

if TYPE_CHECKING:
    from anabranch.checkpoints.identify import identify
    from anabranch.checkpoints.load import load
    from anabranch.nets.count import count
    from anabranch.nets.net import build
    from anabranch.runtimes.any_size import open_any_size
    from anabranch.runtimes.backbone import open_backbone
    from anabranch.runtimes.open import builtin, open_model

_LAZY = {  # importing anabranch imports neither torch nor an engine
    "build": "anabranch.nets.net",
    "builtin": "anabranch.runtimes.open",
    "count": "anabranch.nets.count",
    "identify": "anabranch.checkpoints.identify",
    "load": "anabranch.checkpoints.load",
    "open_any_size": "anabranch.runtimes.any_size",
    "open_backbone": "anabranch.runtimes.backbone",
    "open_model": "anabranch.runtimes.open",
}

__all__ = [
    "ARCHITECTURES",
    "Arch",
    "Error",
    "Quirk",
    "__version__",
    "arch",
    "build",
    "builtin",
    "count",
    "identify",
    "load",
    "open_any_size",
    "open_backbone",
    "open_model",
]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'anabranch' has no attribute {name!r}")
    if _LAZY[name].startswith(("anabranch.nets.", "anabranch.checkpoints.")):
        need("torch", extra="torch")
    return getattr(importlib.import_module(_LAZY[name]), name)
