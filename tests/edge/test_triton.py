"""What `--deploy triton` writes, served by Triton itself: the server of nvidia-pytriton. `make test-edge` runs it.

The server comes without its ONNX Runtime backend, in whose place stands one in Python that asks the same library. So
names, types, sizes, batches and class names of the configuration are Triton's own reading; the backend's are not.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anabranch.arch import Arch
from anabranch.deploy import write_repositories
from anabranch.images.preprocess import Preprocess
from anabranch.nets.net import build
from anabranch.pack import pack
from anabranch.runtimes import open_model

pytestmark = pytest.mark.edge

LABELS = ("ant", "bee, honey", "Käfer")
BACKEND = """
import json, os
import onnxruntime, torch
import triton_python_backend_utils as utils
from torch.utils.dlpack import from_dlpack, to_dlpack  # its own arrays are those of numpy 1

class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        return config

    def initialize(self, told):
        name = json.loads(told["model_config"])["default_model_filename"]
        self.session = onnxruntime.InferenceSession(os.path.join(told["model_repository"], told["model_version"], name))

    def answer(self, request):
        pixels = from_dlpack(utils.get_input_tensor_by_name(request, "pixels").to_dlpack())
        logits = torch.from_numpy(self.session.run(["logits"], {"pixels": pixels.numpy()})[0])
        return utils.InferenceResponse([utils.Tensor.from_dlpack("logits", to_dlpack(logits))])

    def execute(self, requests):
        return [self.answer(request) for request in requests]
"""
Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def artefact(tmp_path_factory, shake) -> Path:
    torch.manual_seed(0)
    net = shake(build(Arch(depths=(1, 1), width=8, stem=(8,)), num_classes=len(LABELS)))
    folder = tmp_path_factory.mktemp("triton") / "artefact"
    told = {"labels": LABELS, "weights_name": "tiny of mine", "licence": "CC0-1.0", "formats": ["onnx"]}
    pack(net, folder, preprocess=Preprocess(crop_px=40, resize_px=48), **told)
    write_repositories(folder, ["triton"])
    return folder


@pytest.fixture(scope="module")
def ask(artefact, tmp_path_factory) -> Iterator[Ask]:
    """A function that asks the server for a path below /v2, with a body or without."""
    spec = find_spec("pytriton")
    if spec is None or spec.origin is None:
        pytest.skip("nvidia-pytriton, whose wheels are for Linux on x86-64, is not installed")
    home = Path(spec.origin).parent
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    backends = tmp_path_factory.mktemp("backends")
    shutil.copytree(home / "tritonserver/backends/python", backends / "python")
    stub = home / f"tritonserver/python_backend_stubs/{version}/triton_python_backend_stub"
    if not stub.exists():
        pytest.skip(f"this Triton has no Python {version}")
    shutil.copy(stub, backends / "python")
    (backends / "onnxruntime").mkdir()
    (backends / "onnxruntime/model.py").write_text(BACKEND)
    libraries = [str(home.parent / "nvidia_pytriton.libs"), str(sysconfig.get_config_var("LIBDIR"))]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),  # whose python3 it is
        "OMP_NUM_THREADS": "1",
    }
    if "not found" in subprocess.run(["ldd", stub], env=environment, capture_output=True, text=True).stdout:
        pytest.skip(f"Triton's Python wants a library of Python {version}, which this system has not got")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        str(home / "tritonserver/bin/tritonserver"),
        f"--model-repository={artefact / 'deploy/triton'}",
        f"--backend-directory={backends}",
        *("--http-address=127.0.0.1", f"--http-port={port}", "--allow-grpc=false", "--allow-metrics=false"),
    ]
    log = backends / "log"

    def answer(path: str, body: object = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2{path}", data, timeout=60) as told:
            held = told.read()
        return json.loads(held) if held else {}

    with log.open("wb") as said, subprocess.Popen(command, env=environment, stdout=said, stderr=said) as server:
        try:
            for _ in range(300):
                assert server.poll() is None, log.read_text()
                try:
                    answer("/health/ready")
                    break
                except (urllib.error.URLError, ConnectionError):
                    time.sleep(0.2)
            else:
                pytest.fail(log.read_text())
            yield answer
        finally:
            server.terminate()


def asked(pixels: np.ndarray, **parameters: int) -> dict[str, Any]:
    told = {"name": "pixels", "datatype": "UINT8", "shape": pixels.shape, "data": pixels.ravel().tolist()}
    wanted = {"name": "logits", **({"parameters": parameters} if parameters else {})}
    return {"inputs": [told], "outputs": [wanted]}


PIXELS = np.random.default_rng(0).integers(0, 256, (8, 40, 40, 3), dtype=np.uint8)


def test_triton_reads_names_types_and_sizes_as_the_card_has_them(ask) -> None:
    met = ask("/models/tiny-of-mine")
    assert met["inputs"] == [{"name": "pixels", "datatype": "UINT8", "shape": [-1, 40, 40, 3]}]
    assert met["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}]
    assert met["platform"] == "onnxruntime_onnx"


def test_triton_answers_with_the_artefacts_logits_also_when_it_gathers_several_callers(ask, artefact) -> None:
    wanted = open_model(artefact, engine="onnxruntime").predict(PIXELS)
    met = ask("/models/tiny-of-mine/infer", asked(PIXELS))["outputs"][0]["data"]
    np.testing.assert_allclose(np.reshape(met, (8, 3)), wanted, rtol=0, atol=1e-4)
    with ThreadPoolExecutor(4) as callers:
        each = list(callers.map(lambda row: ask("/models/tiny-of-mine/infer", asked(row[None])), PIXELS))
    rows = [answer["outputs"][0]["data"] for answer in each]
    np.testing.assert_allclose(rows, wanted, rtol=0, atol=1e-4)


def test_triton_names_the_classes(ask, artefact) -> None:
    best = open_model(artefact, engine="onnxruntime").predict(PIXELS[:1])[0].argmax()
    met = ask("/models/tiny-of-mine/infer", asked(PIXELS[:1], classification=1))["outputs"][0]["data"]
    assert met[0].split(":", 2)[1:] == [str(best), LABELS[best]]


def test_triton_refuses_more_pictures_than_are_gathered_and_those_of_another_size(ask) -> None:
    for pixels, said in ((np.repeat(PIXELS, 2, 0), "batch-size must be <= 8"), (PIXELS[:, :39], "unexpected shape")):
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask("/models/tiny-of-mine/infer", asked(pixels))
        assert said in refused.value.read().decode()
