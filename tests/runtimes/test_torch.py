"""The engines in torch, on the processor; on a CUDA device where there is one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from anabranch.arch import Arch
from anabranch.errors import ArtefactError, UsageError
from anabranch.images.preprocess import Preprocess
from anabranch.nets.net import build
from anabranch.nets.store import read_tensors, write_tensors
from anabranch.pack import pack
from anabranch.runtimes import open_model

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 33, 33, 3), dtype=np.uint8)
PREPROCESS = Preprocess(crop_px=33, resize_px=33)


@pytest.fixture(scope="module")
def made(packed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("torch") / "made"
    labels, told = ["a", "b", "c", "d", "e"], {"weights_name": "tiny", "licence": "CC0-1.0"}
    pack(packed.net, folder, preprocess=PREPROCESS, labels=labels, formats=["torch"], **told)
    return folder


def logits(net, pixels):
    """By the definition, in torch."""
    x = (pixels.astype(np.float64) / 255 - PREPROCESS.mean) / PREPROCESS.std
    with torch.inference_mode():
        return net.eval()(torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float32))).numpy()


def test_the_artefact_gives_the_logits_of_the_net(packed, made):
    wanted = logits(packed.net, PIXELS)
    met = open_model(made, engine="torch").predict(PIXELS)
    assert np.abs(met - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_bf16_is_near_f32_and_not_the_same(packed, made):
    wanted = logits(packed.net, PIXELS)
    apart = np.abs(open_model(made, engine="torch", precision="bf16").predict(PIXELS) - wanted).max()
    assert 0 < apart < 0.05 * np.abs(wanted).max()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device computes f16")
def test_f16_without_a_device_is_refused(made):
    with pytest.raises(UsageError, match="f16 on a CUDA device, and there is none; take bf16 or f32"):
        open_model(made, engine="torch", precision="f16")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler, against torch's own old parts
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants a C++ compiler")
def test_the_compiled_net_gives_the_same_for_any_batch(tmp_path):
    torch.manual_seed(0)
    net = build(Arch(depths=(1,), width=4, stem_stride=1), num_classes=2)  # each of its loops is compiled, for seconds
    told = {"weights_name": "least", "licence": "CC0-1.0"}
    pack(net, tmp_path / "made", preprocess=PREPROCESS, labels=["a", "b"], formats=["torch"], **told)
    compiled = open_model(tmp_path / "made", engine="torch-compiled")
    for count in (1, 3):
        wanted = logits(net, PIXELS[:count])
        assert np.abs(compiled.predict(PIXELS[:count]) - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_a_net_that_cannot_be_compiled_says_so(made, monkeypatch):
    def failing(*_, **__):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **_: setattr(module, "forward", failing))
    with pytest.raises(UsageError, match=r"torch cannot compile the net here \(.*no compiler.*the engine torch can"):
        open_model(made, engine="torch-compiled")


def test_tensors_of_another_net_are_refused(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "copy")
    tensors, _ = read_tensors(folder / "f32.safetensors")
    write_tensors(folder / "f32.safetensors", {"head.weight": tensors["head.weight"]}, {"kind": "net"})
    card = json.loads((folder / "card.json").read_text())
    card["graphs"]["torch"]["f32"]["files"]["f32.safetensors"] = described(folder / "f32.safetensors")
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(ArtefactError, match="f32.safetensors: does not fit .*Export the artefact again"):
        open_model(folder, engine="torch")


def described(path):
    import hashlib

    held = path.read_bytes()
    return {"bytes": len(held), "sha256": hashlib.sha256(held).hexdigest()}


FORKED = """
import os, sys
import numpy as np
import torch
from anabranch.errors import UsageError
from anabranch.runtimes import open_model

torch.set_num_threads(2)
model = open_model(sys.argv[1], engine="torch")
pixels = np.zeros((3, 33, 33, 3), np.uint8)
if sys.argv[2] == "asked before":
    model.predict(pixels)
if sys.argv[2] == "another asked before":
    open_model(sys.argv[1], engine="torch").predict(pixels)
child = os.fork()
if not child:
    try:
        print(model.predict(pixels).shape)
    except UsageError as error:
        print(error)
    sys.stdout.flush()
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize(
    ("before", "told"), [("asked before", "by spawn"), ("another asked before", "by spawn"), ("not yet", "(3, 5)")]
)
def test_a_forked_process_says_that_the_threads_stayed_behind_rather_than_waiting(before, told, made):
    done = subprocess.run(
        [sys.executable, "-c", FORKED, made, before], capture_output=True, text=True, check=True, timeout=120
    )
    assert told in done.stdout
