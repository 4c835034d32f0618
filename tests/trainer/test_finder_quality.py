"""How good a finder is: every figure by hand."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from edgepose import bundle as bundles
from edgepose import engines
from edgepose.people.association import iou
from edgepose.people.finder import Finder, Found
from trainer.finder.evaluate import (
    LEAST,
    LOWEST,
    Quality,
    WithProbability,
    look,
    manual_of,
    of_network,
    quality,
)
from trainer.finder.fit import network
from trainer.finder.recipe import FinderRecipe, SceneSet
from trainer.finder.scenes import Scene, read

A, B, C = [0.0, 0, 10, 20], [20.0, 0, 30, 20], [40.0, 0, 50, 20]
FAR = [70.0, 0, 80, 20]


def boxes_of(boxes):
    return np.array(boxes, dtype=float).reshape(-1, 4)


def scene(people, unsure=(), labelled=None):
    known = np.ones(len(people), dtype=bool) if labelled is None else np.array(labelled)
    return Scene(Path("none.png"), boxes_of(people), known, boxes_of(unsure))


def found(*pairs):
    """Of (box, score), the highest score first."""
    pairs = sorted(pairs, key=lambda p: -p[1])
    return Found(boxes_of([b for b, _ in pairs]), np.array([s for _, s in pairs], dtype=float))


def measured(people, pairs, least=0.3, **rest):
    return quality([scene(people, **rest)], [found(*pairs)], least)


def test_all_found_and_nothing_else():
    assert measured([A, B], [(A, 0.9), (B, 0.8)]) == Quality(
        images=1,
        people=2,
        average_precision=100.0,
        recall=100.0,
        precision=100.0,
        labelled_recall=100.0,
        least=0.3,
    )


def test_a_wrong_box_that_comes_last_costs_precision_only():
    got = measured([A, B], [(A, 0.9), (B, 0.8), (FAR, 0.5)])
    assert (got.average_precision, got.recall, got.precision) == (100.0, 100.0, 66.67)


def test_a_wrong_box_that_comes_first_costs_both():
    """Precision 0, 1/2, 2/3 at recall 0, 1/2, 1: the envelope is 2/3 everywhere."""
    got = measured([A, B], [(FAR, 0.95), (A, 0.9), (B, 0.8)])
    assert (got.average_precision, got.recall, got.precision) == (66.67, 100.0, 66.67)


def test_a_duplicate_is_wrong():
    shifted = [1.0, 0, 11, 20]
    got = measured([A, B], [(A, 0.9), (shifted, 0.85), (B, 0.8)])
    assert got.recall == 100.0
    assert got.precision == 66.67
    assert got.average_precision == 83.33  # 1/2 * 1 + 1/2 * 2/3


def test_the_surer_box_has_the_person_though_a_weaker_one_fits_better():
    """As in Pascal VOC; and at the published score the weaker one does not exist."""
    loose, tight = [0.0, 0, 10, 14], [0.0, 1, 10, 20]  # IoU 0.7 and 0.95 with A
    got = measured([A], [(loose, 0.9), (tight, 0.1)])
    assert (got.average_precision, got.recall, got.precision, got.labelled_recall) == (100.0, 100.0, 100.0, 100.0)


def test_a_box_takes_the_person_that_it_fits_best_of_those_left():
    near = [3.0, 0, 13, 20]  # IoU 7 / 13 with A
    between = [1.0, 0, 11, 20]  # 9 / 11 with A, 8 / 12 with near
    assert measured([A, near], [(between, 0.9), (near, 0.8)]).recall == 100.0
    assert measured([A, near], [(near, 0.9), (between, 0.8)]).recall == 100.0
    assert measured([A, near], [(A, 0.9), (between, 0.8)]).recall == 100.0  # A is taken; near is left


def test_the_bar_is_half():
    assert measured([A], [([0.0, 0, 10, 10], 0.9)]).recall == 100.0  # IoU exactly 1/2
    assert measured([A], [([0.0, 0, 10, 9.9], 0.9)]).recall == 0.0


def test_somebody_missed():
    got = measured([A, B, C], [(A, 0.9)])
    assert (got.average_precision, got.recall, got.precision) == (33.33, 33.33, 100.0)
    assert measured([A, B, C], []).recall == 0.0


def test_a_box_over_an_unsure_place_counts_neither_way():
    wide = [66.0, 0, 90, 30]
    got = measured([A], [(A, 0.9), (FAR, 0.95)], unsure=[wide])
    assert (got.average_precision, got.recall, got.precision, got.people) == (100.0, 100.0, 100.0, 1)
    half, less = [65.0, 0, 75, 20], [64.9, 0, 74.9, 20]
    assert measured([A], [(A, 0.9), (half, 0.8)], unsure=[FAR]).precision == 100.0
    assert measured([A], [(A, 0.9), (less, 0.8)], unsure=[FAR]).precision == 50.0


def test_a_person_in_an_unsure_place_counts_and_a_second_box_there_does_not():
    around = [-5.0, -5, 25, 40]
    assert measured([A], [], unsure=[around]).people == 1
    got = measured([A], [(A, 0.9), ([2.0, 0, 12, 20], 0.8)], unsure=[around])
    assert (got.recall, got.precision) == (100.0, 100.0)


def test_labelled_people_have_a_recall_of_their_own():
    got = measured([A, B, C], [(A, 0.9), (C, 0.8)], labelled=[True, True, False])
    assert (got.recall, got.labelled_recall) == (66.67, 50.0)
    low = measured([A, B], [(A, 0.9), (B, 0.2)])  # found, but below the score
    assert (low.average_precision, low.recall, low.labelled_recall) == (100.0, 50.0, 50.0)


def test_average_precision_of_a_ranking_over_scenes():
    """Ranks r w r w w r, four people: precision 1, 1/2, 2/3, 1/2, 2/5, 1/2; (1 + 2/3 + 1/2) / 4 = 13/24."""
    scenes = [scene([A, B]), scene([A, B])]
    seen = [found((A, 0.9), (FAR, 0.8), (B, 0.4)), found((A, 0.7), (FAR, 0.6), (C, 0.5))]
    got = quality(scenes, seen, 0.45)
    assert got.average_precision == pytest.approx(100 * 13 / 24, abs=0.01)
    assert (got.images, got.people) == (2, 4)
    assert (got.recall, got.precision) == (50.0, 40.0)  # of the five above 0.45, two are right


def test_a_scene_with_few_boxes_does_not_stand_in_anothers_way():
    """Boxes are people's of their own scene only."""
    got = quality([scene([A]), scene([B])], [found((B, 0.9)), found((A, 0.8))], 0.3)
    assert (got.recall, got.precision, got.average_precision) == (0.0, 0.0, 0.0)


