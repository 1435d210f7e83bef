"""The house has floors, and two wings with no door between them. Read from the imports, lazy ones too."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import anabranch

HOUSE = Path(anabranch.__file__).parent
GROUND = "version errors arch screen disk pool"
FIRST = f"{GROUND} images catalogue"
BETWEEN = f"{FIRST} cache fetch engines card artefact"
# Each module or package -> what it may import of the others. A new one must be entered here.
DOORS = {
    # 0: the standard library alone
    "version": "",
    "errors": "",
    "arch": "errors",
    "screen": "errors",
    "disk": "errors",
    "pool": "",
    # 1
    "images": GROUND,
    "catalogue": GROUND,
    # between the wings: both import it, and it imports neither
    "cache": GROUND,
    "fetch": f"{FIRST} cache artefact",
    "engines": GROUND,
    "card": f"{FIRST} engines",
    "artefact": f"{FIRST} cache engines card",
    # 2: torch's wing, and the engines' wing
    "nets": BETWEEN,
    "checkpoints": f"{BETWEEN} nets",
    "train": f"{BETWEEN} nets checkpoints export runtimes evaluate calibration pack",
    "export": f"{BETWEEN} nets",
    "runtimes": BETWEEN,
    # 3: a Predictor is all they know
    "agree": f"{BETWEEN} runtimes",
    "evaluate": f"{BETWEEN} runtimes",
    "calibration": f"{BETWEEN} evaluate",
    "deploy": BETWEEN,
    "record": BETWEEN,
    "report": f"{BETWEEN} record runtimes agree evaluate",
    # the one place where both wings meet: a net is packed, opened and compared with itself
    "pack": f"{BETWEEN} nets checkpoints export runtimes agree calibration",
    # 4
    "verbs": f"{BETWEEN} nets checkpoints train export runtimes agree evaluate calibration record report pack deploy",
    "cli": f"{BETWEEN} verbs",
    "__main__": "cli",
    "__init__": f"{BETWEEN} nets checkpoints runtimes",
}
TORCH = {"torch", "torchvision", "pytorch_optimizer", "safetensors", "onnx", "onnxscript"}
ENGINES = {
    "openvino",
    "onnxruntime",
    "tensorrt_rtx",
    "ncnn",
    "pnnx",
    "MNN",
    "executorch",
    "ai_edge_litert",
    "litert_torch",
}


def unit(path: Path) -> str:
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


MODULES = sorted(HOUSE.rglob("*.py"))
NAMES = [str(path.relative_to(HOUSE)) for path in MODULES]


def imported(path: Path, *, lazy: bool = True) -> Iterator[str]:
    """Dotted names that a module imports, not counting those for type checkers; without `lazy`, as it is imported."""
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not lazy:
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "need":
            continue  # its value goes unused: it only asks politely whether the extra is installed
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the floors"
            yield from (f"{node.module}.{each.name}" for each in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("need", "importlib.import_module"):
            yield from (each.value for each in node.args[:1] if isinstance(each, ast.Constant))


def ours(path: Path, *, lazy: bool = True) -> set[str]:
    dotted = (name.split(".") for name in imported(path, lazy=lazy))
    return {parts[1] for parts in dotted if parts[0] == "anabranch"} - {unit(path)}


def theirs(path: Path, *, lazy: bool = True) -> set[str]:
    packages = {name.split(".")[0] for name in imported(path, lazy=lazy)}
    return packages - {"anabranch", "__future__"} - set(sys.stdlib_module_names)


def loaded_by(*modules: str) -> set[str]:
    """Top-level packages in memory after a fresh Python has imported these modules."""
    code = f"import sys, {', '.join(modules)}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_plan_names_every_part_of_the_house_and_no_other() -> None:
    assert {unit(path) for path in MODULES} == set(DOORS)


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_a_module_imports_only_what_its_floor_allows(path: Path) -> None:
    assert ours(path) <= set(DOORS[unit(path)].split())


@pytest.mark.parametrize("name", GROUND.split())
def test_the_ground_floor_stands_on_the_standard_library_alone(name: str) -> None:
    assert theirs(HOUSE / f"{name}.py") == set()


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_torch_stays_in_its_wing(path: Path) -> None:
    # ExecuTorch's Python side takes and gives torch's tensors, and TensorRT wants what lies on the GPU
    exempt = (HOUSE / "runtimes/executorch.py", HOUSE / "runtimes/tensorrt.py")
    if unit(path) not in ("nets", "checkpoints", "train", "export") and path not in exempt:
        assert not theirs(path) & TORCH


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_engines_are_known_to_those_who_write_or_run_their_files(path: Path) -> None:
    if unit(path) not in ("runtimes", "export", "engines"):
        assert not theirs(path) & ENGINES


@pytest.mark.parametrize("path", [path for path in MODULES if unit(path) == "cli"], ids=lambda path: path.name)
def test_the_command_line_imports_a_verbs_parts_when_the_verb_is_called(path: Path) -> None:
    assert ours(path, lazy=False) <= set(GROUND.split())
    assert theirs(path, lazy=False) == {"click"}


def test_listing_the_zoo_loads_no_library_but_click() -> None:
    bare = loaded_by("os")
    loaded = loaded_by("anabranch", "anabranch.cli", "anabranch.verbs.zoo")
    assert loaded - bare - set(sys.stdlib_module_names) - {"anabranch"} == {"click"}


@pytest.mark.parametrize(
    "name", [name for name in DOORS if name not in ("nets", "checkpoints", "train", "export", "pack", "__main__")]
)
def test_a_part_outside_torchs_wing_loads_neither_torch_nor_what_only_some_calls_need(name: str) -> None:
    modules = [path for path in MODULES if unit(path) == name and path.stem != "__main__"]
    dotted = [".".join(("anabranch", *path.relative_to(HOUSE).with_suffix("").parts)) for path in modules]
    heavy = {"torch", "rich", "cv2", "scipy", "onnx", "onnxruntime", "openvino", "webdataset", "imagehash"}
    heavy |= {"matplotlib", "tensorboardX"}
    assert not loaded_by(*(each.removesuffix(".__init__") for each in dotted)) & heavy
