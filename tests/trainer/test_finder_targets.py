"""What a finder is trained towards: targets and losses, by hand and back through the decoder."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgepose.people.association import iou
from edgepose.people.finder import decode
from trainer.finder.samples import MOST
from trainer.finder.targets import MIDDLE, SPREAD, focal, known, losses, maps

NOBODY = np.zeros((0, 4))


def batch(*boxes, rows=8):
    """Boxes in cells as a batch of one: [1, rows, 4], NaN where there is none."""
    table = torch.full((1, rows, 4), torch.nan)
    if boxes:
        table[0, : len(boxes)] = torch.tensor(boxes)
    return table


def test_one_person_by_hand():
    """A box of 20 x 40 cells around (15.3, 24.6): deviations 1.8 and 3.6 about cell (15, 25)."""
    heat, regression, middle = maps(batch((5.3, 4.6, 25.3, 44.6)), 48)
    assert heat.shape == middle.shape == (1, 48, 48)
    assert regression.shape == (1, 4, 48, 48)
    assert heat[0, 25, 15] == 1
    assert (heat == 1).sum() == 1
    assert heat[0, 25, 17] == pytest.approx(math.exp(-((2 / (SPREAD * 20)) ** 2) / 2))
    assert heat[0, 22, 16] == pytest.approx(math.exp(-((1 / 1.8) ** 2 + (3 / 3.6) ** 2) / 2))
    assert regression[0, :, 25, 15].tolist() == pytest.approx([math.log(20), math.log(40), 0.3, -0.4], abs=1e-5)
    assert regression[0, :, 27, 14].tolist() == pytest.approx([math.log(20), math.log(40), 1.3, -2.4], abs=1e-5)
    assert torch.equal(middle, heat >= MIDDLE)


def test_small_people_have_a_gaussian_of_least_width():
    heat, _, _ = maps(batch((9.0, 9.0, 11.0, 11.0)), 20)
    assert heat[0, 10, 11] == pytest.approx(math.exp(-((1 / 0.7) ** 2) / 2))


def test_of_two_people_each_has_the_cells_nearer_to_it():
    left, right = (2.0, 2.0, 22.0, 42.0), (14.0, 2.0, 34.0, 42.0)  # centres (12, 22) and (24, 22)
    heat, regression, _ = maps(batch(left, right), 48)
    assert heat[0, 22, 12] == heat[0, 22, 24] == 1
    single = [maps(batch(box), 48)[0] for box in (left, right)]
    assert torch.equal(heat, torch.maximum(*single))
    assert regression[0, 2, 22, 15] == -3
    assert regression[0, 2, 22, 21] == 3


def test_nobody_is_an_empty_map():
    heat, regression, middle = maps(batch(), 16)
    assert not heat.any()
    assert not middle.any()
    assert regression.isfinite().all()


def test_rows_may_stand_anywhere_and_images_are_apart():
    box = (2.0, 3.0, 12.0, 13.0)
    table = torch.full((2, 5, 4), torch.nan)
    table[1, 3] = torch.tensor(box)
    heat, _, _ = maps(table, 16)
    assert not heat[0].any()
    assert torch.equal(heat[1:], maps(batch(box), 16)[0])


@pytest.mark.parametrize("box", [(-9.0, -4.0, 6.0, 10.0), (-12.0, 10.0, 3.0, 30.0), (20.0, 20.0, 50.0, 41.0)])
def test_people_partly_outside_have_their_peak_in_the_map(box):
    """Also where their centre lies outside: the nearest cell stands for it, and its offset leads there."""
    heat, regression, _ = maps(batch(box), 32)
    assert (heat == 1).sum() == 1
    decoded, scores = decode(whole(heat, regression), 0.99)
    assert scores == pytest.approx(1)
    assert np.allclose(decoded, [box], atol=1e-3)


def whole(heat, regression):
    """A batch of one as the finder's five maps."""
    return torch.cat([heat[:, None], regression], dim=1)[0].numpy()


SIZE = 40
spots = st.floats(0, SIZE - 1, width=32)
sides = st.floats(1.5, 38, width=32)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(spots, spots, sides, sides), min_size=1, max_size=4))
def test_decoding_the_targets_gives_the_boxes_back(people):
    """At the peaks by the device's own decoder, and at every cell from which they are learnt."""
    boxes = np.array([(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in people])
    centres = np.array([(x, y) for x, y, _, _ in people])
    apart = np.abs(centres[:, None] - centres[None]).max(axis=2) + 99 * np.eye(len(boxes))
    assume(apart.min() > 3)  # neighbouring cells, of which one peak hides the other, are nobody's promise
    assume((iou(boxes, boxes) - np.eye(len(boxes))).max() < 0.55)
    heat, regression, middle = maps(batch(*boxes.tolist()), SIZE)
    assert (heat == 1).sum() == len(boxes)
    decoded, scores = decode(whole(heat, regression), 0.5)
    assert scores == pytest.approx(np.ones(len(boxes)))
    assert np.allclose(decoded[np.lexsort(decoded.T)], boxes[np.lexsort(boxes.T)], atol=1e-3)
    rows, columns = np.nonzero(middle[0].numpy())
    width, height, dx, dy = regression[0].numpy()[:, rows, columns]
    centre = np.stack([columns + dx, rows + dy], axis=1)
    half = np.exp(np.stack([width, height], axis=1)) / 2
    there = np.concatenate([centre - half, centre + half], axis=1)
    assert np.abs(there[:, None] - boxes[None]).max(axis=2).min(axis=1).max() < 1e-3


# Loss


def scalar_focal(logit, y):
    """Eq. 1 of one cell, before the division by N."""
    p = 1 / (1 + math.exp(-logit))
    return -((1 - p) ** 2) * math.log(p) if y == 1 else -((1 - y) ** 4) * p**2 * math.log(1 - p)


def test_focal_loss_is_equation_1():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (2, 6, 6))
    heat = rng.uniform(0, 1, (2, 6, 6)) ** 2
    heat[0, 2, 3] = heat[1, 0, 0] = 1
    by_hand = np.vectorize(scalar_focal)(logits, heat)
    assert np.allclose(focal(torch.from_numpy(logits), torch.from_numpy(heat)), by_hand, atol=1e-12)


