"""Does the input pipeline keep up with training? Samples made per second against images learnt per second.

    python tests/benchmarks/input_pipeline.py --data lsp:lspet --data-root ../shared/data

One loader process makes augmented samples, alone; then the same network trains on one batch over and over, alone.
Above 1, the pipeline is the faster of the two and training waits for the network.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from edgepose import console, skeletons
from trainer.data import load
from trainer.data.module import PoseData
from trainer.fit import PoseModule
from trainer.recipe import Recipe
from trainer.targets import gaussians, heatmap_loss, to_cells


def recipe(data: str, skeleton: str, size: int, width: int, batch: int) -> Recipe:
    """One stack as the shipped model has it, with the data's own joints."""
    return Recipe.model_validate(
        {
            "name": "bench",
            "skeleton": skeleton,
            "data": [{"data": data, "split": "all"}],
            "model": {"width": width, "stacks": 1, "order": "post"},
            "stages": [{"images": 1_000_000, "size": size, "batch": batch}],
        }
    )


def samples_per_second(made: Recipe, root: Path | None, seconds: float) -> float:
    """What one loader process delivers, its start not counted."""
    data = PoseData(made, root, workers=1)
    data.setup("fit")
    batches = iter(data.train_dataloader())
    for _ in range(16):  # past what was made while the process came up
        next(batches)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        count += len(next(batches)["image"])
    return count / (time.perf_counter() - start)


def images_per_second(made: Recipe, seconds: float) -> float:
    """What the network learns, forward and backward in bfloat16, from one batch in memory."""
    stage = made.stages[0]
    network = PoseModule(made).model
    optimiser = torch.optim.AdamW(network.parameters())
    joints = len(skeletons.get(made.skeleton))
    image = torch.rand(stage.batch, 3, stage.size, stage.size).mul(255).contiguous(memory_format=torch.channels_last)
    target = gaussians(to_cells(torch.rand(stage.batch, joints, 2) * stage.size, 4), stage.size // 4, 1.5)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = heatmap_loss(network(image)[-1], target, torch.ones(stage.batch, joints), 25.0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    step()
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        step()
        count += stage.batch
    return count / (time.perf_counter() - start)


def main(
    data: Annotated[str, typer.Option(help="As for edgepose-train.")] = "synth:200",
    data_root: Annotated[Path | None, typer.Option(envvar="EDGEPOSE_DATA")] = None,
    size: int = 192,
    width: int = 64,
    batch: int = 16,
    threads: int = 2,
    seconds: float = 15,
    repeats: int = 3,
) -> None:
    """Print both rates and their ratio, in turns."""
    torch.set_num_threads(threads)
    made = recipe(data, load(data, data_root).skeleton.name, size, width, batch)
    typer.echo(f"{data}, {size} px, batch {batch}; network: 1 x {width} channels, {threads} threads")
    for _ in range(repeats):
        loading, learning = samples_per_second(made, data_root, seconds), images_per_second(made, seconds)
        typer.echo(f"samples made {loading:.0f}/s, images learnt {learning:.0f}/s, ratio {loading / learning:.1f}")


if __name__ == "__main__":
    console.run(lambda: typer.run(main))
