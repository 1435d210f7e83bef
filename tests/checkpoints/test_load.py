from __future__ import annotations

import pytest
import torch

from anabranch.checkpoints.load import load
from anabranch.errors import UsageError, WeightsMismatch

PICTURES = torch.randn(2, 3, 65, 71, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "told"),
    [("resnet18", "timm"), ("resnet18d", "mmpretrain"), ("legacy_seresnet18", "legacy"),
     ("seresnet18d_paddle", "paddleclas")],
)  # fmt: skip
@torch.inference_mode()
def test_a_loaded_net_answers_as_the_one_that_was_saved(name, told, saved, small_net):
    torch.testing.assert_close(load(saved(name, told))(PICTURES), small_net(name)(PICTURES), rtol=0, atol=0)


def test_another_number_of_classes_is_refused_unless_the_head_is_dropped(saved):
    with pytest.raises(UsageError, match="knows 1000 classes, not 5; .* drop the head"):
        load(saved("resnet18", "timm"), num_classes=5)


@torch.inference_mode()
def test_with_the_head_dropped_all_but_the_classifier_is_the_files(saved, small_net):
    net = load(saved("resnet18", "timm"), num_classes=5, head="drop")
    assert net(PICTURES).shape == (2, 5)
    torch.testing.assert_close(net.embed(PICTURES), small_net("resnet18").embed(PICTURES), rtol=0, atol=0)


def test_a_file_of_another_net_than_was_asked_for_is_refused(saved):
    with pytest.raises(WeightsMismatch, match="does not fit resnet34 as timm spells it: .* missing"):
        load(saved("resnet18", "timm"), architecture="resnet34")


def test_a_dialect_that_was_asked_for_is_held_to(saved):
    with pytest.raises(WeightsMismatch, match="as mmpretrain spells it"):
        load(saved("resnet18", "timm"), architecture="resnet18", told="mmpretrain")


@torch.inference_mode()
def test_half_precision_is_read_into_single(tmp_path, spelled):
    path = tmp_path / "half.pth"
    torch.save({key: tensor.half() if tensor.is_floating_point() else tensor
                for key, tensor in spelled("resnet18", "timm").items()}, path)  # fmt: skip
    assert load(path)(PICTURES).dtype == torch.float32


def test_a_loaded_net_can_be_trained(saved):
    net = load(saved("resnet18", "timm")).train()
    net(PICTURES).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
