"""Checkpoint -> bundle: ONNX with its manual, checked against the network that it was made from.

``refit``: a bundle's scores and covariances, fitted to other persons.
"""

from __future__ import annotations

import hashlib
import io
import re
import tempfile
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgepose import bundle as bundles
from edgepose import engines
from edgepose.bundle import Accuracy, Bundle, Manual, ScoreMap, save
from edgepose.errors import EdgeposeError
from edgepose.estimator import Estimator
from edgepose.files import kind
from trainer import fit
from trainer.data.module import select
from trainer.engine import TorchEngine, manual_of
from trainer.evaluate import figures, predict
from trainer.models.compact import fold
from trainer.models.hourglass import Final
from trainer.recipe import DataSet
from trainer.uncertainty import ellipses, score_map

OPSET = 17
_FITTED = ("score", "covariance_scale", "ellipses")  # of a manual
TOLERANCE = 1e-3  # largest heatmap difference between torch and the exported graph


def to_onnx(model: nn.Module, manual: Manual) -> Any:
    """The last output as an onnx.ModelProto: opset 17, dynamic batch, batch norms folded."""
    import onnx

    width, height = manual.input_size
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        # A bundle's size is fixed, so what Python makes of it while tracing is right.
        warnings.filterwarnings("ignore", message="Converting a tensor to a Python")
        torch.onnx.export(
            Final(fold(model)).eval(),
            (torch.zeros(1, 3, height, width),),
            buffer,  # type: ignore[arg-type]  # files are taken too, the stub forgot them
            input_names=["image"],
            output_names=["heatmaps"],
            dynamic_axes={"image": {0: "N"}, "heatmaps": {0: "N"}},
            opset_version=OPSET,
            dynamo=False,
        )
    proto = onnx.load_from_string(buffer.getvalue())
    _fix_shapes(proto, manual)
    return proto


