from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace

import jsonschema
import onnxruntime
import openvino
import pytest
import yaml
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from anabranch.artefact import read_card
from anabranch.deploy import SERVERS, _service, known_servers, model_names, write_repositories
from anabranch.engines import openvino_core
from anabranch.errors import ArtefactError, UsageError

URI = "s3://bucket/models"

# What OpenVINO Model Server takes of a model: src/schema.cpp of its repository, without what we never write.
OVMS = {
    "type": "object",
    "required": ["model_config_list"],
    "additionalProperties": False,
    "properties": {
        "model_config_list": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["config"],
                "properties": {
                    "config": {
                        "type": "object",
                        "required": ["name", "base_path"],
                        "additionalProperties": False,
                        "properties": {
                            "name": {"type": "string"},
                            "base_path": {"type": "string"},
                            "plugin_config": {"type": "object"},
                        },
                    }
                },
            },
        }
    },
}


@pytest.fixture
def folder(packed, tmp_path):
    return shutil.copytree(packed.folder, tmp_path / "artefact")


def triton_models(repository):
    """Each model's folder and configuration, as Triton's own message reads it."""
    for place in sorted(repository.iterdir()):
        text = (place / "config.pbtxt").read_text()
        yield place, text_format.Parse(text, model_config_pb2.ModelConfig())


def test_triton_finds_the_graph_it_is_told_of(folder, packed):
    (repository,) = write_repositories(folder, ["triton"])
    ((place, config),) = triton_models(repository)
    assert (repository, place.name, config.name) == (folder / "deploy/triton", "tiny.random", "tiny.random")
    assert config.backend == "onnxruntime"
    session = onnxruntime.InferenceSession(str(place / "1" / config.default_model_filename))
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert [(each.name, list(each.dims)) for each in config.input] == [(taken.name, taken.shape[1:])]
    assert [(each.name, list(each.dims)) for each in config.output] == [(given.name, given.shape[1:])]
    kinds = {"tensor(uint8)": model_config_pb2.TYPE_UINT8, "tensor(float)": model_config_pb2.TYPE_FP32}
    assert (config.input[0].data_type, config.output[0].data_type) == (kinds[taken.type], kinds[given.type])
    assert config.max_batch_size > 1
    assert (place / config.output[0].label_filename).read_text().splitlines() == list(read_card(packed.folder).labels)


def test_the_model_server_of_openvino_finds_what_it_is_told_of(folder):
    (repository,) = write_repositories(folder, ["ovms"])
    config = json.loads((repository / "config.json").read_text())
    jsonschema.validate(config, OVMS)
    (model,) = (each["config"] for each in config["model_config_list"])
    place = repository / model["base_path"] / "1"
    assert sorted(path.suffix for path in place.iterdir()) == [".bin", ".xml"]
    compiled = openvino_core().compile_model(next(place.glob("*.xml")), "CPU", model["plugin_config"])
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32


def test_kserve_is_told_of_a_repository_of_triton(folder):
    (repository,) = write_repositories(folder, ["kserve"], storage_uri=URI)
    service = yaml.safe_load((repository / "service.yaml").read_text())
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", service["metadata"]["name"])  # RFC 1123
    assert service["spec"] == {
        "predictor": {
            "model": {
                "modelFormat": {"name": "onnx"},
                "runtime": "kserve-tritonserver",
                "protocolVersion": "v2",
                "storageUri": URI,
            }
        }
    }
    assert [config.name for _, config in triton_models(repository / "models")] == ["tiny.random"]


def test_nothing_is_stored_twice_and_the_artefact_still_opens(folder):
    write_repositories(folder, list(SERVERS), storage_uri=URI)
    assert os.path.samefile(folder / "f32.onnx", folder / "deploy/triton/tiny.random/1/f32.onnx")
    assert os.path.samefile(folder / "f32.bin", folder / "deploy/ovms/tiny.random/1/f32.bin")
    read_card(folder, verify=True)


def test_without_hard_links_the_files_are_copied(folder, monkeypatch):
    def refused(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refused)
    (repository,) = write_repositories(folder, ["triton"])
    assert (repository / "tiny.random/1/f32.onnx").read_bytes() == (folder / "f32.onnx").read_bytes()


