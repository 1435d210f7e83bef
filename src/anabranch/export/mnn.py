"""The graph for MNN, converted by its own converter from the ONNX file."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from anabranch.errors import ExportError, need

# The converter as a module. Its command, `mnnconvert`, installs a package and reports each conversion over the network.
_CONVERT = "import sys, _tools; sys.exit(not _tools.mnnconvert(sys.argv[1:]))"


def write_mnn(onnx_path: Path) -> list[str]:
    """Write graph.mnn beside `onnx_path`, for any number of pictures. Gives its name.

    Raises MissingExtra, ExportError.
    """
    if find_spec("MNN") is None:
        need("MNN", extra="edge")
    path = onnx_path.with_name("graph.mnn")
    arguments = ["mnnconvert", "-f", "ONNX", "--modelFile", str(onnx_path), "--MNNModel", str(path)]
    done = subprocess.run(
        [sys.executable, "-c", _CONVERT, *arguments, "--bizCode", "anabranch"],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0 or not path.is_file():
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ExportError(f"MNN cannot convert the graph: {said[-1] if said else done.returncode}")
    return [path.name]
