"""Each rule against its formula, written out; the rate's course at its landmarks."""

import math

import pytest
import torch

from trainer.optimise import make_optimiser, rate_factor
from trainer.recipe import Optimiser


def two_steps(**spec):
    """A weight of 1 after two steps along the gradients 0.5 and -0.2."""
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    optimiser = make_optimiser(Optimiser(**spec), [{"params": [weight], "weight_decay": spec["weight_decay"]}], 16)
    for gradient in (0.5, -0.2):
        weight.grad = torch.tensor([gradient])
        optimiser.step()
    return float(weight.detach())


def adam(w, rate, l2=0.0, decay=0.0):
    m = v = 0.0
    for t, g in enumerate((0.5, -0.2), start=1):
        w -= rate * decay * w
        g += l2 * w
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w -= rate * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return w


def adadelta(w, rate):
    square = delta = 0.0
    for g in (0.5, -0.2):
        square = 0.9 * square + 0.1 * g * g
        step = math.sqrt(delta + 1e-6) / math.sqrt(square + 1e-6) * g
        delta = 0.9 * delta + 0.1 * step * step
        w -= rate * step
    return w


def rmsprop(w, rate):
    square = 0.0
    for g in (0.5, -0.2):
        square = 0.99 * square + 0.01 * g * g
        w -= rate * g / (math.sqrt(square) + 1e-8)
    return w


CASES = [
    ("sgd", 0.0, 1 - 0.1 * 0.5 + 0.1 * 0.2),
    ("sgd", 0.1, (1 - 0.1 * (0.5 + 0.1)) - 0.1 * (-0.2 + 0.1 * (1 - 0.1 * 0.6))),  # L2 adds decay * w to the gradient
    ("momentum", 0.0, 1 - 0.1 * 0.5 - 0.1 * (0.9 * 0.5 - 0.2)),
    ("adagrad", 0.0, 1 - 0.1 * 0.5 / 0.5 + 0.1 * 0.2 / math.sqrt(0.29)),
    ("adadelta", 0.0, adadelta(1.0, 0.1)),
    ("rmsprop", 0.0, rmsprop(1.0, 0.1)),
    ("adam", 0.0, adam(1.0, 0.1)),
    ("adam", 0.1, adam(1.0, 0.1, l2=0.1)),
    ("adamw", 0.1, adam(1.0, 0.1, decay=0.1)),
]


@pytest.mark.parametrize(("kind", "decay", "expected"), CASES)
def test_rules_follow_their_formulae(kind, decay, expected):
    assert two_steps(kind=kind, rate=0.1, weight_decay=decay) == pytest.approx(expected, abs=1e-5)


def test_the_rate_scales_with_the_batch():
    for reference, batch, expected in ((0, 64, 0.1), (16, 64, 0.4), (32, 16, 0.05)):
        groups = [{"params": [torch.nn.Parameter(torch.zeros(1))]}]
        made = make_optimiser(Optimiser(rate=0.1, reference_batch=reference), groups, batch)
        assert made.param_groups[0]["lr"] == pytest.approx(expected)


def test_warm_up_is_linear():
    spec = Optimiser(warm_up=4)
    assert [rate_factor(spec, s, 100) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("course", "step", "expected"),
    [
        ("cosine", 0, 1.0), ("cosine", 100, 0.5), ("cosine", 200, 0.0),
        ("constant", 200, 1.0),
        ("steps", 149, 1.0), ("steps", 150, 0.1), ("steps", 169, 0.1), ("steps", 170, 0.01),  # Yang et al. 2017
        ("geometric", 0, 1.0), ("geometric", 100, math.sqrt(0.025)), ("geometric", 200, 0.025),  # 1e-3 to 2.5e-5
    ],
)  # fmt: skip
def test_courses(course, step, expected):
    assert rate_factor(Optimiser(course=course, warm_up=0), step, 200) == pytest.approx(expected)


def test_a_course_begins_after_the_warm_up():
    assert rate_factor(Optimiser(course="cosine", warm_up=100), 200, 300) == pytest.approx(0.5)