def test_what_lay_there_is_replaced_and_a_failure_leaves_it(folder, monkeypatch):
    (repository,) = write_repositories(folder, ["triton"])
    (repository / "left").touch()
    with monkeypatch.context() as patch:
        patch.setattr("anabranch.deploy._model_config", lambda *_: "\udfff")
        with pytest.raises(UnicodeEncodeError):
            write_repositories(folder, ["triton"])
    assert (repository / "left").exists()
    assert [path.name for path in (folder / "deploy").iterdir()] == ["triton"]
    write_repositories(folder, ["triton"])
    assert not (repository / "left").exists()


def test_a_link_within_the_artefact_is_followed_and_one_that_leads_out_refused(folder, tmp_path):
    (folder / "blobs").mkdir()
    (folder / "f32.onnx").rename(folder / "blobs/x")
    (folder / "f32.onnx").symlink_to("blobs/x")
    (repository,) = write_repositories(folder, ["triton"])
    linked = repository / "tiny.random/1/f32.onnx"
    assert not linked.is_symlink()
    assert os.path.samefile(linked, folder / "blobs/x")
    (folder / "blobs/x").rename(tmp_path / "x")
    (folder / "blobs/x").symlink_to(tmp_path / "x")
    with pytest.raises(ArtefactError, match=r"f32\.onnx leads out of the artefact"):
        write_repositories(folder, ["triton"])
    assert os.path.samefile(linked, tmp_path / "x"), "what lay there stays"
    (folder / "f32.onnx").unlink()
    with pytest.raises(ArtefactError, match=r"is incomplete: f32\.onnx is missing"):
        write_repositories(folder, ["triton"])


@pytest.mark.parametrize(("precisions", "computed"), [(["f32", "bf16"], "f32"), (["bf16"], "bf16")])
def test_the_model_server_computes_in_what_was_measured(folder, precisions, computed):
    card = json.loads((folder / "card.json").read_text())
    met = card["agreement"]["openvino"]["f32"]
    card["agreement"]["openvino"] = dict.fromkeys(precisions, met)
    (folder / "card.json").write_text(json.dumps(card))
    (repository,) = write_repositories(folder, ["ovms"])
    (model,) = json.loads((repository / "config.json").read_text())["model_config_list"]
    assert model["config"]["plugin_config"]["INFERENCE_PRECISION_HINT"] == computed


def test_where_nothing_can_be_written_that_is_said(folder):
    (folder / "deploy").touch()
    with pytest.raises(ArtefactError, match="triton cannot be written: Not a directory"):
        write_repositories(folder, ["triton"])


@pytest.mark.parametrize(
    ("servers", "formats", "uri", "message"),
    [
        (["tritn"], ["onnx"], None, "'tritn'; the nearest is triton. There are triton, ovms, kserve"),
        (["triton"], ["openvino"], None, "triton is given onnx files; ask for that format too"),
        (["ovms"], ["onnx"], None, "ovms is given openvino files"),
        (["kserve"], ["onnx"], None, "--deploy kserve and --storage-uri belong together"),
        (["kserve"], ["onnx"], "", "--deploy kserve and --storage-uri belong together"),
        (["triton"], ["onnx"], URI, "--deploy kserve and --storage-uri belong together"),
    ],
)
def test_what_does_not_fit_is_refused(servers, formats, uri, message):
    with pytest.raises(UsageError, match=message):
        known_servers(servers, formats, uri)


@pytest.mark.parametrize(
    ("called", "wanted"),
    [
        ("resnext50_32x4d.tv2_in1k", "resnext50_32x4d.tv2_in1k"),
        ("runs/my net", "runs-my-net"),
        ("..", "model"),
        ("long" * 99, "long" * 25),  # a file's name has a limit
    ],
)
def test_a_server_s_name_is_one_that_it_can_carry(packed, called, wanted):
    card = replace(read_card(packed.folder), weights=replace(read_card(packed.folder).weights, name=called))
    assert model_names(card, "onnx") == {"f32": wanted}


@pytest.mark.parametrize("called", ["2024-net", "___", "50 wéird nâme", "a" * 99, "resnet50.a1_in1k"])
def test_a_service_has_a_name_that_kserve_takes(packed, called):
    card = replace(read_card(packed.folder), weights=replace(read_card(packed.folder).weights, name=called))
    name = yaml.safe_load(_service(card, URI))["metadata"]["name"]
    assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name)  # inference_service_validation.go
    assert len(f"{name}-predictor") <= 63  # its own service's, a DNS label
