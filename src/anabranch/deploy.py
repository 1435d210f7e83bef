"""What model servers of others want to find: a repository made of an artefact's files, which stay as they are.

The servers take pixels and give logits, as the graphs do: uint8 (N, S, S, 3), cropped by whoever asks. Sources: the
message ModelConfig of Triton, the schema of OpenVINO Model Server's config.json, KServe's InferenceService v1beta1.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from anabranch.artefact import DEPLOY_FOLDER, LABELS_FILE, checked_files, read_card, swap
from anabranch.card import ANY_SIZE, FEATURES, Card
from anabranch.disk import building_folder
from anabranch.errors import ArtefactError, UsageError, nearest

SERVERS = {"triton": "onnx", "ovms": "openvino", "kserve": "onnx"}  # and the format whose files it is given

_MAX_BATCH = 8  # pictures that Triton gathers from several callers
_KSERVE_NAME = 63 - len("-predictor")  # characters: Kubernetes' limit for what KServe calls a service of its own
_MODEL_NAME = 100  # characters, for file systems


def known_servers(servers: Iterable[str], formats: Iterable[str], storage_uri: str | None) -> tuple[str, ...]:
    """Each once. Raises UsageError for one that is not known, or that lacks its format or its place."""
    asked, formats = tuple(dict.fromkeys(servers)), tuple(formats)
    for name in asked:
        if name not in SERVERS:
            raise UsageError(
                f"no server is called {name!r}; the nearest is {nearest(name, SERVERS)[0]}. "
                f"There are {', '.join(SERVERS)}"
            )
        if SERVERS[name] not in formats:
            raise UsageError(f"{name} is given {SERVERS[name]} files; ask for that format too")
    if ("kserve" in asked) != bool(storage_uri):
        raise UsageError(
            "kserve fetches its repository from a place: --deploy kserve and --storage-uri belong together"
        )
    return asked


def write_repositories(artefact: Path, servers: Iterable[str], *, storage_uri: str | None = None) -> list[Path]:
    """Write `deploy/SERVER` into an artefact for each server, of hard links to its files; gives where they lie.

    What lay there is replaced. `storage_uri` is where KServe is to fetch deploy/kserve/models from. Raises UsageError
    and ArtefactError; then what lay there stays.
    """
    card = read_card(artefact)
    servers = known_servers(servers, card.graphs, storage_uri)
    written = []
    for server in servers:
        place = artefact / DEPLOY_FOLDER / server
        try:
            with suppress(FileExistsError):
                place.parent.mkdir()
            with building_folder(place) as making:
                if server == "ovms":
                    _write_ovms(artefact, card, making)
                elif server == "triton":
                    _write_triton(artefact, card, making)
                else:
                    _write_triton(artefact, card, making / "models")
                    (making / "service.yaml").write_text(_service(card, str(storage_uri)), encoding="utf-8")
                swap(making, place)
        except OSError as error:
            raise ArtefactError(f"{place} cannot be written: {error.strerror or error}") from None
        written.append(place)
    return written


def model_names(card: Card, kind: str) -> dict[str, str]:
    """Precision of a graph of this format -> what a server calls it: the weights' name, -int8 behind that of INT8."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", card.weights.name).strip("-.")[:_MODEL_NAME] or "model"
    precisions = [each for each in card.graphs[kind] if each != FEATURES]
    return {each: name if each == "f32" else f"{name}-{each}" for each in precisions}


def _write_triton(artefact: Path, card: Card, repository: Path) -> None:
    for precision, name in model_names(card, "onnx").items():
        files = checked_files(artefact, card.graphs["onnx"][precision].files)
        _link(files.values(), repository / name / "1")
        _link([artefact / LABELS_FILE], repository / name)
        graph = next(each for each in files if each.endswith(".onnx"))
        (repository / name / "config.pbtxt").write_text(_model_config(card, name, graph), encoding="utf-8")


def _model_config(card: Card, name: str, graph: str) -> str:
    side = card.size_px
    return f"""name: {json.dumps(name)}
backend: "onnxruntime"
default_model_filename: {json.dumps(graph)}
max_batch_size: {_MAX_BATCH}
input [
  {{
    name: "pixels"
    data_type: TYPE_UINT8
    dims: [ {side}, {side}, 3 ]
  }}
]
output [
  {{
    name: "logits"
    data_type: TYPE_FP32
    dims: [ {card.num_classes} ]
    label_filename: "{LABELS_FILE}"
  }}
]
dynamic_batching {{ }}
"""


def _write_ovms(artefact: Path, card: Card, repository: Path) -> None:
    models = []
    measured = card.agreement.get("openvino", {})
    for precision, name in model_names(card, "openvino").items():
        _link(checked_files(artefact, card.graphs["openvino"][precision].files).values(), repository / name / "1")
        # without the precision it would compute in bf16 where the processor has that, measured or not
        in_bf16 = precision == "f32" and "bf16" in measured and "f32" not in measured
        plugin: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16" if in_bf16 else "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        if precision in ANY_SIZE.values():  # or it would keep what it prepares for each size of pictures
            plugin["CPU_RUNTIME_CACHE_CAPACITY"] = 0
        models.append({"config": {"name": name, "base_path": name, "plugin_config": plugin}})
    text = json.dumps({"model_config_list": models}, indent=2)
    (repository / "config.json").write_text(f"{text}\n", encoding="utf-8")


def _service(card: Card, storage_uri: str) -> str:
    """The names in YAML are written as in JSON, which is YAML too."""
    called = re.sub(r"[^a-z0-9]+", "-", next(iter(model_names(card, "onnx").values())).lower()).strip("-")
    called = called if re.match("[a-z]", called) else f"model-{called}"
    called = called[:_KSERVE_NAME].strip("-")
    return f"""apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {json.dumps(called)}
spec:
  predictor:
    model:
      modelFormat:
        name: onnx
      runtime: kserve-tritonserver
      protocolVersion: v2
      storageUri: {json.dumps(storage_uri)}
"""


def _link(files: Iterable[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        try:
            os.link(os.path.realpath(file), folder / file.name)  # of a link, what it leads to
        except OSError:  # a file system without hard links
            shutil.copyfile(file, folder / file.name)
