import pytest
import torch

from edgepose.heatmaps import Decoder
from trainer.targets import gaussians, heatmap_loss


def test_targets_and_decoder_share_one_convention():
    """Decoding a target gives the joint back: no half-pixel bias between training and running."""
    joints = torch.rand(3, 5, 2, generator=torch.Generator().manual_seed(0)) * 100 + 14
    target = gaussians(joints, 32, 4, 1.5)
    decoded = Decoder(5, (32, 32), method="dark")(target.numpy()).xy
    assert abs(decoded * 4 + 1.5 - joints.numpy()).max() < 0.1


def test_target_values():
    target = gaussians(torch.tensor([[[1.5, 5.5]]]), 8, 4, 2.0)  # the centre of cell (0, 1)
    assert target[0, 0, 1, 0] == 1
    assert target[0, 0, 1, 2] == pytest.approx(float(torch.exp(torch.tensor(-0.5))))
    outside = gaussians(torch.tensor([[[-100.0, 5.0]]]), 8, 4, 1.0)
    assert outside.max() < 1e-6


def test_loss_by_hand():
    target = torch.zeros(1, 2, 2, 2)
    target[0, 0, 0, 0] = 1
    predicted = torch.zeros(1, 2, 2, 2)
    predicted[0, 1] = 7  # unlabelled: does not count
    labelled = torch.tensor([[1.0, 0.0]])
    assert heatmap_loss(predicted, target, labelled, foreground=3) == pytest.approx((1 + 3) / 4)
    assert heatmap_loss(target, target, labelled, 25) == 0
    assert heatmap_loss(predicted, target, torch.zeros(1, 2), 25) == 0  # nobody labelled: no division by nought
