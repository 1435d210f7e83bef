"""Each format for small devices: made by its own converter, answered by its own runtime. `make test-edge` runs it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from anabranch.arch import Arch
from anabranch.artefact import described, read_card, write_card
from anabranch.calibration import Pictures
from anabranch.card import Card, Graph
from anabranch.errors import ArtefactError, ExportError, UsageError
from anabranch.export.tensorrt import write_tensorrt
from anabranch.images.preprocess import Preprocess
from anabranch.nets.load import About, Trained, save_trained
from anabranch.nets.net import Net, build
from anabranch.pack import pack
from anabranch.runtimes import open_model

pytestmark = pytest.mark.edge

FORMATS = {"ncnn": "ncnn.param", "mnn": "graph.mnn", "executorch": "graph.pte", "litert": "graph.tflite"}
PREPROCESS = Preprocess(crop_px=41, resize_px=48, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3))
LABELS = ("ant", "bee", "cat", "dog", "eel")


class Made(NamedTuple):
    net: Net
    folder: Path


@pytest.fixture(scope="session")
def made(tmp_path_factory, shake) -> Made:
    """A net with every idea of the family, exported in every format by the command line."""
    torch.manual_seed(0)
    ideas = {"block": "res2", "groups": 2, "group_width": 8, "splits": 4, "squeeze": 8, "shortcut": "pool"}
    net = shake(build(Arch(depths=(2, 1, 1), width=16, stem=(8, 8, 16), **ideas), num_classes=len(LABELS)))
    folder = tmp_path_factory.mktemp("edge")
    told = {"name": "tiny", "licence": "CC0-1.0", "class_names": LABELS}
    save_trained(folder / "tiny.safetensors", Trained(net, About(preprocess=PREPROCESS, **told)))
    words = [word for name in FORMATS for word in ("--format", name)]
    command = [sys.executable, "-m", "anabranch", "export", str(folder / "tiny.safetensors"), *words]
    done = subprocess.run([*command, "-o", str(folder / "out")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[1:-1]] == list(FORMATS), "and nothing else is said"
    return Made(net, folder / "out")


def torchs(net: Net, pixels: np.ndarray) -> np.ndarray:
    normal = (torch.from_numpy(pixels) / 255 - torch.tensor(PREPROCESS.mean)) / torch.tensor(PREPROCESS.std)
    with torch.inference_mode():
        return net(normal.permute(0, 3, 1, 2)).numpy()


@pytest.mark.parametrize("engine", FORMATS)
@pytest.mark.parametrize("threads", [None, 1])
def test_any_number_of_pictures_is_answered_as_torch_answers(made, engine, threads) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 41, 41, 3), dtype=np.uint8)
    wanted = torchs(made.net, pixels)
    predictor = open_model(made.folder, engine=engine, threads=threads)
    assert predictor.engine == f"{engine} f32"
    for count in (1, 3, 2):
        answered = predictor.predict(pixels[:count])
        assert answered.dtype == np.float32
        np.testing.assert_allclose(answered, wanted[:count], atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("engine", FORMATS)
def test_several_threads_may_ask_at_once(made, engine) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (24, 41, 41, 3), dtype=np.uint8)
    predictor = open_model(made.folder, engine=engine)
    with ThreadPoolExecutor(4) as pool:
        answered = list(pool.map(lambda index: predictor.predict(pixels[index : index + 1])[0], range(len(pixels))))
    wanted = torchs(made.net, pixels)
    np.testing.assert_allclose(np.stack(answered), wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("engine", FORMATS)
def test_the_command_line_prints_answers_and_nothing_of_the_engines_own(made, engine, tmp_path) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (41, 41, 3), dtype=np.uint8)
    whole = np.zeros((48, 48, 3), np.uint8)
    start = PREPROCESS.crop_start(48)
    whole[start : start + 41, start : start + 41] = pixels
    Image.fromarray(whole).save(tmp_path / "a.png")
    command = [sys.executable, "-m", "anabranch", "classify", str(tmp_path / "a.png"), "-m", str(made.folder)]
    done = subprocess.run([*command, "--engine", engine, "--json"], capture_output=True, text=True, check=True)
    (answer,) = json.loads(done.stdout)
    probabilities = torch.from_numpy(torchs(made.net, pixels[None])).softmax(1)[0].numpy()
    assert answer["guesses"][0]["label"] == LABELS[probabilities.argmax()]
    assert answer["guesses"][0]["probability"] == pytest.approx(probabilities.max(), abs=1e-5)


@pytest.mark.parametrize("engine", ["ncnn", "mnn", "litert"])
def test_answering_imports_no_torch(made, engine) -> None:
    code = f"""
