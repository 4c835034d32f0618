"""One page that shows what goes on in a model."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgepose.errors import EdgeposeError, unknown
from edgepose.estimator import Estimator
from edgepose.files import write_beside
from edgepose.skeletons import Skeleton
from trainer.data.module import select
from trainer.data.splits import SPLITS
from trainer.engine import TorchEngine, manual_of
from trainer.evaluate import open_estimator
from trainer.explain import layers as paths
from trainer.explain import tiles
from trainer.explain.occlusion import defaults
from trainer.explain.patches import strongest
from trainer.explain.sheets import (
    Sheet,
    attention_sheet,
    heatmap_sheet,
    occlusion_sheet,
    outputs_sheet,
    patch_sheet,
    projection_sheet,
)
from trainer.explain.views import View, crops, view
from trainer.fit import load_best
from trainer.grid import evenly, write_picture
from trainer.progress import progress
from trainer.recipe import DataSet

_ONLY_CHECKPOINT = (
    "This model is a bundle: projections to pixels, strongest patches and attention need the network itself; "
    "give its checkpoint (.ckpt) to see them."
)


def explain(
    model: str,
    data: str,
    out: Path,
    *,
    root: Path | None = None,
    split: str = "all",
    count: int = 6,
    layers: list[str] | None = None,
    joints: list[str] | None = None,
    channels: int = 8,
    patch_images: int = 200,
    square: int = 0,
    step: int = 0,
) -> Path:
    """Look into ``model`` (checkpoint or bundle) with persons of ``data`` and write ``out``: .html or .png.

    ``count`` persons are shown, evenly drawn; ``patch_images`` are searched for what excites ``channels`` channels of
    each of ``layers`` (module paths; default: a few). ``joints``: those that are projected and occluded (default: the
    body's ends). ``square``, ``step``: of the occlusion, pixels of the crop; 0: a sixth and a sixteenth of it.
    EdgeposeError: bad model or data, unknown layer, joint, split or suffix, a number that is out of range, layers asked
    of a bundle.
    """
    if out.suffix not in (".html", ".png"):
        raise EdgeposeError(f"{out}: a report ends in .html (one page) or .png (one tall picture)")
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    for what, number in (("count", count), ("channels", channels), ("patch_images", patch_images)):
        if number < 1:
            raise EdgeposeError(f"{what} {number} shows nothing; give 1 or more")
    estimator, network = _open(model)
    if network is None and layers:
        raise EdgeposeError(
            f"layers of {model} cannot be shown: a bundle has none by name; give its checkpoint (.ckpt)"
        )
    skeleton = estimator.skeleton
    for joint in joints or []:
        skeleton.index(joint)
    width, height = estimator.manual.input_size
    defaults((width, height), square, step)
    if network is not None and layers:  # before minutes are spent on the rest
        with torch.no_grad():
            paths.run(network, torch.zeros(1, 3, height, width), layers)
    persons = select(DataSet.model_validate({"data": data, "split": split}), skeleton, root).persons
    shown = [persons[i] for i in evenly(len(persons), count)]
    views = [view(estimator, p) for p in progress(shown, len(shown), "heatmaps")]
    chosen = joints or ends(skeleton)
    sheets = [
        heatmap_sheet(views, skeleton),
        occlusion_sheet(estimator.engine, views, skeleton, chosen, square=square, step=step),
    ]
    if network is not None:
        searched = [persons[i] for i in evenly(len(persons), patch_images)]
        asked = layers or paths.default_layers(network)
        sheets += _inside(network, views, skeleton, chosen)
        sheets += _excited(network, crops(estimator.manual, searched), asked, channels)
    intro = f"{Path(model).name} on {data}, split {split}: {len(views)} of {len(persons)} persons are shown."
    note = "" if network is not None else _ONLY_CHECKPOINT
    (_html if out.suffix == ".html" else _png)(out, f"Inside {estimator.manual.name}", [intro, note], sheets)
    return out


def ends(skeleton: Skeleton) -> list[str]:
    """The joints at which only one limb ends: head, wrists, ankles."""
    limbs = [joint for limb in skeleton.limbs for joint in limb]
    return [j for j in skeleton.joints if limbs.count(j) == 1]


def _open(model: str) -> tuple[Estimator, nn.Module | None]:
    if not model.endswith(".ckpt"):
        return open_estimator(model), None
    recipe, network = load_best(Path(model))
    return Estimator(TorchEngine(network), manual_of(recipe)), network


def _inside(network: nn.Module, views: list[View], skeleton: Skeleton, joints: list[str]) -> list[Sheet]:
    made = [
        outputs_sheet(network, views),
        attention_sheet(network, views, skeleton),
        projection_sheet(network, views, skeleton, joints),
    ]
    return [sheet for sheet in made if sheet is not None]


def _excited(network: nn.Module, pictures: NDArray[np.uint8], layers: list[str], channels: int) -> list[Sheet]:
    found = strongest(network, pictures, layers)
    made = [patch_sheet(network, pictures, layer, found[layer], channels) for layer in layers]
    return [sheet for sheet in made if sheet is not None]


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1240px; margin: 2em auto; padding: 0 1em; color: #222 }
p { max-width: 46em } img { max-width: 100%; display: block } section { margin: 3em 0 }
"""


def _html(out: Path, title: str, intro: list[str], sheets: list[Sheet]) -> None:
    """Everything in one file: the pictures are inside as base64."""
    sections = []
    for sheet in sheets:
        png = base64.b64encode(cv2.imencode(".png", sheet.picture)[1].tobytes()).decode()
        sections.append(
            f"<section><h2>{escape(sheet.title)}</h2><p>{escape(sheet.caption)}</p>"
            f'<img alt="{escape(sheet.title)}" src="data:image/png;base64,{png}"></section>'
        )
    paragraphs = "".join(f"<p>{escape(text)}</p>" for text in intro if text)
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{paragraphs}{''.join(sections)}</body></html>\n"
    )
    with write_beside(out) as beside:
        beside.write_text(page, encoding="utf-8")


def _png(out: Path, title: str, intro: list[str], sheets: list[Sheet]) -> None:
    """One picture, the sheets below each other."""
    width = max(sheet.picture.shape[1] for sheet in sheets)
    parts: list[tiles.BGR] = [
        tiles.paragraph(title, width, 0.9),
        *(tiles.paragraph(text, width) for text in intro if text),
    ]
    for sheet in sheets:
        parts += [tiles.paragraph(sheet.title, width, 0.7), tiles.paragraph(sheet.caption, width)]
        page = np.full((sheet.picture.shape[0] + 30, width, 3), tiles.PAPER, dtype=np.uint8)
        page[: sheet.picture.shape[0], : sheet.picture.shape[1]] = sheet.picture
        parts.append(page)
    write_picture(np.vstack(parts), out)
