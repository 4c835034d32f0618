"""What does smoothing cost and give? Jitter at rest, lag in motion and error, for each kind side by side.

    python tests/benchmarks/smoothing.py [--video FILE]

First joints whose truth is known: one person at rest, walking, stopping and going each second, and swinging the arms
once a second, at 30 fps with uneven intervals and dropped frames. Published covariances are of the sizes that the
shipped model gives, and as there only a small share of them is new in each frame; the rest of an error stays from frame
to frame, no smoother can see it, and it is left out. Then a model on a video, where the truth is not known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from edgepose import bundle, console, engines, sources
from edgepose.engines import Options
from edgepose.estimator import Estimator, Poses
from edgepose.people.single import SinglePerson
from edgepose.people.smooth import KINDS, Smoother, smoother

Floats = NDArray[np.float64]
MOTIONS = ("rest", "walk", "stop and go", "swing")
CLIP = Path(__file__).parents[2] / "deploy" / "demo" / "one_by_one_person.mp4"

JOINTS = 16
SIZE = 350.0  # px, the person's diagonal
WALK = 0.6  # sizes per second
SWING = 0.12  # sizes, amplitude of the arms; once a second
SETTLED = 1.0  # s at the start that do not count


def times(seconds: float, rng: np.random.Generator) -> Floats:
    """Acquisition times [T] in s: 30 fps, intervals uneven by 4 ms, one frame in ten dropped."""
    grid = np.arange(int(seconds * 30)) / 30 + rng.normal(0, 0.004, int(seconds * 30))
    return np.sort(grid[rng.random(len(grid)) > 0.1])


def truth(motion: str, t: Floats, layout: Floats) -> Floats:
    """Joints [T, K, 2] at times ``t``; in the swing each joint goes to and fro at its own phase."""
    joints = np.repeat(layout[None], len(t), axis=0)
    if motion == "walk":
        joints[..., 0] += WALK * SIZE * t[:, None]
    elif motion == "stop and go":
        joints[..., 0] += WALK * SIZE * (t // 2 + np.minimum(t % 2, 1))[:, None]
    elif motion == "swing":
        phase = np.linspace(0, 2 * np.pi, JOINTS, endpoint=False)
        joints[..., 0] += SWING * SIZE * np.sin(2 * np.pi * t[:, None] + phase)
    return joints


def covariances(layout: Floats, rng: np.random.Generator) -> Floats:
    """Published covariances [K, 3] in px^2: ellipses, the deviations from 3 % to 20 % of the size."""
    long = SIZE * np.geomspace(0.03, 0.2, len(layout))
    wide, angle = (long * 0.7) ** 2, rng.uniform(0, np.pi, len(layout))
    long = long**2
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([long * cos**2 + wide * sin**2, (long - wide) * cos * sin, long * sin**2 + wide * cos**2], axis=-1)


def smoothed(kind: Smoother, t: Floats, seen: Floats, covariance: Floats) -> Floats:
    """What ``kind`` makes of joints ``seen`` [T, K, 2]."""
    scores, spread = np.ones((1, JOINTS)), covariance[None]
    return np.stack(
        [
            kind.smooth(["p"], Poses(j[None], scores, spread), round(now * 1e9)).joints[0]
            for now, j in zip(t, seen, strict=True)
        ]
    )


def lag(motion: str, t: Floats, got: Floats, layout: Floats) -> float:
    """The time shift of the truth, in ms, at which the error of ``got`` is smallest."""
    shifts = np.arange(-0.02, 0.25, 0.001)
    errors = [np.mean((got - truth(motion, t - shift, layout)) ** 2) for shift in shifts]
    return float(shifts[np.argmin(errors)] * 1000)


def synthetic(share: float, seconds: float, make: dict[str, Smoother]) -> dict[str, list[float]]:
    """Per kind: jitter at rest in px, lag in ms of each motion but rest, RMS error in px of each."""
    rng = np.random.default_rng(0)
    layout = rng.uniform(0, 1, (JOINTS, 2)) * [0.4, 0.9] * SIZE
    t, covariance = times(seconds, rng), covariances(layout, rng)
    matrices = covariance[:, [0, 1, 1, 2]].reshape(-1, 2, 2)
    noise = np.einsum("kab,tkb->tka", np.linalg.cholesky(share * matrices), rng.normal(size=(len(t), JOINTS, 2)))
    counts = t > SETTLED
    rows: dict[str, list[float]] = {}
    for name, kind in make.items():
        jitter, lags, errors = 0.0, [], []
        for number, motion in enumerate(MOTIONS):
            right = truth(motion, t, layout)
            # A minute apart, so that the smoother has forgotten the scene before.
            got = smoothed(kind, t + number * (seconds + 60), right + noise, covariance)[counts]
            errors.append(float(np.sqrt(np.mean((got - right[counts]) ** 2) * 2)))
            if motion == "rest":
                jitter = float(np.sqrt(np.mean(got.var(axis=0))))
            else:
                lags.append(lag(motion, t[counts], got, layout))
        rows[name] = [jitter, *lags, *errors]
    return rows


def real(video: str, model_name: str, make: dict[str, Smoother], threads: int) -> dict[str, list[float]]:
    """Per kind: jitter (median second difference of joints) and mean way from the joints as they are, both in px."""
    model = bundle.load(model_name, role="pose")
    estimator = Estimator(engines.load(model, "auto", Options(threads=threads)), model.manual)
    tracker = SinglePerson(estimator, "run")
    tracks: dict[str, list[Floats]] = {name: [] for name in make}
    jumps: dict[str, list[Floats]] = {name: [] for name in make}
    ids: list[str] = []
    with sources.open_source(video) as source:
        for frame in source:
            people = tracker.update(frame.image)
            ids += people.ids or [""]  # a gap, across which nothing is compared
            for name, kind in make.items():
                got = kind.smooth(people.ids, people.poses, frame.acquired_ns).joints
                tracks[name].append(got[0] if len(got) else np.full((len(model.skeleton), 2), np.nan))
                jumps[name].append(np.linalg.norm(got - people.poses.joints, axis=-1))
    held = np.array([a == b == c != "" for a, b, c in zip(ids, ids[1:], ids[2:], strict=False)])
    rows = {}
    for name in make:
        second = np.diff(np.stack(tracks[name]), n=2, axis=0)[held]
        rows[name] = [float(np.median(np.linalg.norm(second, axis=-1))), float(np.concatenate(jumps[name]).mean())]
    return rows


def show(heads: list[str], rows: dict[str, list[float]]) -> None:
    """One line per kind."""
    typer.echo(" ".join([f"{'':10}", *(f"{head:>16}" for head in heads)]))
    for name, values in rows.items():
        typer.echo(" ".join([f"{name:10}", *(f"{value:16.2f}" for value in values)]))


def main(
    video: Annotated[str, typer.Option(help="File or camera URI.")] = str(CLIP),
    share: Annotated[float, typer.Option(help="Share of the published covariance that is new in a frame.")] = 0.005,
    seconds: float = 60,
    model: Annotated[str, typer.Option(help="The pose model on the video.")] = "edgepose-s",
    threads: int = 1,
) -> None:
    """Print both tables."""
    typer.echo("Jitter at rest (deviation of a coordinate), lag in motion (ms), RMS error of each motion (px).")
    typer.echo(f"Truth known: person of {SIZE:.0f} px, {seconds:.0f} s, 30 fps, 10 % dropped, share {share}")
    heads = ["jitter px", *(f"{m} ms" for m in MOTIONS[1:]), *(f"{m} px" for m in MOTIONS)]
    show(heads, synthetic(share, seconds, {kind: smoother(kind) for kind in KINDS}))
    typer.echo(f"\n{Path(video).name}, {model}, one person without a finder:")
    typer.echo("jitter (median second difference), mean distance from the joints as they are")
    show(["jitter px", "displaced px"], real(video, model, {kind: smoother(kind) for kind in KINDS}, threads))


if __name__ == "__main__":
    console.run(lambda: typer.run(main))
