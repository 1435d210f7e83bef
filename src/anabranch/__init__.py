"""The split-transform-merge family of image classifiers, from any checkpoint to a fast, verified classifier."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from anabranch.arch import ARCHITECTURES, Arch, Quirk, arch
from anabranch.errors import Error
from anabranch.version import VERSION as __version__

if TYPE_CHECKING:
    from anabranch.nets.count import count
    from anabranch.nets.net import build

_LAZY = {"build": "anabranch.nets.net", "count": "anabranch.nets.count"}  # importing anabranch imports no torch

__all__ = ["ARCHITECTURES", "Arch", "Error", "Quirk", "__version__", "arch", "build", "count"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'anabranch' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
