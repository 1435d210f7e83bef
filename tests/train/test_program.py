"""A teacher that is a program: its answers, how it ends, and what is told where it does not answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from anabranch.errors import DatasetError, RecipeError
from anabranch.nets.store import read_tensors
from anabranch.train.distil import ProgramTeacher, Teacher, open_teacher
from anabranch.train.loop import train
from anabranch.train.recipe import read_recipe
from anabranch.train.tables import Recipe

CPU = torch.device("cpu")
CLASSES = ("left", "right")
ABOUT = {"classes": CLASSES, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "identity": "the first"}
EXAMPLE = Path(__file__).parents[2] / "examples/teacher.py"

# Each class by the mean of its half, so that a batch of pictures and a mean and std that are mixed up are seen.
HALVES = """
import json, sys
print(json.dumps({about}), flush=True)
while line := sys.stdin.buffer.readline():
    n, c, height, width = json.loads(line)["shape"]
    data = memoryview(sys.stdin.buffer.read(4 * n * c * height * width)).cast("f", (n, c, height, width)).tolist()
    half = width // 2
    {also}
    logits = []
    for each in data:
        for columns in (slice(half), slice(half, None)):
            values = [value for plane in each for row in plane for value in row[columns]]
            logits.append(sum(values) / len(values))
    sys.stdout.buffer.write(json.dumps({{"shape": {shape}}}).encode() + b"\\n")
    sys.stdout.buffer.write(memoryview(__import__("array").array("f", logits)).tobytes())
    sys.stdout.buffer.flush()
"""


def halves(path: Path, *, also: str = "pass", shape: str = "[n, 2]", **about: object) -> tuple[str, ...]:
    """The command of a teacher in plain Python; `also` is done with each batch."""
    path.write_text(HALVES.format(about=ABOUT | about, also=also, shape=shape))
    return (sys.executable, "-S", str(path))


def taught(tiny: Path, command: tuple[str, ...], *overrides: str) -> Recipe:
    words = [f"distil.teacher={json.dumps(command)}", "distil.labels=0.5", *overrides]
    return read_recipe(tiny, overrides=words)


def wanted(x: torch.Tensor) -> torch.Tensor:
    """What HALVES answers to pictures normalised by 0.5 and 0.25, as the student's are."""
    colour = [torch.tensor(ABOUT[name]).reshape(3, 1, 1) for name in ("mean", "std")]
    own = (x * 0.25 + 0.5 - colour[0]) / colour[1]
    half = x.shape[-1] // 2
    return torch.stack([own[..., :half].mean((1, 2, 3)), own[..., half:].mean((1, 2, 3))], 1)


def children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def test_a_program_answers_about_the_students_pictures_normalised_its_own_way(tiny: Path, tmp_path: Path) -> None:
    recipe = taught(tiny, halves(tmp_path / "halves.py"))
    teacher = open_teacher(recipe, CLASSES, CPU)
    turned = open_teacher(recipe, CLASSES[::-1], CPU)
    for shape in ((5, 3, 12, 12), (2, 3, 30, 40), (64, 3, 64, 64)):  # the last one is larger than what a pipe holds
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(teacher.logits(x), wanted(x), rtol=0, atol=1e-4)
        torch.testing.assert_close(turned.logits(x), wanted(x)[:, [1, 0]], rtol=0, atol=1e-4)


def test_a_program_is_known_by_its_identity_its_input_and_the_order_of_the_classes(tiny: Path, tmp_path: Path) -> None:
    def known(class_names: tuple[str, ...] = CLASSES, **about: object) -> str:
        return open_teacher(taught(tiny, halves(tmp_path / "halves.py", **about)), class_names, CPU).sha256()

    first = known()
    assert first == known()
    others = known(CLASSES[::-1]), known(identity="the second"), known(mean=[0.0, 0.0, 0.0]), known(std=[1.0, 1.0, 1.0])
    assert len({first, *others}) == 5


def test_a_program_ends_with_its_teacher_and_is_no_part_of_what_ctrl_c_ends(tiny: Path, tmp_path: Path) -> None:
    before = children()
    teacher = open_teacher(taught(tiny, halves(tmp_path / "halves.py")), CLASSES, CPU)
    assert isinstance(teacher, ProgramTeacher)
    (started,) = children() - before
    assert os.getpgid(started) != os.getpgid(0)
    del teacher
    assert started not in children()


