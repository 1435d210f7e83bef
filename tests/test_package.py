"""What `pip install anabranch` brings: a wheel is built, and looked into."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

import anabranch

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/anabranch"
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files of a wheel that is built from a copy of the sources, beside which building writes."""
    place = tmp_path_factory.mktemp("sources")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place)
    for name in ("src", "recipes"):
        shutil.copytree(
            ROOT / name, place / name, symlinks=True, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__")
        )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BUILD, "wheels"], cwd=place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = (place / "wheels").glob("anabranch-*.whl")
    return set(ZipFile(wheel).namelist())


@pytest.mark.slow
def test_it_brings_every_file_of_the_package(brought: set[str]) -> None:
    files = {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert len(files) > 100
    assert files - brought == set()


@pytest.mark.slow
def test_it_brings_every_recipe(brought: set[str]) -> None:
    recipes = {f"anabranch/recipes/{path.name}" for path in (ROOT / "recipes").iterdir()}
    assert "anabranch/recipes/probe.toml" in recipes
    assert recipes - brought == set()


def test_a_shell_completes_what_is_public_and_nothing_else() -> None:
    assert dir(anabranch) == sorted(anabranch.__all__)
    assert all(getattr(anabranch, name) is not None for name in anabranch.__all__)
