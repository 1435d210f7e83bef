from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from anabranch.errors import ArtefactError, MissingExtra, UsageError
from anabranch.pack import pack
from anabranch.runtimes import ENGINES, builtin, open_model
from anabranch.runtimes.external import external_files

EVERYDAY = [name for name, each in ENGINES.items() if each.everyday]  # tests/edge has the others


@pytest.fixture
def folder(packed, tmp_path):
    return shutil.copytree(packed.folder, tmp_path / "copy")


def test_an_unknown_engine_is_answered_with_the_choices(packed):
    with pytest.raises(UsageError, match=r"'openvinos'; the nearest is openvino.*There are openvino, onnxruntime"):
        open_model(packed.folder, engine="openvinos")


def test_an_unknown_precision_is_answered_with_the_choices(packed):
    with pytest.raises(UsageError, match="'f64' here; it computes in f32, bf16"):
        open_model(packed.folder, precision="f64")


def test_a_precision_that_only_another_engine_has_is_refused(packed):
    with pytest.raises(UsageError, match="onnxruntime does not compute in 'bf16'"):
        open_model(packed.folder, engine="onnxruntime", precision="bf16")


def test_an_engine_that_is_not_installed_is_named_with_its_extra(packed, tmp_path, monkeypatch):
    pack(
        packed.net,
        tmp_path / "of-torch",
        preprocess=open_model(packed.folder).card.preprocess,
        labels=list("abcde"),
        weights_name="tiny.random",
        licence="CC0-1.0",
        formats=["torch"],
    )
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match=r"this needs torch.*pip install 'anabranch\[torch\]'"):
        open_model(tmp_path / "of-torch", engine="torch")


@pytest.mark.parametrize(
    ("engine", "name"), [("openvino", "f32.xml"), ("openvino", "f32.bin"), ("onnxruntime", "f32.onnx")]
)
def test_a_card_that_does_not_name_what_the_engine_reads_is_refused(folder, engine, name):
    card = json.loads((folder / "card.json").read_text())
    files = card["graphs"][ENGINES[engine].format]["f32"]["files"]
    files["f32.txt"] = files.pop(name)
    shutil.copy(folder / name, folder / "f32.txt")
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(ArtefactError, match=rf"the card names no \{Path(name).suffix} file, but .*f32\.txt"):
        open_model(folder, engine=engine)


@pytest.mark.parametrize("threads", [0, -2, 99_999_999_999, "2", 1.5])
def test_threads_beyond_any_machine_are_refused(packed, threads):
    with pytest.raises(UsageError, match=f"threads = {threads!r} does not fit"):
        open_model(packed.folder, threads=threads)


def test_more_streams_than_threads_are_refused(packed):
    with pytest.raises(UsageError, match="streams = 3 does not fit: there are 2 threads to share"):
        open_model(packed.folder, threads=2, streams=3)


def test_streams_of_an_engine_that_knows_none_are_refused(folder):
    with pytest.raises(UsageError, match="ncnn answers one caller after the other; openvino, onnxruntime know streams"):
        open_model(folder, engine="ncnn", threads=2, streams=2)


@pytest.mark.parametrize("engine", EVERYDAY)
def test_streams_answer_several_callers_as_one_is_answered(packed, engine):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 33, 33, 3), dtype=np.uint8)
    wanted = open_model(packed.folder, engine=engine).predict(pixels)
    shared = open_model(packed.folder, engine=engine, threads=2, streams=2)
    assert shared.streams == 2
    with ThreadPoolExecutor(4) as callers:
        met = np.concatenate(list(callers.map(shared.predict, np.split(pixels, 20))))
    np.testing.assert_allclose(met, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("engine", "provider"),
    [("onnxruntime-cuda", "CUDAExecutionProvider"), ("onnxruntime-tensorrt", "TensorrtExecutionProvider")],
)
def test_a_provider_that_is_not_here_is_no_reason_to_take_the_cpu_in_silence(packed, engine, provider, monkeypatch):
    if provider in onnxruntime.get_available_providers():
        pytest.skip("it is here")
    with pytest.raises(UsageError, match=f"offers no {provider}; install onnxruntime-gpu"):
        open_model(packed.folder, engine=engine)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [provider])  # but its libraries are not
    with (
        pytest.warns(UserWarning, match="available provider"),
        pytest.raises(UsageError, match=f"offers no {provider}"),
    ):
        open_model(packed.folder, engine=engine)


