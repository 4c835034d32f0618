from functools import partial

import pytest
import torch

from trainer.models.blocks import Residual
from trainer.models.compact import FoldingConv, depthwise, fold, narrow, reparam
from trainer.models.hourglass import Parts, StackedHourglass


@pytest.mark.parametrize("order", ["pre", "post"])
@pytest.mark.parametrize(("stacks", "depth", "size"), [(1, 4, 64), (3, 2, 96)])
def test_every_stack_gives_heatmaps_at_stride_four(order, stacks, depth, size):
    model = StackedHourglass(
        16, width=16, depth=depth, stacks=stacks, parts=Parts(block=partial(Residual, order=order))
    )
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


@pytest.mark.parametrize("block", [narrow, depthwise, reparam])
def test_compact_blocks_compose_into_hourglasses(block):
    model = StackedHourglass(4, width=16, depth=2, stacks=2, parts=Parts(block=block))
    outputs = model(torch.rand(2, 3, 32, 32) * 255)
    assert [tuple(o.shape) for o in outputs] == [(2, 4, 8, 8)] * 2
    torch.stack(outputs).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_narrow_and_depthwise_are_smaller():
    def size(block):
        return sum(
            p.numel() for p in StackedHourglass(16, width=64, depth=4, stacks=1, parts=Parts(block=block)).parameters()
        )

    assert size(narrow) < 0.6 * size(Residual)
    assert size(depthwise) < size(Residual)


def test_folding_changes_nothing_but_the_number_of_convolutions():
    torch.manual_seed(0)
    model = StackedHourglass(4, width=16, depth=2, stacks=1, parts=Parts(block=reparam))
    for _ in range(3):  # so that batch norms have statistics of their own
        model(torch.rand(4, 3, 32, 32) * 255)
    model.eval()
    folded = fold(model)
    assert any(isinstance(m, FoldingConv) for m in model.modules())
    assert not any(isinstance(m, FoldingConv) for m in folded.modules())
    image = torch.rand(2, 3, 32, 32) * 255
    with torch.no_grad():
        before, after = model(image)[-1], folded(image)[-1]
    assert (before - after).abs().max() < 1e-4 * before.abs().max()
