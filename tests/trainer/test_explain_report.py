"""The sheets, and the whole report on a checkpoint and on a bundle."""

import base64
import re

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from edgepose import EdgeposeError
from edgepose.skeletons import COCO17, LSP14, MPII16
from tests.trainer.conftest import make_coco
from trainer.explain.report import ends, explain
from trainer.explain.sheets import attention_sheet, outputs_sheet
from trainer.explain.tiles import captioned, fitted, grid, heat, length, paragraph, signed
from trainer.explain.views import View
from trainer.fit import fit
from trainer.models.build import build
from trainer.recipe import Recipe


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(checkpoint, spec, root): a tiny network after two steps on drawn figures."""
    root = tmp_path_factory.mktemp("explained")
    spec, _ = make_coco(root, 8)
    recipe = Recipe.model_validate({
        "name": "tiny",
        "precision": "float32",
        "data": [{"data": spec, "split": "all"}],
        "model": {"width": 16, "depth": 2, "stacks": 1, "order": "post"},
        "stages": [{"images": 8, "size": 64, "batch": 4}],
        "optimiser": {"warm_up": 1, "ema": 0.5},
    })  # fmt: skip
    return str(fit(recipe, root / "run", root=root, workers=0, threads=1)), spec, root


def pictures(page):
    """{title: picture} of a report."""
    found = {}
    for title, body in re.findall(r"<h2>(.*?)</h2>(.*?)</section>", page, re.DOTALL):
        data = re.search(r'src="data:image/png;base64,([^"]+)"', body)[1]
        found[title] = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    return found


def self_contained(page):
    return "http" not in page and all(s.startswith("data:image/png;base64,") for s in re.findall(r'src="([^"]*)', page))


def test_a_checkpoint_is_explained_on_one_page(trained, tmp_path):
    model, spec, root = trained
    out = tmp_path / "report.html"
    explain(model, spec, out, root=root, count=2, joints=["head_top", "left_wrist"], channels=2, step=16,
            layers=["stem", "hourglasses.0.inner.side"])  # fmt: skip
    page = out.read_text()
    assert self_contained(page)
    found = pictures(page)
    assert [t.split(":")[0] for t in found] == [
        "Heatmaps", "Occlusion", "Joints projected back to pixels", "Layer stem", "Layer hourglasses.0.inner.side",
    ]  # fmt: skip
    shapes = {t.split(":")[0]: p.shape for t, p in found.items()}
    assert shapes["Occlusion"] == shapes["Joints projected back to pixels"] == (2 * 214 - 4, 3 * 196 - 4, 3)
    assert all(p.std() > 5 for p in found.values())
    assert spec in page
    assert "projections to pixels" not in page


def test_a_checkpoint_is_explained_in_one_picture_with_default_layers(trained, tmp_path):
    model, spec, root = trained
    explain(model, spec, tmp_path / "report.png", root=root, count=1, channels=1, step=32, patch_images=4)
    picture = cv2.imread(str(tmp_path / "report.png"))
    assert picture.shape[0] > 7 * 150  # heatmaps, occlusion, projections, four layers
    assert [p.name for p in tmp_path.iterdir()] == ["report.png"]


def test_a_bundle_is_explained_without_its_inside(tiny, trained, tmp_path):
    _, spec, root = trained
    out = tmp_path / "report.html"
    explain(str(tiny.path), spec, out, root=root, count=2, step=16)
    page = out.read_text()
    assert self_contained(page)
    assert [t.split(":")[0] for t in pictures(page)] == ["Heatmaps", "Occlusion"]
    assert "This model is a bundle: projections to pixels" in page
    with pytest.raises(EdgeposeError, match="cannot be shown: a bundle has none by name; give its checkpoint"):
        explain(str(tiny.path), spec, out, root=root, layers=["stem"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ["stem.9"]}, "unknown layer 'stem.9'; did you mean 'stem"),
        ({"layers": ["hourglasses"]}, "layer 'hourglasses' gives no feature maps; name one inside it"),
        ({"joints": ["left_rist"]}, "unknown joint 'left_rist' in skeleton mpii16; did you mean 'left_wrist'?"),
        ({"split": "test"}, "unknown split 'test'; known: all, dev, train, val"),
        ({"out": "report.pdf"}, "a report ends in .html"),
        ({"count": 0}, "count 0 shows nothing; give 1 or more"),
        ({"square": 100}, "occlusion square 100 does not fit a crop of 64x64 pixels"),
    ],
)
def test_bad_wishes_are_refused(trained, tmp_path, changes, message):
    model, spec, root = trained
    out = tmp_path / changes.pop("out", "report.html")
    with pytest.raises(EdgeposeError, match=message):
        explain(model, spec, out, root=root, **changes)
    assert not out.exists()


def test_a_wish_without_its_own_words_is_escaped(trained, tmp_path):
    model, _, root = trained
    (root / "<b>").symlink_to(root / "figures")
    explain(model, "coco:<b>/annotations.json:<b>/images", tmp_path / "r.html", root=root, count=1, channels=1,
            layers=["stem"], joints=["head_top"], step=32)  # fmt: skip
    assert "<b>" not in (tmp_path / "r.html").read_text()
    assert "coco:&lt;b&gt;/annotations.json" in (tmp_path / "r.html").read_text()


def test_the_bodys_ends_are_shown_by_default():
    assert ends(MPII16) == ["right_ankle", "left_ankle", "head_top", "right_wrist", "left_wrist"]
    assert ends(LSP14) == ["right_ankle", "left_ankle", "right_wrist", "left_wrist", "head_top"]
    assert set(ends(COCO17)) >= {"left_ankle", "right_wrist", "left_ear"}


class Attention(nn.Module):
    """Attends to what is red in map 0, to what is blue in map 1."""

    is_attention = True

    def __init__(self, alone):
        super().__init__()
        self.alone = alone

    def forward(self, x):
        small = nn.functional.avg_pool2d(x, 8)[:, [0, 2]] / 16
        maps = small.flatten(2).softmax(-1).view_as(small)
        return maps if self.alone else (x, maps)


class Attentive(nn.Module):
    def __init__(self, alone):
        super().__init__()
        self.look = Attention(alone)
        self.head = nn.Conv2d(3, 16, 4, 4)

    def forward(self, image):
        self.look(image)
        return [self.head(image)]


@pytest.mark.parametrize("alone", [False, True])
def test_attention_is_drawn_where_it_lies(alone):
    crop = np.zeros((64, 64, 3), np.uint8)
    crop[8:16, 40:48, 2] = 255  # red, upper right
    crop[48:56, 8:16, 0] = 255  # blue, lower left
    image = np.ascontiguousarray(crop[:, :, ::-1].transpose(2, 0, 1)).astype(np.float32)
    seen = View(crop, image, np.zeros((16, 16, 16), np.float32), np.zeros((16, 2)), np.zeros(16))
    picture = attention_sheet(Attentive(alone), [seen], MPII16).picture
    assert picture.shape == (158, 3 * 140 + 2 * 4, 3)
    red, blue = picture[18:, 144:284].astype(int), picture[18:, 288:].astype(int)
    for tile, (x, y) in ((red, (43.5, 11.5)), (blue, (11.5, 51.5))):
        hot = np.argwhere(tile[..., 2] - tile[..., 0] > 80)  # the warm end of the colours
        assert np.allclose(hot.mean(0) * 64 / 140, (y, x), atol=3)
    assert attention_sheet(nn.Sequential(nn.Conv2d(3, 16, 4, 4)), [seen], MPII16) is None
    # The module is found in a network that trains, and the network goes on training.
    network = Attentive(alone).train()
    assert attention_sheet(network, [seen, seen], MPII16).picture.shape[0] > 2 * 158
    assert network.look.training
    assert torch.is_grad_enabled()


def test_tiles_keep_proportions_and_captions_fit():
    wide = np.full((10, 40, 3), 255, np.uint8)
    tile = fitted(wide, 80)
    assert tile.shape == (80, 80, 3)
    assert (tile[30:50] == 255).all()
    assert (tile[:29] == 114).all()
    assert fitted(wide, 80, span=80).mean() < tile.mean()  # a quarter of it
    assert captioned(tile, "hourglasses.0.inner.inner.inner.inner").shape == (98, 80, 3)
    assert (captioned(tile, "hourglasses.0.inner.inner.inner.inner")[:18, -2:] == 255).all()
    assert grid([tile] * 5, 2, gap=4).shape == (3 * 84 - 4, 2 * 84 - 4, 3)
    text = paragraph("one two three four five six seven eight nine ten", 120)
    assert text.shape[1] == 120
    assert text.shape[0] > 40
    assert (text[:, 116:] == 255).all()
    assert length("iiii", 0.4) < length("iiiiiiii", 0.4)


def test_nothing_is_grey_and_heat_is_where_it_is():
    signal = np.zeros((20, 20, 3))
    assert (signed(signal) == 128).all()
    signal[3, 4] = (1, 0, -1)
    signal[5:9] = 1
    assert signed(signal)[3, 4].tolist() == [255, 128, 1]
    values = np.zeros((4, 4))
    crop = np.full((16, 16, 3), 100, np.uint8)
    assert (heat(crop, values) == 75).all()
    values[3, 0] = 1
    coloured = np.ptp(heat(crop, values).astype(int), axis=2) > 30
    assert coloured[14, 1]
    assert not coloured[:8].any()
    assert not coloured[:, 8:].any()


@pytest.mark.parametrize(
    ("model", "kinds"),
    [({"kind": "compositional", "stacks": 5, "width": 32}, 5), ({"kind": "cascade", "stacks": 1}, 2)],
)
def test_what_a_network_predicts_on_the_way_is_drawn(model, kinds):
    torch.manual_seed(0)
    made = Recipe.model_validate(
        {
            "name": "drawn",
            "data": [{"data": "synth:1"}],
            "model": {"width": 16, "depth": 2, **model},
            "stages": [{"images": 16, "size": 64}],
        }
    )
    image = np.random.default_rng(0).uniform(0, 255, (3, 64, 64)).astype(np.float32)
    crop = np.ascontiguousarray(image.transpose(1, 2, 0)[:, :, ::-1]).astype(np.uint8)
    seen = View(crop, image, np.zeros((16, 16, 16), np.float32), np.zeros((16, 2)), np.zeros(16))
    picture = outputs_sheet(build(made), [seen]).picture
    assert picture.shape[1] == (1 + kinds) * 140 + kinds * 4
    assert picture.std() > 10
    plain = made.model_copy(update={"model": made.model.model_copy(update={"kind": "stacked-hourglass", "stacks": 1})})
    assert outputs_sheet(build(plain), [seen]) is None
