"""The literature's networks: each from a recipe, each against what its paper says of it."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional

from edgepose import engines
from edgepose.bundle import save
from edgepose.skeletons import LSP14, MPII16
from trainer.cli import RECIPES
from trainer.engine import TorchEngine, manual_of
from trainer.export import to_onnx
from trainer.models.attention import Attention, PartHead, attend
from trainer.models.blocks import Conv, Head, Residual
from trainer.models.build import build
from trainer.models.initialise import initialise, variance
from trainer.models.nested import HourglassResidual
from trainer.models.norms import Bias, ChannelL2, LocalResponse, with_norm
from trainer.models.pyramid import FractionalMaxPool, PyramidResidual
from trainer.parts import composition_of
from trainer.recipe import Attention as AttentionSpec
from trainer.recipe import Pyramid, Recipe, load

SHIPPED = sorted(p.stem for p in RECIPES.glob("*.toml") if not p.stem.startswith("finder"))


def recipe(size=64, **model):
    model = {"width": 16, "depth": 2, "stacks": 2, **model}
    return Recipe.model_validate(
        {"name": "tried", "data": [{"data": "synth:1"}], "model": model, "stages": [{"images": 16, "size": size}]}
    )


def network(**model):
    torch.manual_seed(0)
    return build(recipe(**model))


def image(size=64, count=2):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1)) * 255


def parameters(module):
    return sum(p.numel() for p in module.parameters())


VARIANTS = {
    "newell": {},
    "bulat": {"kind": "cascade"},
    "chu": {"side": "hru", "attention": {}},
    "yang": {"block": "prm-b", "initialisation": "branches"},
    "prm-a": {"block": "prm-a"},
    "prm-c": {"block": "prm-c"},
    "prm-d": {"block": "prm-d"},
    "tang": {"kind": "compositional", "stacks": 5, "width": 32},
    "hru": {"block": "hru", "order": "post"},
    "edge-narrow": {"block": "narrow", "stem": "compact"},
    "mobile": {"stem": "mobile", "multiplier": 0.25, "preprocessing": "symmetric"},
    "depthwise": {"block": "depthwise"},
    "reparam": {"block": "reparam"},
    "lrn": {"norm": "lrn"},
    "l2": {"norm": "l2"},
    "none": {"norm": "none", "order": "post"},
    "softmax": {"attention": {"normaliser": "softmax", "multi_semantics": False}},
    "one-resolution": {"attention": {"multi_resolution": False, "parts": False}},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_network_learns_exports_and_runs_alike_everywhere(name, tmp_path):
    """Shapes and kinds of all outputs, a gradient for every parameter, and one graph for two runtimes."""
    made = recipe(**VARIANTS[name])
    torch.manual_seed(0)
    model = build(made)
    counts = {"joints": 16, "disks": 16, "bones": 12, "limbs": 6}
    outputs = model(image())
    assert model.supervision[-1] == "joints"
    assert [tuple(o.shape) for o in outputs] == [(2, counts[kind], 16, 16) for kind in model.supervision]
    torch.stack([o.square().mean() for o in outputs]).sum().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    for _ in range(3):
        model(image())  # so that batch norms have statistics of their own
    model.eval()
    bundle = save(to_onnx(model, manual_of(made)), manual_of(made), tmp_path / "tried.onnx")
    pixels = image().numpy()
    expected = TorchEngine(model).infer(pixels)
    for runtime in ("openvino", "onnxruntime"):
        engine = engines.load(bundle, runtime)
        assert np.abs(engine.infer(pixels) - expected).max() < 1e-3 * max(1.0, np.abs(expected).max()), runtime
        engine.close()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_network_learns_in_bfloat16(name):
    model = network(**VARIANTS[name])
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(image())
    torch.stack([o.float().square().mean() for o in outputs]).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_build(name):
    with torch.device("meta"):
        model = build(load(RECIPES / f"{name}.toml"))
    assert parameters(model) > 10_000


# Newell


def test_gradients_of_the_last_output_reach_every_stack():
    model = network(stacks=8, depth=1)
    model(image())[-1].square().mean().backward()
    for hourglass in model.hourglasses:
        assert all(p.grad.abs().sum() > 0 for p in hourglass.parameters() if p.ndim > 1)


# Bulat


def layer_table(detection):
    """The sub-network's layers as one reads them in Table 4, found from the modules themselves."""
    rows = {}
    for name, stage in detection.named_children():
        words = [layer_words(layer) for layer in stage if not isinstance(layer, Residual)]
        blocks = [layer for layer in stage if isinstance(layer, Residual)]
        rows[name] = " + ".join([*filter(None, words), *([f"{len(blocks)} bottlenecks"] if blocks else [])])
    return rows


