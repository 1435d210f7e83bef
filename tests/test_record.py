from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from anabranch.errors import UsageError
from anabranch.record import machine, record

ROOT = Path(__file__).parents[1]


def test_a_line_says_where_its_figures_come_from(tmp_path: Path) -> None:
    record(tmp_path / "x.jsonl", {"what": "a"})
    record(tmp_path / "x.jsonl", {"what": "b"})
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [line["what"] for line in lines] == ["a", "b"]
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    for line in lines:
        assert line["machine"]["cores"] == os.cpu_count()
        assert line["versions"].keys() >= {"anabranch", "openvino", "torch"}
        if head.returncode == 0:
            assert head.stdout.startswith(line["commit"].rstrip("+"))


@pytest.mark.skipif(shutil.which("lscpu") is None, reason="lscpu is not here")
def test_the_machine_is_told_as_linux_tells_it() -> None:
    said = subprocess.run(["lscpu"], capture_output=True, text=True, check=True, env=os.environ | {"LC_ALL": "C"})
    told = {name: value.strip() for name, _, value in (line.partition(":") for line in said.stdout.splitlines())}
    met = machine()
    assert met["processor"] == told["Model name"]
    assert {"avx2", "avx512f", "avx512_vnni"} & set(told["Flags"].split()) <= set(met["instructions"])
    assert set(met["instructions"]) <= set(told["Flags"].split())


def test_a_name_that_is_no_text_is_recorded(tmp_path: Path) -> None:
    record(tmp_path / "x.jsonl", {"picture": "caf\udce9.png"})
    assert json.loads((tmp_path / "x.jsonl").read_text())["picture"] == "caf\udce9.png"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere/x.jsonl: cannot be written"):
        record(tmp_path / "nowhere/x.jsonl", {})


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*.jsonl")), ids=lambda path: path.name)
def test_every_result_names_machine_versions_commit_and_date(path: Path) -> None:
    for line in path.read_text(encoding="utf-8").splitlines():
        assert json.loads(line).keys() > {"machine", "versions", "commit", "date"}