def test_the_example_teaches_by_an_onnx_graph_whatever_its_libraries_print(tiny: Path, tmp_path: Path) -> None:
    weight = np.random.default_rng(2).normal(size=(3, 2)).astype(np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    takes = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])
    gives = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])
    graph = helper.make_graph(nodes, "tiny", [takes], [gives], [numpy_helper.from_array(weight, "weight")])
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "net.onnx")
    told = {name: ABOUT[name] for name in ("classes", "mean", "std")}
    (tmp_path / "net.json").write_text(json.dumps(told))
    loud = "import builtins, os, runpy, sys; sys.argv = sys.argv[1:]; old = builtins.__import__\n"
    loud += "def loud(name, *more):\n print('loading', name, flush=True) if name == 'onnxruntime' else None\n"
    loud += " if name == 'onnxruntime': os.system('echo from below')\n return old(name, *more)\n"
    loud += "builtins.__import__ = loud; runpy.run_path(sys.argv[0], run_name='__main__')"
    files = (str(tmp_path / "net.onnx"), str(tmp_path / "net.json"))
    x = torch.randn((7, 3, 12, 12), generator=torch.Generator().manual_seed(1))
    colour = [np.array(ABOUT[name], np.float32).reshape(3, 1, 1) for name in ("mean", "std")]
    own = (x.numpy() * 0.25 + 0.5 - colour[0]) / colour[1]
    for command in ((sys.executable, str(EXAMPLE), *files), (sys.executable, "-c", loud, str(EXAMPLE), *files)):
        met = open_teacher(taught(tiny, command), CLASSES, CPU).logits(x)
        np.testing.assert_allclose(met.numpy(), own.mean((2, 3)) @ weight, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (
            "print('loading the weights')",
            r"first line, 'loading the weights' \(the line: .*; standard output is for answ",
        ),
        ('print(\'{"classes": ["a"]}\')', r"in its first line, .* \(mean: Field required\)"),
        ("import sys; sys.exit(3)", r"does not answer: it ended with status 3; see what it said on standard error"),
        (
            "import os; os.kill(os.getpid(), 9)",
            r"does not answer: it was ended by SIGKILL, as the system does where mem",
        ),
    ],
)
def test_a_program_that_does_not_say_what_it_is_is_refused(tiny: Path, code: str, told: str) -> None:
    with pytest.raises(RecipeError, match=r"distil\.teacher: .*python.* -c .*" + told):
        open_teacher(taught(tiny, (sys.executable, "-c", code)), CLASSES, CPU)


def test_a_program_that_is_not_there_is_refused(tiny: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"nowhere/python 'a b\.py' does not start: No such file.*; each word of a com"
    ):
        open_teacher(taught(tiny, ("nowhere/python", "a b.py")), CLASSES, CPU)
    with pytest.raises(RecipeError, match=r"does not start: embedded null byte"):
        open_teacher(taught(tiny, ("python", "a\0")), CLASSES, CPU)
    with pytest.raises(RecipeError, match=r"'python a\.py': there is no such file; a program is named word by word"):
        open_teacher(read_recipe(tiny, overrides=["distil.teacher='python a.py'", "distil.labels=0.5"]), CLASSES, CPU)
    with pytest.raises(RecipeError, match=r"distil\.teacher is an empty list"):
        taught(tiny, ())


def test_what_a_run_will_do_is_told_before_its_teacher_loads(tiny: Path, tmp_path: Path) -> None:
    told: list[Mapping[str, Any]] = []
    with pytest.raises(RecipeError, match="does not start"):
        train(taught(tiny, ("nowhere/python",)), tmp_path / "run", report=told.append)
    assert [each["plan"].num_pictures for each in told] == [70]


def test_a_program_that_hangs_is_ended_with_all_that_it_started(tiny: Path, tmp_path: Path, monkeypatch) -> None:
    started = tmp_path / "started"
    code = f"import os, time; open({str(started)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    wrapper = (sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:])", sys.executable, "-c", code)
    monkeypatch.setattr("anabranch.train.program._LONGEST_S", 3.0)
    with pytest.raises(RecipeError, match=r"did not answer for 0\.05 minutes, and was ended"):
        open_teacher(taught(tiny, wrapper), CLASSES, CPU)
    told = Path(f"/proc/{started.read_text()}/cmdline")
    assert not told.exists() or not told.read_bytes()  # a zombie until init takes it


def test_a_run_that_is_broken_off_waits_for_no_program_that_does_not_read(tiny: Path) -> None:
    code = f"import time; print({json.dumps(json.dumps(ABOUT))}, flush=True); time.sleep(600)"
    others = children()
    teacher = open_teacher(taught(tiny, (sys.executable, "-c", code)), CLASSES, CPU)
    (started,) = children() - others

    def break_off(teacher: Teacher) -> None:
        signal.setitimer(signal.ITIMER_REAL, 1)  # within what expects it, however slow the machine
        teacher.logits(torch.zeros(64, 3, 64, 64))

    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            break_off(teacher)
    finally:
        signal.signal(signal.SIGALRM, before)
    del teacher
    assert started not in children()


