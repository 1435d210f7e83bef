"""The C++ predictor, built once into build/cpp, and artefacts with any card."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openvino.utils import get_cmake_path

ROOT = Path(__file__).parents[2]

Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture(scope="session")
def built() -> Path:
    folder = ROOT / "build" / "cpp"
    configure = ["cmake", "-S", ROOT / "tests" / "cpp", "-B", folder, f"-DOpenVINO_DIR={get_cmake_path()}"]
    for command in ([*configure, "-DCMAKE_CXX_FLAGS=-Werror"], ["cmake", "--build", folder, "--parallel", "2"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def _run(program: Path) -> Run:
    return lambda *words: subprocess.run([program, *map(str, words)], capture_output=True, check=False, timeout=300)


@pytest.fixture(scope="session")
def predict(built: Path) -> Run:
    return _run(built / "predict" / "predict")


@pytest.fixture(scope="session")
def pixels(built: Path) -> Run:
    return _run(built / "pixels")


@pytest.fixture
def with_card(tmp_path: Path) -> Callable[..., Path]:
    """A copy of an artefact whose card a function has changed."""

    def copied(folder: Path, change: Callable[[dict[str, Any]], object], name: str = "artefact") -> Path:
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        card = json.loads((copy / "card.json").read_text(encoding="utf-8"))
        change(card)
        (copy / "card.json").write_text(json.dumps(card), encoding="utf-8")
        return copy

    return copied
