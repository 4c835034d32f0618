"""Weights between those of two runs, of which the second went on from the first (Wortsman et al. 2022, WiSE-FT).

Who learns on gains where it learns and may lose what it knew. Between the two ends often lie networks that have most of
the gain at little of the loss, and at no cost when they run.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import torch

from edgepose.errors import EdgeposeError
from edgepose.files import real_path, write_beside
from trainer.fit import FREE, PoseModule, load_best
from trainer.recipe import Model


def blend(first: Path, second: Path, share: float, out: Path) -> None:
    """Write (1 - a) theta_1 + a theta_2, a being ``share`` (section 3, weight-space ensembling), as a checkpoint.

    It has the second's recipe. theta are the best weights, with the statistics of batch norms, which are mixed like
    them and not taken anew; nothing can be resumed from it. EdgeposeError: a checkpoint that cannot be read, two of
    different networks, no share, or ``out`` is one of the two.
    """
    if real_path(str(out)) in (real_path(str(first)), real_path(str(second))):
        raise EdgeposeError(f"{out} would be written over, and a run that can be resumed be lost; name another file")
    if not 0 <= share <= 1:
        raise EdgeposeError(f"share {share} is no number from 0 to 1; give one")
    (before, earlier), (recipe, later) = load_best(first), load_best(second)
    old, new = earlier.state_dict(), later.state_dict()
    keys = [k for k in Model.model_fields if k not in FREE and getattr(before.model, k) != getattr(recipe.model, k)]
    keys += [] if before.skeleton == recipe.skeleton else ["skeleton"]
    if {k: v.shape for k, v in old.items()} != {k: v.shape for k, v in new.items()}:
        keys = keys or ["input size"]  # of preprocessing that is a picture
    if keys:
        raise EdgeposeError(f"{first} and {second} are of different networks ({', '.join(keys)}); blend two of which "
                            "one began with the other")  # fmt: skip
    mixed = {k: torch.lerp(old[k], v, share) if v.is_floating_point() else v for k, v in new.items()}
    module = PoseModule(recipe)
    module.model.load_state_dict(mixed)
    module.begin_average()
    content = BytesIO()  # on a full disk torch would raise something of its own
    torch.save({"recipe": recipe.model_dump(mode="json"), "state_dict": module.state_dict()}, content)
    with write_beside(out) as beside:
        beside.write_bytes(content.getbuffer())
