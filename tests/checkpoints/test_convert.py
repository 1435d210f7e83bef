from __future__ import annotations

import pickle
import pickletools

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from anabranch.checkpoints.convert import convert
from anabranch.errors import CheckpointError, UsageError, WeightsMismatch
from anabranch.nets.load import load_trained


def same(met, wanted) -> None:
    assert met.keys() == wanted.keys()
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(np.asarray(met[name]), np.asarray(tensor))


def test_a_timm_file_becomes_an_mmpretrain_file(tmp_path, saved, spelled):
    done = convert(saved("resnet18d", "timm"), tmp_path / "mm.pth", to="mmpretrain")
    assert (done.dialect, done.num_tensors) == ("mmpretrain", len(spelled("resnet18d", "timm")))
    same(torch.load(tmp_path / "mm.pth"), spelled("resnet18d", "mmpretrain"))


def test_a_paddle_file_becomes_one_again(tmp_path, saved, spelled):
    convert(saved("seresnet18d_paddle", "paddleclas"), tmp_path / "again.pdparams", to="paddleclas")
    written = (tmp_path / "again.pdparams").read_bytes()
    same(pickle.loads(written), spelled("seresnet18d_paddle", "paddleclas"))
    modules = {said for _, said, _ in pickletools.genops(written) if isinstance(said, str) and "numpy" in said}
    assert modules == {"numpy", "numpy.core.multiarray"}  # NumPy 1, which PaddleClas pins, has no numpy._core


def test_a_safetensors_file_is_one_that_torchs_friends_read(tmp_path, saved, spelled):
    convert(saved("resnet18", "timm"), tmp_path / "out.safetensors", to="torchvision")
    same(load_file(tmp_path / "out.safetensors"), spelled("resnet18", "timm"))


def test_a_net_that_the_other_zoo_computes_differently_is_not_converted(tmp_path, saved):
    with pytest.raises(WeightsMismatch, match="timm does not compute seresnet18d_paddle"):
        convert(saved("seresnet18d_paddle", "paddleclas"), tmp_path / "out.pth", to="timm")
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize(
    ("out", "to", "reason"),
    [
        ("out.pdparams", "timm", "read by Paddle"),
        ("out.onnx", "timm", "files end in .safetensors, .pth"),
        ("out.pth", "anabranch", "own checkpoints are .safetensors"),
    ],
)
def test_a_kind_of_file_that_does_not_go_with_the_dialect_is_refused(tmp_path, saved, out, to, reason):
    with pytest.raises(UsageError, match=reason):
        convert(saved("resnet18", "timm"), tmp_path / out, to=to)


def test_what_is_there_is_not_written_over(tmp_path, saved):
    source = saved("resnet18", "timm")
    (tmp_path / "there.pth").write_bytes(b"mine")
    with pytest.raises(UsageError, match="is there already"):
        convert(source, tmp_path / "there.pth", to="timm")
    assert (tmp_path / "there.pth").read_bytes() == b"mine"
    with pytest.raises(UsageError, match="is there already"):
        convert(source, source, to="timm", overwrite=True)


def test_a_failed_conversion_leaves_nothing_behind(tmp_path):
    (tmp_path / "broken.pth").write_bytes(b"PK\x03\x04 nothing more")
    with pytest.raises(CheckpointError):
        convert(tmp_path / "broken.pth", tmp_path / "out.pth", to="timm")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.pth"]


def test_our_own_file_gets_the_input_and_the_classes_of_the_weights_it_is_like(tmp_path, saved):
    source = saved("resnet18", "timm")
    with pytest.raises(UsageError, match="no published weights have its hash"):
        convert(source, tmp_path / "ours.safetensors", to="anabranch")
    convert(source, tmp_path / "ours.safetensors", to="anabranch", like="resnet18.gluon_in1k")
    trained = load_trained(tmp_path / "ours.safetensors")
    assert (trained.name, trained.licence, trained.preprocess.resampler) == (
        "resnet18.gluon_in1k", "Apache-2.0", "pillow-bicubic")  # fmt: skip
    assert trained.class_names[0] == "tench"