def layer_words(layer):
    if isinstance(layer, nn.Sequential):
        return "".join(layer_words(inner) for inner in layer)
    if isinstance(layer, nn.MaxPool2d):
        return "pool"
    if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        return ""
    what = "deconv" if isinstance(layer, nn.ConvTranspose2d) else "conv"
    stride = f" s{layer.stride[0]}" if layer.stride[0] > 1 else ""
    return f"{what} {layer.out_channels} {layer.kernel_size[0]}x{layer.kernel_size[0]}{stride}"


def test_the_detection_is_table_4(capsys):
    """Bulat & Tzimiropoulos 2016, Table 4, hourglass variant; of the network that the recipe makes."""
    with torch.device("meta"):
        network = build(load(RECIPES / "bulat.toml"))
    rows = layer_table(network.detection)
    assert all(b.branch[-1][2].out_channels == 256 for b in network.detection.modules() if isinstance(b, Residual))
    print("\n".join(f"{name}  {row}" for name, row in rows.items()))
    assert rows == {
        "D1": "conv 64 7x7 s2 + pool",
        "D2": "3 bottlenecks",
        "D3": "pool + 3 bottlenecks",
        "D4": "3 bottlenecks",
        "D5": "deconv 256 2x2 s2",
        "D6": "conv 512 1x1",
        "D7": "conv 16 1x1",
    }
    assert "D5  deconv 256 2x2 s2" in capsys.readouterr().out


def test_the_regression_sees_the_detection():
    model = network(kind="cascade", stacks=1).eval()
    before = model(image())[-1]
    with torch.no_grad():
        model.detection.D7[0].bias += 5  # every part seems to be everywhere
    assert (model(image())[-1] - before).abs().max() > 1e-6


# Chu


@pytest.mark.parametrize("normaliser", ["crf", "softmax"])
@pytest.mark.parametrize("maps", [1, 5])
def test_attention_maps_sum_to_one(normaliser, maps):
    torch.manual_seed(0)
    attention = Attention(8, maps, AttentionSpec(normaliser=normaliser), resolutions=3)
    initialise(attention, "he")
    with torch.no_grad():
        for p in attention.parameters():
            p.mul_(30)  # far from the uniform beginning
    found = attention([torch.randn(2, 8, s, s) for s in (4, 8, 16)])
    assert found.shape == (2, maps, 16, 16)
    assert torch.allclose(found.sum(dim=(2, 3)), torch.ones(2, maps), atol=1e-5)
    assert (found >= 0).all()
    assert found.std() > 0.1 / 256  # and says something


def test_the_mean_field_by_hand():
    """Q_0 = u; Q_t = sigmoid(u + k * Q_(t-1)), then divided by its sum (three iterations, kernel 3)."""
    attention = Attention(2, 1, AttentionSpec(iterations=3, kernel=3))
    with torch.no_grad():
        attention.scores[0].weight.normal_()
        attention.pairwise[0].weight.normal_()
    x = torch.randn(1, 2, 6, 6)
    u = functional.conv2d(x, attention.scores[0].weight, attention.scores[0].bias, padding=1)
    q = u
    for _ in range(3):
        q = torch.sigmoid(u + functional.conv2d(q, attention.pairwise[0].weight, attention.pairwise[0].bias, padding=1))
    assert torch.allclose(attention([x]), q / q.sum(), atol=1e-6)


def test_attention_without_preference_changes_nothing():
    x = torch.randn(2, 3, 4, 4)
    assert torch.allclose(attend(x, torch.full((2, 1, 4, 4), 1 / 16)), x)


