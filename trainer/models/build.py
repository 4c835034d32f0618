"""Recipe -> network."""

from __future__ import annotations

from functools import partial
from typing import cast

from edgepose import skeletons
from trainer.models.blocks import Block, Residual, compact_stem, newell_stem
from trainer.models.cascade import Cascade
from trainer.models.compact import depthwise, narrow, reparam
from trainer.models.compositional import Compositional
from trainer.models.hourglass import Parts, StackedHourglass, Stem
from trainer.models.initialise import initialise
from trainer.models.mobile import Mobile
from trainer.models.nested import HourglassResidual
from trainer.models.network import Network
from trainer.models.norms import with_norm
from trainer.models.preprocess import preprocessing
from trainer.models.pyramid import PyramidKind, PyramidResidual
from trainer.parts import composition_of
from trainer.recipe import Model, Recipe


def block_of(model: Model) -> Block:
    """What the hourglass is made of: (inputs, outputs) -> module."""
    if model.block.startswith("prm"):
        return _pyramid(model, conv_skip=False)
    blocks: dict[str, Block] = {
        "residual": partial(Residual, order=model.order),
        "hru": partial(HourglassResidual, order=model.order),
        "narrow": narrow,
        "depthwise": depthwise,
        "reparam": reparam,
    }
    return blocks[model.block]


def _pyramid(model: Model, *, conv_skip: bool) -> Block:
    kind = cast(PyramidKind, model.block)
    return partial(PyramidResidual, kind=kind, pyramid=model.pyramid, conv_skip=conv_skip)


def stem_of(model: Model) -> Stem:
    """What leads from the image to stride 4: (width, block, channels of the image) -> module."""
    if model.stem == "mobile":
        return lambda width, block, inputs: Mobile(width, model.multiplier, model.frozen, inputs, shallow=model.shallow)
    return compact_stem if model.stem == "compact" else newell_stem


def parts_of(model: Model, size: int) -> Parts:
    """The recipe's choice of parts; ``size`` is the exported input size."""
    return Parts(
        block=block_of(model),
        side=partial(HourglassResidual, order=model.order) if model.side == "hru" else None,
        rise=_pyramid(model, conv_skip=True) if model.block.startswith("prm") else None,
        stem=stem_of(model),
        normalise=partial(preprocessing, model.preprocessing, size),
        attention=model.attention,
        dropout=model.dropout,
    )


def build(recipe: Recipe) -> Network:
    """The recipe's network with freshly initialised weights (from torch's global random state)."""
    model, skeleton = recipe.model, skeletons.get(recipe.skeleton)
    parts, joints = parts_of(model, recipe.input_size), len(skeleton)
    network: StackedHourglass | Cascade
    if model.kind == "cascade":
        network = Cascade(joints, width=model.width, depth=model.depth, stacks=model.stacks, parts=parts)
    elif model.kind == "compositional":
        network = Compositional(
            joints,
            composition_of(skeleton),
            width=model.width,
            depth=model.depth,
            levels=(model.stacks + 1) // 2,
            parts=parts,
        )
    else:
        network = StackedHourglass(
            joints, width=model.width, depth=model.depth, stacks=model.stacks, parts=parts, early=model.early
        )
    with_norm(network, model.norm)
    if model.initialisation != "he":
        initialise(network, model.initialisation)
    return network
