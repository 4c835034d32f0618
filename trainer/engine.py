"""A torch network as an edgepose engine, so that checkpoints are evaluated by the loop's own code."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgepose.bundle import Decode, Manual
from edgepose.errors import EdgeposeError
from trainer.recipe import Recipe


class TorchEngine:
    """Runs the last output of ``model`` on whatever device it lives on, in float32."""

    name = "torch"
    precision = "float32"

    def __init__(self, model: nn.Module, threads: int = 0) -> None:
        """On ``threads`` CPU threads, as all of torch from then on; 0: torch's choice."""
        self._model = model
        if threads:
            torch.set_num_threads(threads)

    def infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """See :class:`edgepose.engines.Engine`."""
        device = next(self._model.parameters()).device
        training = self._model.training
        self._model.eval()
        with torch.inference_mode():
            batch = torch.from_numpy(images).to(device).contiguous(memory_format=torch.channels_last)
            heatmaps: NDArray[np.float32] = self._model(batch)[-1].float().cpu().numpy()
        self._model.train(training)
        return heatmaps

    def close(self) -> None:
        """Nothing is held."""


def refuse_engine(model: str, engine: str) -> None:
    """EdgeposeError where a checkpoint is to run on another engine than torch."""
    if engine not in ("", "auto", "torch"):
        raise EdgeposeError(f"{model}: a checkpoint runs on torch; export it to run it on {engine}")


def manual_of(recipe: Recipe) -> Manual:
    """The manual of the network that ``recipe`` makes, before anything was measured."""
    size = recipe.input_size
    # DARK smooths with the targets' own width (Zhang et al. 2020, sec. 3.1); half of it loses less detail here.
    sigma = recipe.stages[-1].sigma or recipe.target.sigma
    return Manual(
        name=recipe.name,
        skeleton=recipe.skeleton,
        input_size=(size, size),
        stride=4,
        padding=recipe.padding,
        decode=Decode.model_validate(
            {"method": recipe.decode, "blur_sigma": max(sigma / 2, 0.5), "mirror_ratio": recipe.mirror_ratio}
        ),
        recipe=recipe.model_dump(mode="json"),
    )