def _fix_shapes(proto: Any, manual: Manual) -> None:
    """State the output's sizes, which the tracer leaves symbolic after upsampling."""
    width, height = manual.input_size
    shape = (manual.maps, height // manual.stride, width // manual.stride)
    for dimension, value in zip(proto.graph.output[0].type.tensor_type.shape.dim[1:], shape, strict=True):
        dimension.dim_value = value


def export(
    checkpoint: Path,
    path: Path,
    *,
    root: Path | None = None,
    fit_on: list[DataSet] | None = None,
    measure_on: list[DataSet] | None = None,
    terms: str = "",
    description: str = "",
) -> Bundle:
    """Write the checkpoint's best weights as a bundle to ``path``.

    ``fit_on`` are persons on which score map and covariance scale are fitted; ``measure_on`` those whose
    accuracy goes into the manual. EdgeposeError: the exported graph and the checkpoint disagree.
    """
    recipe, model = fit.load_best(checkpoint)
    manual = manual_of(recipe).model_copy(
        update={
            "terms": terms,
            "description": description,
            "made_from": {"checkpoint": hashlib.sha256(checkpoint.read_bytes()).hexdigest()},
        }
    )
    proto = to_onnx(model, manual)
    if fit_on:
        manual = _fit_uncertainty(Estimator(TorchEngine(model), manual), fit_on, root)
    with tempfile.TemporaryDirectory() as folder:  # nothing is installed before it has passed
        bundle = save(proto, manual, Path(folder) / path.name)
        compare(model, bundle)
        if measure_on:
            manual = manual.model_copy(update={"accuracy": measure(bundle, measure_on, root)})
    return save(proto, manual, path)


def refit(
    model: str,
    path: Path,
    fit_on: list[DataSet],
    *,
    root: Path | None = None,
    measure_on: list[DataSet] | None = None,
    mirror_ratio: float | None = None,
) -> Bundle:
    """Write the bundle ``model`` to ``path`` with score map, covariance scale and ellipses fitted to ``fit_on``.

    It takes the file's name where that can be a bundle's. ``measure_on``: as :func:`export`; without, no accuracy is
    known any more. ``mirror_ratio``: how it is decoded from now on, see :class:`edgepose.heatmaps.Decoder`; None: as
    before. EdgeposeError: no pose bundle, or nothing can be fitted.
    """
    import onnx

    if model.endswith(".ckpt"):
        raise EdgeposeError(f"{model} is a checkpoint, not a bundle; 'edgepose-train export' fits it and makes one")
    before = bundles.load(model)
    if before.manual.role != "pose":
        raise EdgeposeError(f"{before.path} is a person finder, which has no scores of joints; name a pose model")
    if kind(path.absolute().parent) != "folder":
        raise EdgeposeError(f"folder {path.parent} for {path.name} does not exist; make it first")
    decode = before.manual.decode
    if mirror_ratio is not None:
        decode = decode.model_copy(update={"mirror_ratio": mirror_ratio})
    made_from = {**before.manual.made_from, "refitted": before.sha256}
    plain = {name: Manual.model_fields[name].get_default(call_default_factory=True) for name in _FITTED}
    manual = before.manual.model_copy(update={"decode": decode, "made_from": made_from, "accuracy": [], **plain})
    if re.fullmatch(bundles.NAME, path.stem):
        manual = manual.model_copy(update={"name": path.stem})
    with closing(engines.load(before)) as engine:
        manual = _fit_uncertainty(Estimator(engine, manual), fit_on, root)
    proto = onnx.load(before.path)
    if measure_on:
        with tempfile.TemporaryDirectory() as folder:
            rows = measure(save(proto, manual, Path(folder) / path.name), measure_on, root)
        manual = manual.model_copy(update={"accuracy": rows})
    return save(proto, manual, path)


def _fit_uncertainty(estimator: Estimator, sets: list[DataSet], root: Path | None) -> Manual:
    """The estimator's manual with what is fitted to the persons of ``sets``."""
    persons = [p for spec in sets for p in select(spec, estimator.skeleton, root).persons]
    predictions = predict(estimator, persons, "fitting scores")
    names = ", ".join(f"{s.data} ({s.split})" for s in sets)
    fitted_on = f"{len(persons)} persons: {names}"
    score: ScoreMap = score_map(predictions, estimator.skeleton, fitted_on)
    if not score.fitted_on:
        raise EdgeposeError(f"{estimator.manual.name} answers alike for all persons to fit it on; choose other data")
    scale, held = ellipses(predictions, estimator.skeleton, fitted_on)
    return estimator.manual.model_copy(update={"score": score, "covariance_scale": scale, "ellipses": held})


def measure(bundle: Bundle, sets: list[DataSet], root: Path | None) -> list[Accuracy]:
    """Accuracy of ``bundle`` on each set, on the default engine."""
    rows = []
    with closing(engines.load(bundle)) as engine:
        estimator = Estimator(engine, bundle.manual)
        for spec in sets:
            chosen = select(spec, estimator.skeleton, root)
            found = figures(predict(estimator, chosen.persons, f"measuring {chosen.name}"), estimator.skeleton)
            keys = ("pckh05", "pckh01", "pck02_torso", "pck02_torso_limbs")
            rows.append(
                Accuracy(data=spec.data, split=spec.split, persons=found["persons"], engine=engine.name,
                         figures={k: found[k] for k in keys})
            )  # fmt: skip
    return rows


def compare(model: nn.Module, bundle: Bundle) -> None:
    """EdgeposeError where ``bundle`` on the default engine and ``model`` on torch differ by more than TOLERANCE."""
    plain: engines.Precision = "float32" if bundle.manual.precision == "float32" else "auto"  # of a GPU: no TF32
    width, height = bundle.manual.input_size
    images = np.random.default_rng(0).uniform(0, 255, (2, 3, height, width)).astype(np.float32)
    with closing(engines.load(bundle, options=engines.Options(precision=plain))) as engine:
        difference = float(np.abs(engine.infer(images) - TorchEngine(model).infer(images)).max())
    if not difference <= TOLERANCE:
        raise EdgeposeError(f"{bundle.path} differs from its checkpoint by {difference:.2g} on {engine.name}; "
                            "it is not usable, please report this")  # fmt: skip
