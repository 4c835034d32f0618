"""One self-contained page per calibration: the set, accuracy, costs by layer, joint and group, the worst crops."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.gate import Outcome
from calibration.graph import ranges
from calibration.judge import Answers, Judge
from calibration.verify import Comparison, compare_outcome
from edgepose.crops import apply, crop_affine
from edgepose.draw import draw_pose
from edgepose.errors import EdgeposeError
from edgepose.files import write_beside

_WORST, _TILE, _SHOWN = 8, 224, 40
_EXAMPLES, _SMALL = 10, 96  # crops of a cluster, and their side, pixels


def write(outcome: Outcome, path: Path, *, threads: int = 2, repeats: int = 50) -> None:
    """Write the page to ``path``, NAME.html; float and INT8 are timed for it, ``repeats`` turns of each."""
    if path.suffix != ".html":
        raise EdgeposeError(f"{path}: a report's file name ends in .html")
    compared = compare_outcome(outcome, repeats=repeats, threads=threads)
    about = outcome.chosen.about
    name = outcome.bundle.manual.name
    verdict = f"Over the budget: {outcome.fault}." if outcome.fault else "Within the budget."
    parts = [
        f"<h1>INT8 of {escape(name)}</h1><p><b>{escape(verdict)}</b> {escape(outcome.sentence())}.</p>",
        f"<p>Ranges by {escape(outcome.method)} from {len(outcome.chosen)} crops, chosen by {escape(about.method)} "
        f"(seed {about.seed}) from {about.pool} persons of {escape(', '.join(about.data))}. Float bundle sha256 "
        f"{outcome.bundle.sha256[:16]}, set sha256 {outcome.chosen.sha256[:16]}.</p>",
        _section("The calibration set", "Every crop that ranges were taken from, or as many as fit.",
                 _image(_grid([_bgr(c) for c in outcome.chosen.crops[:_SHOWN]], _EXAMPLES, _SMALL))),
        _section("Accuracy", "Against the labels, all sets together, in percent; the difference with its 95 % interval "
                 f"over {compared.scenes} scenes (paired bootstrap).", _accuracy(compared)),
        _section("Latency", f"One crop on {outcome.runs_on}, {compared.threads or 'all'} threads, in turns in one run.",
                 _latency(compared)),
        _section("By joint", f"Points of {outcome.judge.leading} that INT8 lost (below nought: gained).",
                 _bars(outcome.joints)),
    ]  # fmt: skip
    if outcome.activities:
        parts.append(_section("By activity", "A mean hides a group that broke. In brackets: persons.",
                              _bars(outcome.activities)))  # fmt: skip
    if outcome.clusters:
        parts.append(_section("By cluster of poses", "The judged persons by likeness of pose (k-means at the "
                              "hourglass's bottleneck), and some of each.",
                              _bars(outcome.clusters) + _image(_examples(outcome))))  # fmt: skip
    if outcome.ranked:
        parts.append(
            _section(
                "Layer by layer",
                "Each layer quantised alone: how far joints move (mean, head lengths), worst first. Kept in float: "
                + (", ".join(outcome.keep_float) or "none") + ".",
                _bars({s.layer: s.shift for s in outcome.ranked[:_SHOWN]}, "{:.4f}"),
            )
        )  # fmt: skip
    parts.append(
        _section(
            "Ranges", "Largest magnitude that each quantised tensor represents.", _bars(ranges(outcome.graph), "{:.3g}")
        )
    )
    parts.append(_section("Worst crops", "Float on the left, INT8 on the right: the persons whose joints moved most.",
                          _image(worst_crops(outcome.judge, outcome.float_, outcome.int8))))  # fmt: skip
    with write_beside(path) as beside:
        beside.write_text(_PAGE.replace("@TITLE@", escape(f"INT8 of {name}")).replace("@BODY@", "\n".join(parts)))


def worst_crops(judge: Judge, float_: Answers, int8: Answers, count: int = _WORST) -> NDArray[np.uint8]:
    """BGR picture: pairs of crops, float beside INT8, of the persons whose joints moved most."""
    moved = judge.shift(float_, int8)
    moved = np.where(np.isfinite(moved), moved, 0).max(axis=1)
    pairs = []
    for index in np.argsort(-moved)[:count]:
        affine = crop_affine(judge.persons[index].box, judge.manual.input_size, judge.manual.padding)
        for answers in (float_, int8):
            tile = _bgr(judge.crops[index])
            draw_pose(tile, apply(affine, answers.joints[index]), np.ones(len(judge.skeleton), bool), judge.skeleton, 1)
            pairs.append(tile)
    return _grid(pairs, 4, _TILE)


def _bgr(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(crop.transpose(1, 2, 0)[:, :, ::-1])


def _grid(tiles: list[NDArray[np.uint8]], columns: int, side: int) -> NDArray[np.uint8]:
    small = [np.asarray(cv2.resize(t, (side, side), interpolation=cv2.INTER_AREA), dtype=np.uint8) for t in tiles]
    small += [np.zeros_like(small[0])] * (-len(small) % columns)
    return np.vstack([np.hstack(small[i : i + columns]) for i in range(0, len(small), columns)])


def _image(picture: NDArray[np.uint8]) -> str:
    encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}">'


def _section(title: str, words: str, body: str) -> str:
    return f"<h2>{escape(title)}</h2><p>{escape(words)}</p>{body}"


def _accuracy(compared: Comparison) -> str:
    rows = [
        [d.metric, f"{d.a:.2f}", f"{d.b:.2f}", f"{d.gain:+.2f} ({d.low:+.2f} .. {d.high:+.2f})"]
        for d in compared.differences
    ]  # fmt: skip
    apart = ", ".join(f"{name} {value:.4f}" for name, value in compared.shift.items())
    return _rows(["metric", "float", "INT8", "INT8 - float"], rows) + f"<p>Joints apart, head lengths: {apart}.</p>"


def _examples(outcome: Outcome) -> NDArray[np.uint8]:
    """A row of crops for each cluster, in the order of their names."""
    rows = []
    for mask in outcome.cluster_masks.values():
        tiles = [_bgr(crop) for crop in outcome.judge.crops[mask][:_EXAMPLES]]
        tiles += [np.zeros_like(tiles[0])] * (_EXAMPLES - len(tiles))
        rows.append(_grid(tiles, _EXAMPLES, _SMALL))
    return np.vstack(rows)


def _latency(timing: Comparison) -> str:
    rows = [[timing.a, f"{timing.a_ms:.2f} ms"], [timing.b, f"{timing.b_ms:.2f} ms"], ["ratio", f"{timing.ratio:.2f}"]]
    return _rows(["runner", "median"], rows)


def _rows(headings: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{escape(h)}</th>" for h in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _bars(values: Mapping[str, float], form: str = "{:.2f}") -> str:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 0.6 + 0.2 * max(len(values), 1)), constrained_layout=True)
    names = list(values)[::-1]
    bars: Any = axes.barh(names, [values[n] for n in names], color="#258")
    axes.bar_label(bars, labels=[form.format(values[n]) for n in names], fontsize=7, padding=2)
    axes.tick_params(labelsize=7)
    axes.margins(x=0.12, y=0.01)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=90, format="png")
    pyplot.close(figure)
    return f'<img src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>@TITLE@</title>
<style>body{font:15px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
img{max-width:100%}td,th{text-align:left;padding:.1rem 1.2rem .1rem 0}h2{margin-top:2.2rem}</style>
<body>@BODY@</body></html>
"""