def test_a_part_head_is_a_convolution_of_attended_features():
    """w . (f * A_p) for each part p, computed the long way."""
    torch.manual_seed(0)
    head = PartHead(6, 3, AttentionSpec(normaliser="softmax"))
    with torch.no_grad():
        for p in head.parameters():
            p.normal_()
    x = torch.randn(2, 6, 8, 8)
    maps = head.attention([x])
    parts = [
        functional.conv2d(x * maps[:, p : p + 1] * 64, head.linear.weight[p : p + 1], head.bias[p : p + 1])
        for p in range(3)
    ]
    assert torch.allclose(head(x), torch.cat(parts, dim=1), atol=1e-3)


def test_attention_ablations_one_by_one():
    def attentions(**flags):
        model = network(stacks=4, attention=flags)
        return {n: m for n, m in model.named_modules() if getattr(m, "is_attention", False)}

    full = attentions()
    holistic = [n for n in full if n.startswith("holistic")]
    assert len(holistic) == 4
    assert [n for n in full if n.startswith("heads")] == ["heads.2.attention", "heads.3.attention"]
    assert all(len(full[n].scores) == 2 for n in holistic)  # one per resolution of a depth-2 hourglass
    assert all(len(m.pairwise) == len(m.scores) for m in full.values())
    assert all(not m.pairwise for m in attentions(normaliser="softmax").values())
    assert all(len(m.scores) == 1 for m in attentions(multi_resolution=False).values())
    assert list(attentions(multi_semantics=False)) == ["heads.3.attention", "holistic.3.attention"]
    assert not [n for n in attentions(parts=False) if n.startswith("heads")]
    assert not [m for m in network(stacks=4).modules() if getattr(m, "is_attention", False)]
    nested = network(side="hru")
    assert any(isinstance(m, HourglassResidual) for m in nested.hourglasses.modules())
    assert not any(isinstance(m, HourglassResidual) for m in nested.stem.modules())


@pytest.mark.parametrize("order", ["pre", "post"])
def test_a_nested_hourglass_is_a_residual_with_one_more_branch(order):
    torch.manual_seed(0)
    unit, x = HourglassResidual(8, 8, order).eval(), torch.randn(1, 8, 8, 8)
    with torch.no_grad():
        for p in unit.nested.parameters():
            p.zero_()
    plain = Residual(8, 8, order).eval()
    plain.load_state_dict({k: v for k, v in unit.state_dict().items() if not k.startswith("nested")})
    assert torch.equal(unit(x), plain(x))


# Yang


@pytest.mark.parametrize("ratio", [0.5, 2**-0.75, 2**-0.25])
def test_fractional_pooling_is_torchs(ratio):
    """The same pseudo-random sequence as torch's own, which cannot be exported."""
    x = torch.randn(1, 3, 13, 16)
    pool = FractionalMaxPool(ratio)
    for u in (0.1, 0.5, 0.93):
        y = x
        for axis in (2, 3):
            at = pool.starts(y.shape[axis], u)
            y = torch.maximum(y.index_select(axis, at), y.index_select(axis, at + 1))
        out = (int(13 * ratio), int(16 * ratio))
        samples = torch.full((1, 3, 2), u)
        expected = functional.fractional_max_pool2d(x, 2, output_size=out, _random_samples=samples)
        assert torch.equal(y, expected)


def test_fractional_pooling_is_random_in_training_only():
    pool, x = FractionalMaxPool(0.6), torch.randn(1, 1, 32, 32)
    torch.manual_seed(0)
    assert len({pool(x).sum().item() for _ in range(8)}) > 1
    pool.eval()
    assert len({pool(x).sum().item() for _ in range(8)}) == 1


def test_pyramid_levels_and_their_widths():
    spec = Pyramid(levels=4, ratio=1.0, reduction=8)
    blocks = {kind: PyramidResidual(32, 32, f"prm-{kind}", spec) for kind in "abcd"}
    ratios = [level.pool.ratio for level in blocks["b"].levels]
    assert ratios == pytest.approx([2**-0.25, 2**-0.5, 2**-0.75, 0.5])  # eq. 3
    assert [level.conv.dilation[0] for level in blocks["d"].levels] == [2, 3, 4, 5]
    assert [level.conv.in_channels for level in blocks["a"].levels] == [4] * 4
    assert len(blocks["a"].enter) == 4
    assert len(blocks["b"].enter) == 1
    assert blocks["c"].leave[2].in_channels == 16
    assert blocks["b"].leave[2].in_channels == 4
    for block in blocks.values():
        assert block(torch.randn(2, 32, 9, 12)).shape == (2, 32, 9, 12)
        assert block(torch.randn(2, 32, 2, 2)).shape == (2, 32, 2, 2)


