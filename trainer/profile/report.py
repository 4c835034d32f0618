"""``edgepose-train profile``: one recipe's costs, gathered and printed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table

from trainer.engine import manual_of
from trainer.export import to_onnx
from trainer.models.build import build
from trainer.profile import latency, roofline
from trainer.profile.graph import BYTES, Layer, analyse
from trainer.recipe import Recipe

_SHORT = {"float32": "FP32", "float16": "FP16", "int8": "INT8"}


@dataclass(frozen=True)
class Operator:
    """All layers of one type together."""

    op: str
    layers: int
    macs: int
    weights: int
    output: int  # elements written


@dataclass(frozen=True)
class Profile:
    """What the recipe's network costs at batch 1; :func:`dataclasses.asdict` makes it JSON."""

    name: str
    input_size: tuple[int, int]  # width, height in pixels
    parameters: int
    macs: int  # 1 MAC = 2 operations
    activation_bytes: dict[str, int]  # precision -> upper bound; see trainer.profile.graph.Graph
    operators: tuple[Operator, ...]  # most MACs first
    latency: latency.Latency
    estimates: tuple[roofline.Estimate, ...]  # two precisions for each device


def profile(recipe: Recipe, *, threads: int = 2, repeats: int = 50) -> Profile:
    """Count, time and estimate the network that ``recipe`` exports, with the seed's untrained weights.

    EdgeposeError: see :func:`trainer.profile.latency.measure` and :func:`trainer.profile.graph.analyse`.
    """
    manual = manual_of(recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = to_onnx(build(recipe).eval(), manual)
    graph = analyse(model)
    return Profile(
        name=recipe.name,
        input_size=manual.input_size,
        parameters=graph.parameters,
        macs=graph.macs,
        activation_bytes={name: size * graph.peak_activations for name, size in BYTES.items()},
        operators=by_operator(graph.layers),
        latency=latency.measure(model, manual, threads=threads, repeats=repeats),
        estimates=tuple(
            roofline.estimate(graph.layers, device, precision)
            for device in roofline.DEVICES
            for precision in roofline.PRECISIONS
        ),
    )


def by_operator(layers: Iterable[Layer]) -> tuple[Operator, ...]:
    """One row for each type of layer, most MACs first."""
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        groups.setdefault(layer.op, []).append(layer)
    rows = [
        Operator(op, len(g), sum(x.macs for x in g), sum(x.weights for x in g), sum(x.output for x in g))
        for op, g in groups.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.macs, -row.output, row.op)))


def show(found: Profile) -> None:
    """Print it as tables."""
    console = Console()
    for table in (_headline(found), _operators(found), _latency(found.latency), _estimates(found.estimates)):
        console.print(table)
    console.print(
        "Every Jetson figure is an estimate: a roofline, max(2 MACs / peak, bytes / bandwidth) for each layer, "
        "summed. It is a lower bound on time, and real engines reach a fraction of it. Element-wise layers count as "
        "fused; GPU alone, dense rates, no DLA, no Super mode. Peaks and bandwidths:",
        style="dim",
    )
    for device in roofline.DEVICES:
        console.print(f"- {device.name}: {device.source}", style="dim", highlight=False)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left")
    return table


def _headline(found: Profile) -> Table:
    width, height = found.input_size
    table = _table(f"{found.name}, {width} x {height} px, batch 1", "", "")
    table.show_header = False
    table.add_row("parameters", f"{found.parameters / 1e6:.3f} M")
    table.add_row("multiply-accumulates", f"{found.macs / 1e9:.3f} G")
    for precision, size in found.activation_bytes.items():
        table.add_row(f"activations at once, {_SHORT[precision]}, upper bound", f"{size / 2**20:.2f} MiB")
    return table


def _operators(found: Profile) -> Table:
    table = _table("By type of layer", "type", "layers", "M MACs", "share", "k weights", "k outputs")
    for row in found.operators:
        share = 100 * row.macs / found.macs if found.macs else 0.0
        table.add_row(row.op, str(row.layers), f"{row.macs / 1e6:.2f}", f"{share:.1f} %",
                      f"{row.weights / 1e3:.1f}", f"{row.output / 1e3:.1f}")  # fmt: skip
    return table


def _latency(found: latency.Latency) -> Table:
    title = f"Measured: openvino on {found.processor}, {found.threads} threads, {found.repeats} runs in turns"
    table = _table(title, "precision", "median", "quartiles", "time : FP32")
    for name, timing, ratio in (("FP32", found.float32, 1.0), ("INT8", found.int8, found.int8_over_float32)):
        table.add_row(name, f"{timing.median:.2f} ms", f"{timing.low:.2f} - {timing.high:.2f}", f"{ratio:.2f}")
    return table


def _estimates(found: Iterable[roofline.Estimate]) -> Table:
    table = _table("Not measured: roofline", "device", "FP16, at least", "INT8, at least")
    rows: dict[str, dict[str, str]] = {}
    for row in found:
        rows.setdefault(row.device, {})[row.precision] = f"{row.milliseconds:.3g} ms (estimate)"
    for device, cells in rows.items():
        table.add_row(device, *(cells[precision] for precision in roofline.PRECISIONS))
    return table
