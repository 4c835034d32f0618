"""Update rules, and how the learning rate moves through a run.

Rules as in Ponti et al. 2017 (section on optimisation): SGD, momentum, AdaGrad, AdaDelta, Adam, and AdamW
(Loshchilov & Hutter 2019), RMSprop as in Newell et al. 2016. The rate warms up linearly and then follows a course:
cosine to zero; steps (Yang et al. 2017: a tenth at 150 and at 170 of 200 epochs); geometric between two rates
(Bulat & Tzimiropoulos 2016: 1e-3 to 2.5e-5); or constant.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from trainer.recipe import Optimiser


def make_optimiser(spec: Optimiser, groups: list[dict[str, Any]], batch: int) -> torch.optim.Optimizer:
    """The rule over parameter ``groups``, its rate scaled linearly to ``batch`` images a step.

    rate * batch / reference_batch, the linear scaling rule of Goyal et al. 2017 (section 2.1).
    """
    rate = spec.rate * (batch / spec.reference_batch if spec.reference_batch else 1.0)
    if spec.kind in ("sgd", "momentum"):
        return torch.optim.SGD(groups, lr=rate, momentum=spec.momentum if spec.kind == "momentum" else 0.0)
    rules: dict[str, Any] = {
        "adagrad": torch.optim.Adagrad,
        "adadelta": torch.optim.Adadelta,
        "rmsprop": torch.optim.RMSprop,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
    }
    optimiser: torch.optim.Optimizer = rules[spec.kind](groups, lr=rate)
    return optimiser


def rate_factor(spec: Optimiser, step: int, total: int) -> float:
    """What the rate is multiplied by at ``step`` (from 0) of ``total``."""
    if step < spec.warm_up:
        return (step + 1) / spec.warm_up
    done = min((step - spec.warm_up) / max(total - spec.warm_up, 1), 1.0)
    if spec.course == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if spec.course == "steps":
        passed = sum(step >= drop * total for drop in spec.drops)
        return float(spec.drop_factor**passed)
    if spec.course == "geometric":
        return float(spec.final**done)
    return 1.0