class Branches(nn.Module):
    """relu, then the sum of C convolutions of it: a layer of a multi-branch network."""

    def __init__(self, channels, count):
        super().__init__()
        made = partial(Conv, channels, channels, 3, padding=1, padding_mode="circular", bias=False)
        self.convs = nn.ModuleList(made(branches_in=count, branches_out=count) for _ in range(count))

    def forward(self, x):
        return torch.stack([conv(functional.relu(x)) for conv in self.convs]).sum(0)


def test_variance_keeps_through_branches_only_with_their_own_initialisation():
    """Eight layers of four branches: within a factor 2 as Yang et al. do it; 4^8 and 2^8 times as He and Xavier do."""
    change = {}
    for kind in ("branches", "he", "xavier"):
        torch.manual_seed(0)
        net = nn.Sequential(*(Branches(128, 4) for _ in range(8)))
        initialise(net, kind)
        x = first = torch.randn(4, 128, 8, 8)
        change[kind] = []
        with torch.no_grad():
            for layer in net:
                x = layer(x)
                change[kind].append(float(x.var() / first.var()))
    assert all(0.5 < c < 2 for c in change["branches"]), change
    assert change["he"][-1] > 4**8 / 2, change
    assert change["xavier"][-1] > 2**8 / 2, change


def test_variance_along_the_branches_of_real_pyramids():
    """Eight PRM-B without norms, each fed with what the one before makes beside its skip: 24 convolutions deep."""
    change = {}
    for kind in ("branches", "he", "xavier"):
        torch.manual_seed(0)
        chain = nn.ModuleList(PyramidResidual(192, 192, "prm-b", Pyramid()) for _ in range(8))
        initialise(with_norm(chain, "none"), kind)
        x = first = torch.randn(2, 192, 32, 32)
        with torch.no_grad():
            for block in chain.eval():
                x = block(x) - x
        change[kind] = float(x.var() / first.var())
    assert 0.25 < change["branches"] < 4, change
    assert change["he"] > 1e4, change
    assert change["xavier"] < 1e-3, change


def test_initial_variances_by_formula():
    conv = Conv(8, 24, 3, branches_in=4, branches_out=2)
    assert variance(conv, "he") == pytest.approx(2 / (9 * 24))
    assert variance(conv, "xavier") == pytest.approx(2 / (9 * 32))
    assert variance(conv, "branches") == pytest.approx(4 / (4 * 9 * 8 + 2 * 9 * 24))
    plain = nn.Conv2d(8, 24, 3)
    assert variance(plain, "branches") == pytest.approx(4 / (9 * 32))
    model = nn.Sequential(nn.Conv2d(64, 64, 3), Head(64, 64))
    initialise(model, "he")
    assert model[0].weight.var().item() == pytest.approx(2 / (9 * 64), rel=0.05)
    assert model[1].weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not any(layer.bias.any() for layer in model)


# Tang


def test_the_published_hierarchy():
    """16 joints, 12 bones, 6 limbs on MPII; a limb is made of neighbouring bones; other skeletons have their own."""
    made = composition_of(MPII16)
    assert (len(MPII16), len(made.bones), len(made.limbs)) == (16, 12, 6)
    names = [tuple(MPII16.joints[j] for j in bone) for bone in made.bones]
    assert ("right_ankle", "right_knee") in names
    assert ("upper_neck", "head_top") in names
    for limb in made.limbs:
        assert all((a, b) in made.bones for a, b in pairwise(limb))
    assert len(composition_of(LSP14).limbs) == 6


@pytest.mark.parametrize(("stacks", "kinds"), [(1, "j"), (3, "jbj"), (5, "jblbj")])
def test_levels_go_up_and_down(stacks, kinds):
    model = network(kind="compositional", stacks=stacks, width=32)
    assert "".join(kind[0] for kind in model.supervision) == kinds