@pytest.fixture
def tensorrts(tmp_path, monkeypatch):
    """TensorRT's library is not here: its session is the processor's, which notes what it is told and asked.

    As TensorRT, it writes a file of an engine into the folder that it is told, and fails by one that is not whole.
    """
    session, met = onnxruntime.InferenceSession, []

    class Told(session):
        def __init__(self, path, options, providers):
            self.told = dict(each for each in providers if isinstance(each, tuple))["TensorrtExecutionProvider"]
            met.append(self.told)
            super().__init__(path, options, providers=["CPUExecutionProvider"])

        def get_providers(self):
            return ["TensorrtExecutionProvider"]

        def run(self, outputs, given):
            met.append(len(given["pixels"]))
            engine = Path(self.told["trt_engine_cache_path"]) / "graph.engine"
            if engine.exists() and engine.read_text() != "whole":
                raise RuntimeError("could not deserialize engine from cache")
            engine.write_text("whole")
            return super().run(outputs, given)

    monkeypatch.setenv("ANABRANCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["TensorrtExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Told)
    return met


def test_what_tensorrt_builds_is_kept_for_the_graph_and_no_other(packed, folder, tmp_path, tensorrts):
    model = onnx.load(folder / "f32.onnx")
    model.graph.initializer[0].raw_data = bytes(len(model.graph.initializer[0].raw_data))
    describe_anew(folder, "f32.onnx", model.SerializeToString())
    for place, precision in ((packed.folder, "f32"), (packed.folder, "f16"), (folder, "f32")):
        open_model(place, engine="onnxruntime-tensorrt", precision=precision)
    f32, f16, others = (each for each in tensorrts if isinstance(each, dict))
    assert [each for each in tensorrts if isinstance(each, int)] == 3 * [1, 32], "so that it is built as it is opened"
    assert f16 == f32 | {"trt_fp16_enable": "1"}
    assert (f32["trt_engine_cache_enable"], f32["trt_timing_cache_enable"]) == ("1", "1")
    kept = {each["trt_engine_cache_path"] for each in (f32, others)}
    assert len(kept) == 2
    assert all(Path(each).is_dir() and Path(each).is_relative_to(tmp_path / "cache") for each in kept)


def test_an_engine_of_tensorrts_that_is_not_whole_is_built_anew(packed, tmp_path, tensorrts):
    open_model(packed.folder, engine="onnxruntime-tensorrt")
    (engine,) = (tmp_path / "cache").rglob("*.engine")
    engine.write_text("who")
    pixels = np.random.default_rng(0).integers(0, 256, (70, 33, 33, 3), dtype=np.uint8)
    answered = open_model(packed.folder, engine="onnxruntime-tensorrt").predict(pixels)
    assert engine.read_text() == "whole"
    assert tensorrts[-3:] == [32, 32, 6], "what an engine was built for, and no more at once"
    np.testing.assert_allclose(answered, open_model(packed.folder).predict(pixels), rtol=0, atol=1e-4)


def test_where_tensorrt_builds_no_engine_it_is_one_sentence(packed, tensorrts, monkeypatch):
    def refused(*_):
        raise RuntimeError("first\nout of memory")

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", refused)
    with pytest.raises(UsageError, match=r"TensorRT has no engine for .*f32\.onnx: out of memory"):
        open_model(packed.folder, engine="onnxruntime-tensorrt")


def test_an_engine_that_the_artefact_has_no_files_for_is_said(folder):
    card = json.loads((folder / "card.json").read_text())
    del card["graphs"]["onnx"]
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(ArtefactError, match="no files for onnxruntime in f32; it holds openvino f32"):
        open_model(folder, engine="onnxruntime")


@pytest.mark.parametrize(("engine", "name"), [("openvino", "f32.bin"), ("onnxruntime", "f32.onnx")])
def test_a_changed_file_is_found_as_it_is_opened(folder, engine, name):
    held = bytearray((folder / name).read_bytes())
    held[-1] ^= 1
    (folder / name).write_bytes(held)
    with pytest.raises(ArtefactError, match=f"{name} is not the file that the card describes"):
        open_model(folder, engine=engine)


@pytest.mark.parametrize(("engine", "name"), [("openvino", "f32.xml"), ("onnxruntime", "f32.onnx")])
def test_a_file_that_the_engine_cannot_read_is_named(folder, engine, name):
    describe_anew(folder, name, b"<net/>")
    with pytest.raises(ArtefactError, match=f"cannot read .*{name}"):
        open_model(folder, engine=engine)


@pytest.mark.parametrize("where", ["../elsewhere.bin", "/absolute.bin", "./beside.bin", "long" * 40, "beside.bin"])
def test_weights_that_the_card_does_not_name_are_never_read(folder, where):
    model, told = with_weights_beside(folder)
    for each in told:
        each.value = where
    describe_anew(folder, "f32.onnx", model.SerializeToString())
    with pytest.raises(
        ArtefactError, match=r"f32\.onnx takes weights from the file '.*', which its card does not name"
    ):
        open_model(folder, engine="onnxruntime")


@pytest.mark.parametrize("index", [0, 1, -1])
def test_one_tensor_among_those_that_the_card_names_is_not_overlooked(folder, index):
    model, told = with_weights_beside(folder)
    told[index].value = "other.bin"
    describe_anew(folder, "f32.onnx", model.SerializeToString(), others=["beside.bin"])
    with pytest.raises(ArtefactError, match=r"takes weights from the file 'other\.bin'"):
        open_model(folder, engine="onnxruntime")


