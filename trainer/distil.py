"""Distillation: a student learns a teacher's heatmaps beside the labels (Zhang, Zhu & Ye 2019, section 3.2).

The pose distillation loss is the squared error between the student's and the teacher's heatmaps; with weight alpha
it joins the loss on the labels: L = alpha L_pd + (1 - alpha) L_mse. Images without labels have the first part alone.
Both parts weight the foreground as the recipe's target does, which the paper does not.
Soft targets carry what labels lack: which joints are doubtful, and where else they might be (Hinton et al. 2015).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgepose import bundle as bundles
from edgepose import engines
from edgepose.errors import EdgeposeError
from trainer.recipe import Recipe


class Teacher:
    """A bundle on an edgepose engine; it is given the student's own augmented crops."""

    def __init__(self, recipe: Recipe, threads: int = 0) -> None:
        """EdgeposeError: the recipe's teacher is not a bundle, or of another skeleton."""
        assert recipe.distillation is not None
        self._bundle = bundles.load(recipe.distillation.teacher, role="pose")
        manual = self._bundle.manual
        if manual.skeleton != recipe.skeleton:
            raise EdgeposeError(
                f"distillation.teacher: {manual.name} speaks of skeleton {manual.skeleton}, the recipe of "
                f"{recipe.skeleton}; choose a teacher with the recipe's skeleton"
            )
        # Half precision does for a teacher, and OpenVINO is twice as fast in it where the CPU has it.
        half = recipe.precision == "bfloat16" and engines.available()[:1] == ["openvino"]
        options = engines.Options(threads=threads, precision="bfloat16" if half else "auto")
        self._engine = engines.load(self._bundle, options=options)
        self._mirrored = recipe.distillation.mirrored
        self._order = torch.from_numpy(self._bundle.skeleton.mirror)

    @property
    def sha256(self) -> str:
        """Of its file."""
        return self._bundle.sha256

    @torch.no_grad()
    def __call__(self, image: Tensor, size: int) -> Tensor:
        """Heatmaps [N, K, size, size] for ``image`` [N, 3, S, S], RGB 0..255.

        Both are resized between the two networks' sizes; pixel and cell centres agree, since every stride is 4.
        """
        width, height = self._bundle.manual.input_size
        view = functional.interpolate(image, (height, width), mode="bilinear", antialias=True)
        heatmaps = self._answer(view)
        if self._mirrored:  # as test-time flip does: where it takes left for right, it does so in one of the two
            heatmaps = (heatmaps + self._answer(view.flip(3))[:, self._order].flip(3)) / 2
        return functional.interpolate(heatmaps.to(image.device), (size, size), mode="bilinear")

    def _answer(self, view: Tensor) -> Tensor:
        """Heatmaps [N, K, h, w] for crops [N, 3, H, W] of the teacher's own size, in memory of their own."""
        return torch.from_numpy(self._engine.infer(np.ascontiguousarray(view.cpu().numpy())).copy())