def test_what_joins_the_way_down_begins_as_he_says():
    model = network(kind="compositional", stacks=5, width=64)
    for conv in (m for m in model.rejoin.modules() if isinstance(m, nn.Conv2d)):
        assert float(conv.weight.detach().std()) == pytest.approx(variance(conv, "he") ** 0.5, rel=0.2)
        assert conv.bias is None or not conv.bias.any()


def test_the_way_down_sees_the_way_up():
    """The last output depends on the first one's maps through the top-down join alone, re-injection cut."""
    model = network(kind="compositional", stacks=5, width=32).eval()
    with torch.no_grad():
        for injection in (*model.feature_injections, *model.heatmap_injections):
            injection.weight.zero_()
    before = model(image())[-1]
    with torch.no_grad():
        model.heads[0].bias += 1
    assert (model(image())[-1] - before).abs().max() > 1e-6


# Ponti


def test_local_response_is_krizhevskys():
    norm, x = LocalResponse(7), torch.randn(2, 7, 3, 3)
    expected = torch.empty_like(x)
    for i in range(7):
        near = x[:, max(0, i - 2) : i + 3]
        expected[:, i] = x[:, i] / (2 + 1e-4 * near.square().sum(1)) ** 0.75
    assert torch.allclose(norm(x), expected, atol=1e-6)
    # torch divides the sum by the number of neighbours, so its alpha is five times as large
    assert torch.allclose(norm(x), functional.local_response_norm(x, 5, 5e-4, 0.75, 2.0), atol=1e-6)


def test_channel_l2_gives_unit_length_times_gain():
    norm, x = ChannelL2(9), torch.randn(2, 9, 3, 3)
    assert torch.allclose(norm(x).norm(dim=1), torch.full((2, 3, 3), 3.0), atol=1e-3)  # the gain begins at sqrt(9)
    assert torch.allclose(norm(5 * x), norm(x), atol=1e-4)


@pytest.mark.parametrize("norm", [LocalResponse, ChannelL2])
def test_norms_bear_half_precision(norm):
    """Squares of 300 are beyond float16."""
    assert norm(8)(torch.full((1, 8, 1, 1), 300.0, dtype=torch.float16)).isfinite().all()


def test_no_norm_leaves_a_bias():
    model = network(norm="none")
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert any(isinstance(m, Bias) for m in model.modules())


def test_dropout_keeps_the_expectation_and_is_off_when_running():
    model = network(dropout=0.5, stacks=1)
    assert model.dropout.p == 0.5
    model.dropout.train()
    torch.manual_seed(0)
    kept = model.dropout(torch.ones(64, 64, 1, 1))
    assert set(kept.unique().tolist()) == {0.0, 2.0}  # 1 / (1 - p)
    assert float(kept.mean()) == pytest.approx(1, abs=0.06)
    model.eval()
    assert torch.equal(model(image())[-1], model(image())[-1])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"kind": "compositional", "stacks": 2}, "must be 1, 3 or 5"),
        ({"kind": "cascade", "attention": {}}, "attention belongs to kind stacked-hourglass"),
        ({"block": "reparam", "norm": "l2"}, "reparam folds batch norms"),
        ({"attention": {"kernel": 4}}, "must be odd"),
        ({"block": "hru", "depth": 4}, "must be a multiple of 128 .stride 4, 5 poolings"),
    ],
)
def test_networks_that_cannot_be_are_refused(model, message):
    with pytest.raises(ValidationError, match=message):
        recipe(**model)


def test_features_must_leave_room_for_the_maps_that_join_them():
    with pytest.raises(ValidationError, match=r"model.width 16 must be more than the skeleton's 16 joints"):
        recipe(kind="compositional", stacks=3, width=16)


def test_a_recipe_says_what_a_skeleton_lacks(monkeypatch):
    from edgepose import skeletons

    odd = replace(MPII16, name="odd", joints=("nose", "tail"), limbs=(), head=None)
    monkeypatch.setitem(skeletons.SKELETONS, "odd", odd)
    with pytest.raises(ValidationError, match="skeleton odd has no limb to compose"):
        Recipe.model_validate(
            {
                "name": "odd",
                "skeleton": "odd",
                "data": [{"data": "synth:1"}],
                "model": {"kind": "compositional", "stacks": 5},
                "stages": [{"images": 16, "size": 64}],
            }
        )
