"""Every command and every Python example of the documents, run as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import anabranch
from anabranch import cli
from anabranch.train.recipe import find_recipe

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DATASET = Path("/usr/share/datasets/fashion-mnist")


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(path: Path) -> list[str]:
    lines = [line[2:] for block in blocks(path, "console") for line in block.splitlines() if line.startswith("$ ")]
    return [line for line in lines if not line.startswith("make ")]  # run beside these tests


def in_this_environment(command: str) -> list[str]:
    words = shlex.split(command)
    if words[0] == "anabranch":
        return [sys.executable, "-m", *words]
    assert words[0] == "torchrun"
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", *words[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in DOCUMENTS if commands(path)], ids=lambda path: path.name)
def test_every_command_of_a_document_succeeds(path: Path, tmp_path: Path) -> None:
    """In order, in a folder that holds what a checkout holds."""
    for name in ("src", "recipes"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "ANABRANCH_CACHE": str(tmp_path / "cache"),
    }
    skipped = []
    for command in commands(path):
        if not DATASET.is_dir() and ("runs/" in command or "fashion-mnist" in command):
            skipped.append(command)
            continue
        done = subprocess.run(
            in_this_environment(command), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    if skipped:
        pytest.skip(f"without the package dataset-fashion-mnist these were not run: {skipped}")


@pytest.mark.parametrize("code", blocks(ROOT / "README.md", "python"), ids=lambda code: code.splitlines()[-1][:40])
def test_every_example_of_the_readme_runs(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def shown(path: Path) -> list[list[str]]:
    """The words of each command that a document shows for a reader's own files, or a recipe in its first lines."""
    text = path.read_text(encoding="utf-8")
    lines = "\n".join(blocks(path, "sh")) if path.suffix == ".md" else text.replace("\n#   ", "\n")
    lines = lines.replace("\\\n", " ")
    asked = [
        shlex.split(line, comments=True) for line in lines.splitlines() if re.match(r"(torchrun .*)?anabranch ", line)
    ]
    return [words[words.index("anabranch") + 1 :] for words in asked]


SHOWING = [path for path in (*DOCUMENTS, *sorted((ROOT / "recipes").glob("*.toml"))) if shown(path)]


@pytest.mark.parametrize("path", SHOWING, ids=lambda path: path.name)
def test_every_command_that_is_shown_is_one_that_the_command_line_knows(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    for verb, *words in shown(path):
        asked = cli.app.commands[verb].make_context(verb, words)  # raises click.UsageError
        if verb == "train":
            assert find_recipe(asked.params["recipe"]).is_file()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_name_of_an_example_is_there(path: Path) -> None:
    code = "\n".join(blocks(path, "python"))
    compile(code, path.name, "exec")
    assert [name for name in re.findall(r"\banabranch\.(\w+)", code) if not hasattr(anabranch, name)] == []


@pytest.mark.parametrize("path", [*DOCUMENTS, ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name)
def test_every_link_of_a_document_leads_to_a_file(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not link.startswith("http") and not (path.parent / link).exists()] == []
