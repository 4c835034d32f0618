"""Projections and patches on networks that are small enough to work out by hand."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgepose import EdgeposeError
from trainer.explain.deconvnet import DeconvnetRule, project
from trainer.explain.layers import OUTPUT, default_layers, run
from trainer.explain.patches import patches, receptive_box, strongest
from trainer.models.build import build
from trainer.recipe import Recipe


def test_unpooling_puts_the_signal_where_the_maximum_was():
    maxima = {(0, 0): (1, 0), (0, 1): (0, 3), (1, 0): (3, 1), (1, 1): (2, 2)}  # unit -> pixel
    image = torch.zeros(1, 3, 4, 4)
    for value, pixel in enumerate(maxima.values()):
        image[(0, 1, *pixel)] = 5.0 + value
    network = nn.Sequential(nn.MaxPool2d(2, 2))
    for unit, pixel in maxima.items():
        expected = np.zeros((1, 3, 4, 4), np.float32)
        expected[(0, 1, *pixel)] = 1
        assert np.array_equal(project(network, image, "0", 1, at=np.array([unit])).pixels, expected)
    found = project(network, image, "0", 1)
    assert found.at.tolist() == [[1, 1]]  # the strongest
    assert found.activation.tolist() == [8.0]


def test_switches_lead_through_two_poolings():
    image = torch.zeros(1, 3, 8, 8)
    image[0, 2, 5, 6], image[0, 2, 4, 4], image[0, 2, 0, 0] = 9, 8, 7
    found = project(nn.Sequential(nn.MaxPool2d(2), nn.ReLU(), nn.MaxPool2d(2)), image, "2", 2).pixels
    assert np.argwhere(found).tolist() == [[0, 2, 5, 6]]


def test_one_convolution_projects_to_its_transposed_filter():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3, padding=1)
    found = project(nn.Sequential(conv), torch.rand(1, 3, 7, 7), "0", 2, at=np.array([[4, 1]])).pixels[0]
    expected = np.zeros((3, 7, 7), np.float32)
    expected[:, 3:6, 0:3] = conv.weight[2].detach().numpy()
    assert np.allclose(found, expected)


class Called(nn.Module):
    """A rectifier that is a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


RELUS = {
    "nn.ReLU": nn.ReLU,
    "nn.ReLU in place": partial(nn.ReLU, inplace=True),
    "torch.relu": partial(Called, torch.relu),
    "torch.relu_": partial(Called, torch.relu_),
    "F.relu": partial(Called, functional.relu),
    "F.relu in place": partial(Called, lambda x: functional.relu(input=x, inplace=True)),
    "F.relu_": partial(Called, functional.relu_),
    "Tensor.relu": partial(Called, lambda x: x.relu()),
    "Tensor.relu_": partial(Called, lambda x: x.relu_()),
}


@pytest.mark.parametrize("relu", RELUS.values(), ids=RELUS.keys())
def test_a_relu_rectifies_the_signal_from_above_and_not_its_own_input(relu):
    network = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), relu(), nn.Conv2d(3, 1, 1, bias=False))
    first, second = [[1.0, 1, 0], [-1, -1, 2], [2, 0, 1]], [2.0, 5, -1]
    network[0].weight.data = torch.tensor(first).view(3, 3, 1, 1)
    network[2].weight.data = torch.tensor(second).view(1, 3, 1, 1)
    image = torch.tensor([1.0, 2, 0]).view(1, 3, 1, 1)  # hidden 3, -3, 2: the second is silent
    assert project(network, image, "2", 0).activation.tolist() == [4.0]  # 2 * 3 - 1 * 2
    # The gradient drops the silent second: 2 * (1, 1, 0) - 1 * (2, 0, 1).
    assert project(network, image, "2", 0, rule="gradient").pixels.ravel().tolist() == [0, 2, -1]
    # The deconvnet drops the third, whose signal is -1, and keeps the second: 2 * (1, 1, 0) + 5 * (-1, -1, 2).
    assert project(network, image, "2", 0).pixels.ravel().tolist() == [-3, -3, 10]
    # A layer before a rectifier in place is seen as it was: with its negative value.
    assert project(network, image, "0", 1).activation.tolist() == [-3.0]


def hourglass(**model):
    torch.manual_seed(1)
    return build(Recipe.model_validate({
        "name": "small",
        "data": [{"data": "lsp:x"}],
        "model": {"width": 16, "depth": 2, "stacks": 2, **model},
        "stages": [{"images": 100, "size": 64}],
    }))  # fmt: skip


@pytest.mark.parametrize(
    ("block", "order"),
    [("residual", "pre"), ("residual", "post"), ("narrow", "post"), ("depthwise", "post"), ("reparam", "post")],
)
def test_under_the_rule_a_network_gives_the_same_heatmaps(block, order):
    network, images = hourglass(block=block, order=order).eval(), torch.rand(2, 3, 64, 64) * 255
    with torch.no_grad():
        plain = network(images)[-1]
        with DeconvnetRule():
            assert torch.equal(network(images)[-1], plain)
    found = project(network, images, OUTPUT, 3)
    assert np.allclose(found.activation, plain[:, 3].amax((1, 2)))
    assert np.isfinite(found.pixels).all()
    assert np.abs(found.pixels).reshape(2, -1).max(1).all()
    assert not np.allclose(found.pixels, project(network, images, OUTPUT, 3, rule="gradient").pixels)


