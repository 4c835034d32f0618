import pytest
import torch

from trainer.models.blocks import Residual
from trainer.models.hourglass import StackedHourglass


@pytest.mark.parametrize("order", ["pre", "post"])
@pytest.mark.parametrize(("stacks", "depth", "size"), [(1, 4, 64), (3, 2, 96)])
def test_every_stack_gives_heatmaps_at_stride_four(order, stacks, depth, size):
    model = StackedHourglass(16, width=16, depth=depth, stacks=stacks, order=order)
    outputs = model(torch.rand(2, 3, size, size) * 255)
    assert [tuple(o.shape) for o in outputs] == [(2, 16, size // 4, size // 4)] * stacks


def test_gradients_reach_every_parameter_of_every_stack():
    model = StackedHourglass(4, width=16, depth=2, stacks=3)
    outputs = model(torch.rand(2, 3, 32, 32) * 255)
    outputs[-1].square().mean().backward()  # through re-injection alone: only the last stack is asked
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # heads of earlier stacks are reached through their heatmap injection
    assert not silent


def test_the_published_eight_stack_network_has_its_published_size():
    """25.1-25.6 M parameters are published for 8 stacks of 256 channels; ours is within 5 %."""
    with torch.device("meta"):
        model = StackedHourglass(16, width=256, depth=4, stacks=8)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert 25.1 * 0.95 < millions < 25.6 * 1.05


def test_residual_is_identity_plus_branch():
    block = Residual(8, 8, "pre").eval()
    for parameter in block.branch[-1][-1].parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.randn(1, 8, 4, 4)
    assert torch.equal(block(x), x)


def test_normalisation_is_part_of_the_network():
    model = StackedHourglass(4, width=16, depth=1, stacks=1)
    grey = torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    assert model.normalise(grey).abs().max() < 1e-5
