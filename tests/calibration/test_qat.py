"""Learning with INT8's rounding: what is rounded, that it is learnt, resumed, exported and quantised like any model."""

import numpy as np
import pytest
import torch
from torch import nn

from calibration.judge import Judge
from calibration.quantize import quantize
from edgepose import EdgeposeError, engines
from trainer import qat
from trainer.export import export
from trainer.fit import fit, load_best
from trainer.recipe import Recipe


def fine_tuning(learnt, **changes):
    recipe, _ = load_best(learnt.checkpoint)
    content = recipe.model_dump(mode="json")
    content.update(
        name="tiny-qat",
        start_from=str(learnt.checkpoint),
        quantisation={"crops": 8},
        stages=[{"images": 160, "size": 64, "batch": 8}],
        optimiser={"rate": 5e-4, "warm_up": 2, "ema": 0.9},
    )
    return Recipe.model_validate({**content, **changes})


def state(path):
    return torch.load(path, weights_only=True)["state_dict"]


def test_inputs_and_weights_are_rounded_and_the_gradient_passes():
    """One convolution by hand: 1.0 and 0.3 with a range of 1.0 are 127 and 38 steps of 1 / 127."""
    conv = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False))
    with torch.no_grad():
        conv[0].weight[:] = torch.tensor([1.0, 0.3, -0.5]).reshape(1, 3, 1, 1)
    image = torch.tensor([1.0, 0.2, 0.7]).reshape(1, 3, 1, 1)
    qat.quantise(conv, image)
    rounded = [np.round(np.array(v) * 127) / 127 for v in ([1.0, 0.3, -0.5], [1.0, 0.2, 0.7])]
    given = image.clone().requires_grad_(True)
    y = conv(given)
    assert y.item() == pytest.approx(float(rounded[0] @ rounded[1]), abs=1e-6)
    y.sum().backward()
    assert torch.allclose(given.grad.flatten(), torch.tensor(rounded[0], dtype=torch.float32), atol=1e-6)
    assert torch.allclose(conv[0].weight.grad.flatten(), torch.tensor(rounded[1], dtype=torch.float32), atol=1e-6)


def test_a_resumed_run_reaches_the_same_weights(learnt, tmp_path):
    recipe = fine_tuning(learnt)
    whole = fit(recipe, tmp_path / "whole", root=learnt.root, workers=0, threads=1)
    fit(recipe, tmp_path / "parts", root=learnt.root, workers=0, threads=1, max_steps=9)
    parts = fit(recipe, tmp_path / "parts", root=learnt.root, workers=0, threads=1, resume=True)
    a, b = state(whole), state(parts)
    assert a.keys() == b.keys()
    assert any(qat._OWN in name for name in a)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def uneven(learnt, tmp_path_factory):
    """The same float network, but one channel is 100 times as large: INT8 has few steps left for the others."""
    content = torch.load(learnt.checkpoint, weights_only=True)
    for name, value in content["state_dict"].items():
        if name.endswith(("features.0.0.branch.0.1.weight", "features.0.0.branch.0.1.bias")):
            value[0] *= 100  # of the batch norm before a ReLU
        if name.endswith("features.0.0.branch.1.0.weight"):
            value[:, 0] /= 100  # of the convolution behind it
    path = tmp_path_factory.mktemp("uneven") / "last.ckpt"
    torch.save(content, path)
    return path


def int8_accuracy(learnt, checkpoint, folder):
    """Of the float network and of its INT8 file."""
    bundle = export(checkpoint, folder / f"{checkpoint.parent.name}.onnx", root=learnt.root)
    int8 = quantize(bundle, learnt.chosen, folder / f"{checkpoint.parent.name}-int8.onnx")
    judge = Judge(learnt.persons, bundle.manual)
    return [judge.answer(engines.load(b)).percent("pckh01") for b in (bundle, int8)]


def test_what_int8_destroys_is_learnt_again(learnt, uneven, tmp_path):
    float_, int8 = int8_accuracy(learnt, uneven, tmp_path)
    assert int8 < float_ - 10
    after = {}
    for name, rounding in (("plain", None), ("rounded", {"crops": 8})):
        stages = [{"images": 800, "size": 64, "batch": 8}]
        recipe = fine_tuning(learnt, start_from=str(uneven), stages=stages, quantisation=rounding)
        checkpoint = fit(recipe, tmp_path / name, root=learnt.root, workers=0, threads=1)
        _, network = load_best(checkpoint)
        assert not any(qat._OWN in key for key in network.state_dict())
        _, after[name] = int8_accuracy(learnt, checkpoint, tmp_path)
    assert after["rounded"] > int8 + 0.5 * (float_ - int8)
    assert after["rounded"] > after["plain"] + 0.25 * (float_ - int8)  # it is the rounding that did it


def test_recipes_that_cannot_learn_rounding_are_refused(learnt):
    for changes, sentence in (
        ({"start_from": ""}, "say by start_from which"),
        ({"model": {"block": "reparam", "stacks": 1, "width": 32}}, "cannot be learnt with block reparam"),
        ({"stages": [{"images": 8, "size": 64, "batch": 8}] * 2}, "give one stage"),
    ):
        with pytest.raises(ValueError, match=sentence):
            fine_tuning(learnt, **changes)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EdgeposeError, match=r"pip install 'edgepose\[calibration\]'"):
        qat.quantise(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 2, 2))