def test_focal_loss_of_extreme_logits_is_finite():
    logits = torch.tensor([[[-200.0, 200.0], [-200.0, 200.0]]], requires_grad=True)
    heat = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    loss = focal(logits, heat)
    assert loss.detach().flatten().tolist() == pytest.approx([200, 0, 0, 200])
    loss.sum().backward()
    assert logits.grad.isfinite().all()


def test_the_centre_is_divided_by_the_number_of_people():
    """Eq. 1's N, over the batch."""
    table = torch.cat([batch((2.0, 2.0, 10.0, 10.0), (16.0, 16.0, 26.0, 30.0)), batch((8.0, 8.0, 20.0, 20.0))])
    predicted = torch.randn(2, 5, 32, 32, generator=torch.Generator().manual_seed(0))
    nowhere = torch.full_like(table, torch.nan)
    expected = focal(predicted[:, 0], maps(table, 32)[0]).sum() / 3
    assert losses(predicted, table, nowhere)["centre"] == pytest.approx(float(expected))


def test_exact_regression_costs_nothing_and_an_error_its_weight():
    table = batch((3.2, 4.4, 20.1, 27.9))
    heat, regression, _ = maps(table, 32)
    predicted = torch.cat([heat[:, None], regression], dim=1)
    assert losses(predicted, table, batch())["size"] == losses(predicted, table, batch())["offset"] == 0
    predicted[:, 2] += 0.3  # ln height
    predicted[:, 3] -= 2.0  # dx
    parts = losses(predicted, table, batch())
    assert parts["size"] == pytest.approx(0.5 * 0.3, rel=1e-5)
    assert parts["offset"] == pytest.approx(0.5 * 2.0, rel=1e-5)


def test_regression_is_learnt_in_the_middle_only():
    table = batch((3.0, 4.0, 25.0, 27.0))
    predicted = torch.randn(1, 5, 32, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
    parts = losses(predicted, table, batch())
    (parts["size"] + parts["offset"]).backward()
    _, _, middle = maps(table, 32)
    assert torch.equal(predicted.grad[:, 1:].abs().sum(dim=1) > 0, middle)
    assert not predicted.grad[:, 0].any()


def test_unsure_places_do_not_count_but_people_in_them_do():
    person, unsure = (6.0, 6.0, 16.0, 22.0), (4.0, 2.0, 24.5, 26.0)
    predicted = torch.randn(1, 5, 32, 32, generator=torch.Generator().manual_seed(2)).requires_grad_()
    losses(predicted, batch(person), batch(unsure))["centre"].backward()
    counts = predicted.grad[0, 0] != 0
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[2:27, 4:25] = True
    middle = maps(batch(person), 32)[2][0]
    assert middle.sum() > 1
    assert torch.equal(counts, ~inside | middle)


def test_unsure_places_by_hand():
    heat = torch.zeros(1, 8, 8)
    assert known(batch(), heat).all()
    beyond = batch((-20.0, -20.0, -5.0, -5.0), (9.0, 0.0, 30.0, 30.0))
    assert known(beyond, heat).all()
    two = known(batch((1.0, 1.0, 2.4, 3.0), (6.5, 6.5, 20.0, 20.0)), heat)
    assert (two == 0).sum() == 2 * 3 + 1
    assert two[0, 7, 7] == 0
    small = known(batch((3.1, 4.6, 3.4, 6.4)), heat)  # narrower than a cell, between the middles of two
    assert [tuple(cell) for cell in (small[0] == 0).nonzero().tolist()] == [(5, 3), (6, 3)]
    heat[0, 2, 1] = 1
    assert known(batch((1.0, 1.0, 2.4, 3.0)), heat)[0, 2, 1] == 1


def test_with_nobody_in_the_picture_losses_and_gradients_are_finite():
    predicted = torch.randn(2, 5, 16, 16, generator=torch.Generator().manual_seed(3)).requires_grad_()
    nobody = torch.full((2, MOST, 4), torch.nan)
    parts = losses(predicted, nobody, nobody)
    assert parts["size"] == parts["offset"] == 0
    assert parts["centre"] > 0
    torch.stack(list(parts.values())).sum().backward()
    assert predicted.grad.isfinite().all()
    assert predicted.grad[:, 0].all()  # every cell learns that it is background


def test_losses_of_half_precision_are_taken_in_full():
    table = batch((3.0, 4.0, 25.0, 27.0))
    predicted = torch.randn(1, 5, 32, 32, generator=torch.Generator().manual_seed(4)).bfloat16()
    assert all(part.dtype == torch.float32 for part in losses(predicted, table, batch()).values())