import sys
import numpy as np
from anabranch.runtimes import open_model
open_model({str(made.folder)!r}, engine={engine!r}).predict(np.zeros((1, 41, 41, 3), np.uint8))
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_card_names_files_converters_and_agreement(made) -> None:
    card = read_card(made.folder, verify=True)
    assert set(card.graphs) == set(card.agreement) == set(FORMATS)
    assert {"pnnx", "MNN", "executorch", "litert-torch"} <= set(card.versions)
    assert all(each["f32"].relative < 1e-5 for each in card.agreement.values())
    held = sorted(path.name for path in made.folder.iterdir())
    assert held == sorted(["card.json", "labels.txt", "ncnn.bin", *FORMATS.values()])


def changed(made: Made, folder: Path, name: str, content: bytes, card: Card | None = None) -> Path:
    """A copy whose file `name` holds something else, which its card describes rightly."""
    shutil.copytree(made.folder, folder)
    (folder / name).write_bytes(content)
    card = card or read_card(made.folder)
    (kind,) = (kind for kind, graphs in card.graphs.items() if name in graphs["f32"].files)
    files = described(folder, card.graphs[kind]["f32"].files)
    write_card(folder, replace(card, graphs={**card.graphs, kind: {"f32": Graph("f32", files)}}))
    return folder


@pytest.mark.parametrize(("engine", "name"), FORMATS.items())
def test_a_file_that_is_cut_off_is_refused_by_its_name(made, engine, name, tmp_path) -> None:
    content = (made.folder / name).read_bytes()
    with pytest.raises(ArtefactError, match=name):
        open_model(changed(made, tmp_path / "cut", name, content[: len(content) // 2]), engine=engine)


@pytest.mark.parametrize(("engine", "name"), FORMATS.items())
def test_a_graph_with_other_classes_than_the_cards_is_refused(made, engine, name, tmp_path) -> None:
    card = replace(read_card(made.folder), labels=("ant", "bee"))
    folder = changed(made, tmp_path / "other", name, (made.folder / name).read_bytes(), card)
    with pytest.raises(ArtefactError, match=r"the card says \(N, 41, 41, 3\) and \(N, 2\)"):
        open_model(folder, engine=engine)


def test_int8_alone_is_refused_for_what_knows_only_f32(made, tmp_path) -> None:
    given = {"preprocess": PREPROCESS, "labels": LABELS, "weights_name": "tiny", "licence": "CC0-1.0"}
    with pytest.raises(UsageError, match="ncnn files are computed in f32; ask for that too"):
        pack(made.net, tmp_path / "out", formats=["openvino", "ncnn"], precisions=["int8"], **given)


@pytest.fixture(scope="session")
def for_gpu(made, tmp_path_factory) -> Path:
    """TensorRT's engines of the same net, in f32 and INT8."""
    told = {"preprocess": PREPROCESS, "labels": LABELS, "weights_name": "tiny", "licence": "CC0-1.0"}
    pixels = np.random.default_rng(3).integers(0, 256, (48, 41, 41, 3), dtype=np.uint8)
    pictures = Pictures("noise", pixels[:16], calibration=pixels[16:])
    folder = tmp_path_factory.mktemp("gpu") / "out"
    precisions = {"precisions": ["f32", "int8"], "pictures": pictures, "max_flips": 1.0}
    pack(made.net, folder, formats=["tensorrt"], **precisions, **told)
    return folder


def test_engines_for_a_gpu_are_built_without_one_and_int8_is_measured_on_the_cpu(for_gpu) -> None:
    card = read_card(for_gpu, verify=True)
    assert set(card.graphs["tensorrt"]["f32"].files) == {"f32.engine"}
    assert set(card.graphs["tensorrt"]["int8"].files) == {"int8.engine", "int8-tensorrt.onnx"}
    assert 0 < card.agreement["tensorrt"]["int8"].relative < 0.2
    assert "tensorrt_rtx_cu13" in card.versions


def test_tensorrts_int8_has_symmetric_ranges_and_no_bias_in_int8(for_gpu) -> None:
    graph = onnx.load(for_gpu / "int8-tensorrt.onnx").graph
    held = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    points = [held[node.input[2]] for node in graph.node if node.op_type.endswith("QuantizeLinear")]
    assert len(points) > 20
    assert {(str(each.dtype), bool(each.any())) for each in points} == {("int8", False)}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_engine_is_refused(for_gpu) -> None:
    with pytest.raises(UsageError, match="computes on an NVIDIA GPU, and torch finds none"):
        open_model(for_gpu, engine="tensorrt")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize(("precision", "tolerance"), [("f32", 1e-3), ("int8", 0.2)])
def test_with_a_gpu_it_answers_as_torch(made, for_gpu, precision, tolerance) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 41, 41, 3), dtype=np.uint8)
    wanted = torchs(made.net, pixels)
    met = open_model(for_gpu, engine="tensorrt", precision=precision).predict(pixels)
    np.testing.assert_allclose(met, wanted, atol=tolerance * np.abs(wanted).max())


def test_a_graph_that_tensorrt_does_not_know_is_refused_in_its_own_words(tmp_path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(ExportError, match="TensorRT cannot read the graph: "):
        write_tensorrt(tmp_path / "bad.onnx", tmp_path / "f32.engine")
    assert not (tmp_path / "f32.engine").exists()
