"""Quantisation-aware training: the network learns with INT8's rounding in it (Jacob et al. 2018, section 3).

ModelOpt puts a simulated quantiser before every convolution and on its weights, with ranges from training crops; the
gradient passes it as if it were not there. What a checkpoint keeps for export are the plain weights: they are quantised
like any other model's, by ``edgepose-calibrate quantize``, and lose less. Additions are not rounded while
learning, though they are in the final graph.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from edgepose.errors import EdgeposeError, missing

_BATCH = 16
_OWN = "_quantizer."  # in the names of what ModelOpt adds to a network's state


def quantise(model: nn.Module, crops: Tensor) -> None:
    """Put quantisers into ``model``, in place, their ranges the maxima over ``crops`` [N, 3, S, S], RGB 0..255.

    EdgeposeError: ModelOpt is not installed, or leaves a convolution out.
    """
    for name in ("modelopt", "huggingface_hub"):  # which ModelOpt's torch part imports
        if importlib.util.find_spec(name) is None:
            raise missing(name, "to learn with INT8's rounding", "pip install 'edgepose[calibration]'")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # it misses packages for language models
        import modelopt.torch.quantization as modelopt

        modelopt.quantize(model.eval(), modelopt.INT8_DEFAULT_CFG, lambda network: _run(network, crops))
    model.train()
    left_out = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d) and not _both(module)]
    if left_out:
        raise EdgeposeError(f"ModelOpt does not quantise {', '.join(left_out)}; please report this")


def plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` of a network with quantisers, for the same network without them."""
    return {name: value for name, value in state.items() if _OWN not in name}


def _both(conv: Any) -> bool:
    ours = [getattr(conv, name, None) for name in ("input_quantizer", "weight_quantizer")]
    return all(quantizer is not None and quantizer.is_enabled for quantizer in ours)


@torch.no_grad()
def _run(model: nn.Module, crops: Tensor) -> None:
    for part in torch.split(crops, _BATCH):
        model(part.contiguous(memory_format=torch.channels_last))
