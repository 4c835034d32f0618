import pytest
import torch

from edgepose.heatmaps import Decoder
from trainer.targets import disk_loss, disks, gaussians, heatmap_loss, known_paths, path_maps, to_cells


def test_targets_and_decoder_share_one_convention():
    """Decoding a target gives the joint back: no half-pixel bias between training and running."""
    joints = torch.rand(3, 5, 2, generator=torch.Generator().manual_seed(0)) * 100 + 14
    target = gaussians(to_cells(joints, 4), 32, 1.5)
    decoded = Decoder(5, (32, 32), method="dark")(target.numpy()).xy
    assert abs(decoded * 4 + 1.5 - joints.numpy()).max() < 0.1


def test_target_values():
    target = gaussians(to_cells(torch.tensor([[[1.5, 5.5]]]), 4), 8, 2.0)  # the centre of cell (0, 1)
    assert target[0, 0, 1, 0] == 1
    assert target[0, 0, 1, 2] == pytest.approx(float(torch.exp(torch.tensor(-0.5))))
    outside = gaussians(torch.tensor([[[-25.0, 1.0]]]), 8, 1.0)
    assert outside.max() < 1e-6


def test_loss_by_hand():
    target = torch.zeros(1, 2, 2, 2)
    target[0, 0, 0, 0] = 1
    predicted = torch.zeros(1, 2, 2, 2)
    predicted[0, 1] = 7  # unlabelled: does not count
    labelled = torch.tensor([[1.0, 0.0]])
    assert heatmap_loss(predicted, target, labelled, foreground=3) == pytest.approx((1 + 3) / 8)
    # a mean over maps and cells: two halves of a batch weigh as the whole, whoever is labelled in them
    assert heatmap_loss(target, target, labelled, 25) == 0
    assert heatmap_loss(predicted, target, torch.zeros(1, 2), 25) == 0  # nobody labelled: no division by nought


def test_disks_hold_the_cells_within_their_radius():
    target = disks(torch.tensor([[[3.0, 2.0]]]), 8, 2.0)[0, 0]
    assert target.sum() == 13  # lattice points of a disk of radius 2
    assert target[2, 3] == target[2, 5] == target[0, 3] == 1
    assert target[2, 6] == target[0, 5] == 0


def test_disk_loss_by_hand():
    """- (p log q + (1 - p) log (1 - q)), q = sigmoid(logit), mean over maps and cells; unlabelled maps are silent."""
    logits = torch.tensor([[[[2.0, -1.0]], [[50.0, 50.0]]]])
    target = torch.tensor([[[[1.0, 0.0]], [[0.0, 0.0]]]])
    q = torch.sigmoid(torch.tensor([2.0, -1.0]))
    expected = -(torch.log(q[0]) + torch.log(1 - q[1])) / 4
    assert disk_loss(logits, target, torch.tensor([[1.0, 0.0]])) == pytest.approx(float(expected))


def test_bone_maps_follow_the_bone():
    """1 on the bone, a Gaussian of the distance beside it, of the distance to the end beyond it."""
    joints = torch.tensor([[[2.0, 5.0], [8.0, 5.0], [8.0, 11.0]]])
    bone, limb = path_maps(joints, 16, 1.5, ((0, 1), (0, 1, 2)))[0]
    gauss = lambda d2: pytest.approx(float(torch.exp(torch.tensor(-d2 / (2 * 1.5**2)))))  # noqa: E731
    assert bone[5, 2] == bone[5, 5] == bone[5, 8] == 1
    assert bone[7, 5] == gauss(4)  # two cells beside it
    assert bone[5, 11] == gauss(9)  # three beyond its end
    assert bone[8, 11] == gauss(18)
    assert limb[9, 8] == 1  # the second bone belongs to the limb only
    assert bone[9, 8] == gauss(16)
    assert torch.equal(limb, torch.maximum(bone, path_maps(joints, 16, 1.5, ((1, 2),))[0, 0]))
    point = path_maps(torch.full((1, 2, 2), 4.0), 16, 1.5, ((0, 1),))[0, 0]  # a bone without length is a point
    assert torch.allclose(point, gaussians(torch.full((1, 1, 2), 4.0), 16, 1.5)[0, 0])


def test_a_path_is_known_where_all_its_joints_are():
    labelled = torch.tensor([[1.0, 1.0, 0.0]])
    assert known_paths(labelled, ((0, 1), (1, 2), (0, 1, 2))).tolist() == [[1.0, 0.0, 0.0]]


def test_a_false_peak_costs_as_much_as_a_missed_one_where_the_recipe_says_so():
    """And an unsure network then promises what it can keep: here the best answer for a joint there half the time."""
    peak, nothing, seen = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), torch.ones(1, 1)
    assert heatmap_loss(peak, nothing, seen, 25, false_peaks=True) == heatmap_loss(nothing, peak, seen, 25) == 26
    assert heatmap_loss(peak, nothing, seen, 25) == 1
    best = {}
    for false_peaks in (False, True):
        answer = torch.full((1, 1, 1, 1), 0.5, requires_grad=True)
        for _ in range(400):
            loss = sum(heatmap_loss(answer, t, seen, 25, false_peaks=false_peaks) for t in (peak, nothing))
            (gradient,) = torch.autograd.grad(loss, answer)
            answer = (answer - 0.01 * gradient).detach().requires_grad_()
        best[false_peaks] = float(answer.detach())
    assert best[False] > 0.95
    assert best[True] == pytest.approx(0.614, abs=0.01)  # 26 (1 - p) = p (1 + 25 p)


def test_weights_of_the_loss_are_those_of_a_target_between_0_and_1():
    """A teacher's maps reach below nought, and a network's above one."""
    one, known = torch.ones(1, 1, 1, 1), torch.ones(1, 1)
    assert heatmap_loss(0 * one, -0.5 * one, known, 25) == 0.25
    assert heatmap_loss(3 * one, 0 * one, known, 25, false_peaks=True) == 9 * 26