def test_average_precision_equals_the_area_computed_otherwise():
    """Against the sum over people of the best precision at their recall or beyond."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        scenes, seen = [], []
        for _ in range(6):
            low = rng.uniform(0, 60, (4, 2))
            people = np.concatenate([low, low + rng.uniform(15, 40, (4, 2))], axis=1)
            moved = people[rng.permutation(4)[:3]] + rng.normal(0, 4, (3, 4))
            scenes.append(scene(people))
            seen.append(found(*zip(moved.tolist(), rng.uniform(0.1, 1, 3), strict=True)))
        assert quality(scenes, seen, 0.3).average_precision == pytest.approx(area(scenes, seen), abs=0.01)


def area(scenes, seen):
    ranking = []
    for one, boxes in zip(scenes, seen, strict=True):
        free = set(range(len(one.people)))
        for box, score in zip(boxes.boxes, boxes.scores, strict=True):
            alike = {j: iou(box[None], one.people[j : j + 1])[0, 0] for j in free}
            best = max(alike, key=alike.get) if alike else None
            right = best is not None and alike[best] >= 0.5
            free -= {best} if right else set()
            ranking.append((score, right))
    ranking.sort(reverse=True)
    precisions, right = [], 0
    for rank, (_, is_right) in enumerate(ranking, start=1):
        right += is_right
        precisions.append((is_right, right / rank))
    best = [max(p for _, p in precisions[i:]) for i, (is_right, _) in enumerate(precisions) if is_right]
    return 100 * sum(best) / sum(len(s.people) for s in scenes)


@pytest.mark.parametrize(
    ("scenes", "seen"),
    [([], []), ([scene([])], [found()]), ([scene([A])], [found()]), ([scene([], unsure=[A])], [found((A, 0.9))])],
)
def test_where_there_is_nothing_the_figures_are_nought(scenes, seen):
    got = quality(scenes, seen, 0.3)
    assert (got.average_precision, got.recall, got.precision, got.labelled_recall) == (0.0, 0.0, 0.0, 0.0)


def test_where_nobody_is_a_box_is_wrong():
    got = measured([], [(A, 0.9)])
    assert (got.people, got.average_precision, got.recall, got.precision) == (0, 0.0, 0.0, 0.0)


# A network as a finder


def tiny():
    return FinderRecipe.model_validate(
        {
            "name": "tiny",
            "role": "person",
            "input_size": [96, 64],
            "data": [{"data": "synth:2"}],
            "model": {"width": 16, "depth": 2, "stacks": 1, "stem": "compact", "block": "narrow"},
            "stages": [{"images": 4, "size": 64, "batch": 4}],
        }
    )


def test_the_network_without_and_with_its_sigmoid():
    torch.manual_seed(0)
    model = network(tiny()).eval()
    image = torch.rand(1, 3, 64, 96) * 255
    with torch.inference_mode():
        plain, (final,) = model(image)[-1], WithProbability(model)(image)
    assert plain.shape == final.shape == (1, 5, 16, 24)
    assert torch.allclose(final[:, 0], torch.sigmoid(plain[:, 0]))
    assert torch.equal(final[:, 1:], plain[:, 1:])
    assert final[:, 0].mean() == pytest.approx(0.1, abs=0.05)  # as its first bias says


def test_the_manual_says_what_the_finder_is():
    manual = manual_of(tiny())
    assert (manual.role, manual.input_size, manual.maps, manual.padding) == ("person", (96, 64), 5, 1.0)
    assert FinderRecipe.model_validate(manual.recipe) == tiny()


@pytest.mark.parametrize("training", [False, True])
def test_looking_leaves_the_network_in_its_mode(tmp_path, training):
    """So that a loaded network is exported as it was loaded, and one that learns goes on learning."""
    model = network(tiny()).train(training)
    cv2.imwrite(str(tmp_path / "a.png"), np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8))
    one = Scene(tmp_path / "a.png", boxes_of([A]), np.ones(1, dtype=bool), boxes_of([]))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    seen = look(of_network(tiny(), model), [one, one])
    assert len(seen) == 2
    assert np.array_equal(seen[0].boxes, seen[1].boxes)
    assert all(m.training is training for m in model.modules())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


SETS = (
    ("coco:mpii_sports/annotations.json:mpii_sports/images", "mpii_sports/people_pseudo.json"),
    ("lsp:lspet", "lspet/people_pseudo.json"),
)


@pytest.mark.parametrize("name", ["edgepose-finder", "edgepose-finder-int8"])
@pytest.mark.parametrize(("data", "guesses"), SETS)
def test_the_shipped_finders_find_people_of_whom_they_did_not_learn(data_root, data, guesses, name):
    """As their card says: some 95 each."""
    bundle = bundles.load(name, role="person")
    scenes = read(SceneSet(data=data, guesses=guesses, split="dev"), data_root)
    engine = engines.load(bundle)
    result = quality(scenes, look(Finder(engine, bundle.manual, least=LOWEST), scenes), LEAST)
    engine.close()
    assert result.people > 150
    assert result.average_precision > 92
    assert result.recall > 92
    assert result.precision > 85