def test_a_file_is_found_however_protobuf_wrote_it(folder):
    """Value before key, which any reader takes; and what is no file of weights is not taken for one."""
    model, told = with_weights_beside(folder)
    model.metadata_props.add(key="location", value="of the photo")
    describe_anew(folder, "f32.onnx", model.SerializeToString(), others=["beside.bin"])
    open_model(folder, engine="onnxruntime")
    told[-1].value = "other.bin"
    written = model.SerializeToString()
    key, value = b"\n\x08location", b"\x12\x09other.bin"
    assert written.count(key + value) == 1
    turned = written.replace(key + value, value + key)
    assert onnx.load_from_string(turned).graph == model.graph
    describe_anew(folder, "f32.onnx", turned, others=["beside.bin"])
    with pytest.raises(ArtefactError, match=r"takes weights from the file 'other\.bin'"):
        open_model(folder, engine="onnxruntime")


def test_tensors_within_nodes_are_looked_at_too(folder):
    model = onnx.load(folder / "f32.onnx")
    model.graph.node[0].attribute.add(name="told", type=onnx.AttributeProto.TENSOR).t.external_data.add(
        key="location", value="of-a-node.bin"
    )
    assert external_files(written(folder, model)) == {"of-a-node.bin"}


@pytest.mark.parametrize("held", [b"", b"<net/>", b"\x3a\xff", b"\x3a\xff\xff\xff\xff\x0f1", b"\xff" * 20])
def test_what_is_no_graph_is_said(folder, held):
    (folder / "no.onnx").write_bytes(held)
    with pytest.raises(ValueError, match="empty|protobuf|beyond its end|no end"):
        external_files(folder / "no.onnx")


def written(folder, model):
    (folder / "written.onnx").write_bytes(model.SerializeToString())
    return folder / "written.onnx"


def test_weights_beside_the_graph_are_read_where_the_card_names_them(packed, folder):
    model, _ = with_weights_beside(folder)
    describe_anew(folder, "f32.onnx", model.SerializeToString(), others=["beside.bin"])
    pixels = np.random.default_rng(0).integers(0, 256, (2, 33, 33, 3), dtype=np.uint8)
    wanted = open_model(packed.folder, engine="onnxruntime").predict(pixels)
    np.testing.assert_array_equal(open_model(folder, engine="onnxruntime").predict(pixels), wanted)


@pytest.mark.parametrize("engine", EVERYDAY)
def test_a_graph_of_another_shape_than_the_card_says_is_refused(folder, engine):
    card = json.loads((folder / "card.json").read_text())
    card["preprocess"]["crop_px"] = 32
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(ArtefactError, match=r"33, 33, 3.*the card says \(N, 32, 32, 3\)"):
        open_model(folder, engine=engine)


def test_a_folder_may_be_given_as_text(packed):
    assert open_model(str(packed.folder)).card.weights.name == "tiny.random"


def test_a_moved_artefact_answers_the_same(packed, folder):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 33, 33, 3), dtype=np.uint8)
    wanted = open_model(packed.folder).predict(pixels)
    np.testing.assert_array_equal(open_model(folder).predict(pixels), wanted)


def test_a_lacking_builtin_model_is_said(monkeypatch):
    monkeypatch.setattr("anabranch.runtimes.open.BUILTIN_NAME", "nowhere")
    with pytest.raises(ArtefactError, match="lacks its built-in model"):
        builtin()


@pytest.mark.parametrize("engine", EVERYDAY)
def test_opening_and_answering_imports_no_torch(packed, engine):
    code = f"""
import sys
import numpy as np
from anabranch.runtimes import open_model
open_model({str(packed.folder)!r}, engine={engine!r}).predict(np.zeros((1, 33, 33, 3), np.uint8))
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def with_weights_beside(folder):
    """The artefact's graph, whose weights and biases onnx has put into the file beside.bin; and where it says so."""
    model = onnx.load(folder / "f32.onnx")
    onnx.save(model, folder / "graph.onnx", save_as_external_data=True, location="beside.bin", size_threshold=100)
    told = [tensor.external_data[0] for tensor in model.graph.initializer if tensor.external_data]
    assert len(told) > 10
    assert {(each.key, each.value) for each in told} == {("location", "beside.bin")}
    return model, told


def describe_anew(folder, name, held, others=()):
    """Put other bytes in a file and make the card agree with them, and name others beside it."""
    import hashlib

    (folder / name).write_bytes(held)
    card = json.loads((folder / "card.json").read_text())
    for graphs in card["graphs"].values():
        if name in graphs["f32"]["files"]:
            for each in (name, *others):
                told = (folder / each).read_bytes()
                described = {"bytes": len(told), "sha256": hashlib.sha256(told).hexdigest()}
                graphs["f32"]["files"][each] = described
    (folder / "card.json").write_text(json.dumps(card))
