"""Measurements, a line each: what was measured, on which machine, with which versions, at which commit, when."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from anabranch.errors import UsageError

# Those on which speed depends, as Linux names them.
_X86 = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
_ARM = ("asimddp", "bf16", "i8mm")
_VERSIONS = ("anabranch", "numpy", "onnxruntime", "openvino", "pillow", "simplejpeg", "torch")


def record(path: Path, measured: Mapping[str, Any]) -> dict[str, Any]:
    """Append `measured` and where it comes from to a .jsonl file, and give the line. Raises UsageError."""
    line = {
        **measured,
        "machine": machine(),
        "versions": {name: version for name in _VERSIONS if (version := _version(name)) is not None},
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    try:
        with path.open("a", encoding="utf-8", errors="backslashreplace") as file:  # JSON writes so what is no text
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror})") from None
    return line


def machine() -> dict[str, Any]:
    held = _cpuinfo()
    features = (held.get("flags") or held.get("Features", "")).split()
    return {
        "processor": held.get("model name") or platform.processor() or platform.machine(),
        "instructions": [each for each in (*_X86, *_ARM) if each in features],
        "cores": os.cpu_count(),
        "system": platform.platform(terse=True),
    }


def _cpuinfo() -> dict[str, str]:
    """What Linux says of one of the cores; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Of the checkout that this code runs from, with + where it has been changed; None for an installed package."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:  # an installed package may lie in somebody else's checkout
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=True)
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        # what is measured is the code; results that are being written change nothing in it
        tracked = ["status", "--porcelain", "-uno", "--", ":/", ":(exclude,top)results"]
        changed = subprocess.run([*git, *tracked], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
