"""The publishers' environments: `python -m parity.environments` builds each whose list of packages has changed.

They lie in .venv-parity/ and hold what the lists beside this file name and nothing else: every package at one version,
so that no resolver decides. Of a package's own requirements only those are listed that its nets import.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

HOME = Path(__file__).parents[2] / ".venv-parity"
NAMES = ("torch", "paddleclas")
# One torch serves these tests and the publishers who build on it
BORROWING = "torch"


def python(name: str) -> Path:
    """Its interpreter. Raises LookupError where it has not been built, or from another list."""
    if not ready(name):
        raise LookupError(f"the environment {name} is not as {name}.txt says: run python -m parity.environments")
    return HOME / name / "bin" / "python"


def ready(name: str) -> bool:
    mark = HOME / name / "ready"
    return mark.exists() and mark.read_text() == recipe(name)


def recipe(name: str) -> str:
    """Another one means another environment."""
    torch = importlib.metadata.version("torch")
    lent = f"torch {torch} at {sysconfig.get_path('purelib')}" if name == BORROWING else ""
    packages = Path(__file__).with_name(f"{name}.txt").read_bytes()
    return f"{sys.version}\n{lent}\n{hashlib.sha256(packages).hexdigest()}\n"


def build(name: str) -> None:
    folder = HOME / name
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    if name == BORROWING:
        [own] = folder.glob("lib/python*/site-packages")
        (own / "torch-of-the-tests.pth").write_text(sysconfig.get_path("purelib"))
    # compiled as it is imported, which is a small part of it
    words = ["install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile", "--requirement"]
    packages = Path(__file__).with_name(f"{name}.txt")
    subprocess.run([folder / "bin" / "python", "-m", "pip", *words, packages], check=True)
    (folder / "ready").write_text(recipe(name))


if __name__ == "__main__":
    for each in NAMES:
        if not ready(each):
            print(f"building {HOME / each}", flush=True)
            build(each)