def test_a_network_is_left_as_it_was():
    network = hourglass().train()
    network.stem.eval()
    network.stem[0][0].weight.requires_grad_(False)
    before = [m.training for m in network.modules()], [p.requires_grad for p in network.parameters()]
    state = {k: v.clone() for k, v in network.state_dict().items()}
    project(network, torch.rand(1, 3, 64, 64), "hourglasses.0.inner.side", 0)
    assert ([m.training for m in network.modules()], [p.requires_grad for p in network.parameters()]) == before
    assert all(torch.equal(state[k], v) for k, v in network.state_dict().items())  # no batch statistics either
    assert all(p.grad is None for p in network.parameters())
    assert not any(m._forward_hooks for m in network.modules())


@pytest.mark.parametrize(
    ("layer", "channel", "at", "message"),
    [
        ("hourglases.0", 0, None, "unknown layer 'hourglases.0'; did you mean 'hourglasses.0'?"),
        ("xyz", 0, None, "unknown layer 'xyz'; known: .*stem"),
        ("hourglasses", 0, None, "layer 'hourglasses' gives no feature maps; name one inside it, such as 'hourg"),
        ("stem", 16, None, "layer 'stem' has no channel 16; choose one of 0 to 15"),
        ("stem", 0, np.array([[0, 16]]), "layer 'stem' has 16 rows and 16 columns"),
    ],
)
def test_what_is_not_there_is_refused(layer, channel, at, message):
    with pytest.raises(EdgeposeError, match=message):
        project(hourglass(), torch.rand(1, 3, 64, 64), layer, channel, at=at)


def test_default_layers_go_from_the_first_filters_to_the_last_features():
    assert default_layers(hourglass()) == ["stem.0", "stem", "hourglasses.1.inner.inner", "features.1"]
    assert default_layers(nn.Sequential(nn.ReLU())) == []


def spots():
    """Twelve dark crops with one bright pixel each, brighter from crop to crop, and a network that finds them."""
    crops = np.zeros((12, 20, 20, 3), np.uint8)
    places = [(3 + n % 4 * 4, 2 + n) for n in range(11)] + [(0, 19)]
    for n, (crop, (row, col)) in enumerate(zip(crops, places, strict=True)):
        crop[row, col] = 100 + 10 * n
    conv = nn.Conv2d(3, 2, 3, padding=1, bias=False)
    conv.weight.data.fill_(0.01)
    conv.weight.data[:, :, 1, 1] = 1
    conv.weight.data[1] *= -1  # never fires
    return crops, places, nn.Sequential(conv, nn.ReLU(inplace=True))


def test_the_strongest_crops_are_kept_with_their_places():
    crops, places, network = spots()
    found = strongest(network, crops, ["0", "1"])
    assert set(found) == {"0", "1"}
    assert found["1"].at[:, 0].tolist() == [list(p) for p in places]
    assert np.allclose(found["1"].activation[:, 0], 3 * (100 + 10 * np.arange(12)), rtol=1e-4)
    assert found["1"].crops(0).tolist() == [11, 10, 9, 8, 7, 6, 5, 4, 3]
    assert found["1"].channels(5) == [0]  # the other one never fires
    assert patches(network, crops, "1", 1, found["1"]) == []


def test_a_patch_is_the_receptive_field_and_its_projection():
    crops, _, network = spots()
    made = patches(network, crops, "1", 0, strongest(network, crops, ["1"])["1"])
    assert [p.image.shape for p in made] == [(2, 2, 3)] + [(3, 3, 3)] * 8  # the first lies in the crop's corner
    kernel = np.full((3, 3), 0.01, np.float32)
    kernel[1, 1] = 1
    assert np.allclose(made[1].projection, kernel[..., None])
    assert made[1].image[1, 1].tolist() == [200] * 3
    assert made[1].image.sum() == 600
    assert np.allclose(made[0].projection, kernel[1:, :2, None])


def test_receptive_box_is_tight_and_whole_where_nothing_is_seen():
    signal = np.zeros((3, 9, 9), np.float32)
    assert receptive_box(signal) == (slice(0, 9), slice(0, 9))
    signal[0, 2, 5], signal[2, 4, 3] = -1, 1e-20
    assert receptive_box(signal) == (slice(2, 5), slice(3, 6))


def test_layers_are_seen_before_the_next_one_writes_over_them():
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(inplace=True))
    images = torch.rand(1, 3, 4, 4) - 0.5
    with torch.no_grad():
        assert torch.equal(run(network, images, ["0"])["0"], network[0](images))