def test_a_program_of_other_classes_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"halves\.py' knows 2 classes and 3 are to be learnt"):
        open_teacher(taught(tiny, halves(tmp_path / "halves.py")), ("left", "right", "up"), CPU)


@pytest.mark.parametrize(
    ("also", "shape", "told"),
    [
        ("pass", "[n, 3]", r"answers '\{\"shape\": \[2, 3\]\}' where '\{\"shape\": \[2, 2\]\}' was wanted"),
        ("print('a warning')", "[n, 2]", r"answers 'a warning' where"),
        ("data[0][0][0][0] = float('nan')", "[n, 2]", r"answers with values that are not finite"),
        ("sys.exit('no memory')", "[n, 2]", r"does not answer: it ended with status 1"),
        ("print(json.dumps({'shape': [n, 2]})); sys.exit(4)", "[n, 2]", r"does not answer: it ended with status 4"),
    ],
)
def test_an_answer_that_is_none_is_refused(tiny: Path, tmp_path: Path, also: str, shape: str, told: str) -> None:
    teacher = open_teacher(taught(tiny, halves(tmp_path / "halves.py", also=also, shape=shape)), CLASSES, CPU)
    with pytest.raises(RecipeError, match=told):
        teacher.logits(torch.zeros(2, 3, 12, 12))


def test_a_program_that_ends_before_it_has_read_a_batch_is_refused(tiny: Path) -> None:
    code = f"print({json.dumps(json.dumps(ABOUT))}, flush=True); import sys; sys.stdin.close(); sys.exit(5)"
    teacher = open_teacher(taught(tiny, (sys.executable, "-c", code)), CLASSES, CPU)
    with pytest.raises(RecipeError, match="does not answer: it ended with status 5"):
        teacher.logits(torch.zeros(64, 3, 64, 64))  # more than a pipe holds that nobody reads


@pytest.mark.parametrize("key", ["engine='onnxruntime'", "precision='int8'", "teacher_norms='batch'"])
def test_what_belongs_to_other_teachers_is_refused(tiny: Path, key: str) -> None:
    with pytest.raises(RecipeError, match=r"distil\.\w+ belongs to a teacher that is no program"):
        taught(tiny, ("teacher",), f"distil.{key}")


def test_a_run_with_a_program_goes_on_to_the_same_bits_and_with_the_same_program_alone(
    tiny: Path, tmp_path: Path
) -> None:
    before = children()
    recipe = taught(tiny, halves(tmp_path / "halves.py"))
    whole = read_tensors(train(recipe, tmp_path / "whole"))[0]

    def stop(told: object) -> None:
        if isinstance(told, dict) and told.get("step") == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", report=stop)
    other = taught(tiny, halves(tmp_path / "other.py", identity="the second"))
    with pytest.raises(RecipeError, match=r"distil\.teacher, as a hash"):
        train(other, tmp_path / "run", resume=True)
    moved = taught(tiny, halves(tmp_path / "moved.py"))
    halved = read_tensors(train(moved, tmp_path / "run", resume=True))[0]
    assert all(torch.equal(value, halved[name]) for name, value in whole.items())
    alone = read_tensors(train(read_recipe(tiny), tmp_path / "alone"))[0]
    assert not torch.equal(alone["head.weight"], whole["head.weight"])
    assert children() <= before


def test_a_run_whose_program_ends_names_it_in_one_line_and_can_be_gone_on_with(tiny: Path, tmp_path: Path) -> None:
    also = f"""
    asked = __import__("pathlib").Path({str(tmp_path / "asked")!r})
    asked.write_text(f"{{asked.read_text() if asked.exists() else ''}}.")
    if len(asked.read_text()) == 6: sys.exit("out of memory")
    """
    command = json.dumps(halves(tmp_path / "halves.py", also=also.strip()))
    words = [sys.executable, "-m", "anabranch", "train", str(tiny), "--out", str(tmp_path / "run"), "--set"]
    words += [f"distil.teacher={command}", "--set", "distil.labels=0.5"]
    first = subprocess.run(words, capture_output=True, text=True, check=False)
    lines = first.stderr.splitlines()
    assert (first.returncode, "out of memory" in lines) == (2, True), first.stderr
    assert lines[-1].endswith("does not answer: it ended with status 1; see what it said on standard error")
    assert read_tensors(tmp_path / "run/last.safetensors")[1]["progress"]["step"] == 4
    again = subprocess.run([*words, "--resume"], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
