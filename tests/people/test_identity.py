"""The identity metrics on cases small enough to count by hand."""

import numpy as np
import pytest

from tests.people.identity import ALPHAS, Sight, hota, idf1, switches

HERE, THERE, ELSEWHERE = [0.0, 0.0, 10.0, 10.0], [100.0, 0.0, 110.0, 10.0], [300.0, 0.0, 310.0, 10.0]


def sight(truth, published):
    """A frame from two dicts of id: box."""

    def boxes(of):
        return np.array(list(of.values()), float).reshape(-1, 4)

    return Sight(list(truth), boxes(truth), list(published), boxes(published))


def test_a_perfect_record():
    frames = [sight({"A": HERE, "B": THERE}, {"2": THERE, "1": HERE})] * 10
    assert switches(frames) == 0
    assert idf1(frames) == 1
    assert hota(frames) == pytest.approx(1)


def test_one_switch_in_the_middle():
    frames = [sight({"A": HERE}, {"1": HERE})] * 5 + [sight({"A": HERE}, {"2": HERE})] * 5
    assert switches(frames) == 1
    assert idf1(frames) == 2 * 5 / 20  # one of the two ids is right for half of the frames
    assert hota(frames) == pytest.approx(np.sqrt(0.5))  # A(c) = 5 / (5 + 5 + 0) for all ten, all detected


def test_two_people_who_exchange_ids():
    frames = [sight({"A": HERE, "B": THERE}, {"1": HERE, "2": THERE})] * 6
    frames += [sight({"A": HERE, "B": THERE}, {"2": HERE, "1": THERE})] * 4
    assert switches(frames) == 2
    assert idf1(frames) == 2 * 12 / 40
    # 12 boxes with A(c) = 6 / (6 + 4 + 4) and 8 with A(c) = 4 / (4 + 6 + 6), of 20
    assert hota(frames) == pytest.approx(np.sqrt((12 * 6 / 14 + 8 * 4 / 16) / 20))


def test_all_missed():
    frames = [sight({"A": HERE}, {})] * 4
    assert (switches(frames), idf1(frames), hota(frames)) == (0, 0, 0)


def test_published_where_nobody_is():
    frames = [sight({}, {"1": HERE})] * 4
    assert (switches(frames), idf1(frames), hota(frames)) == (0, 0, 0)
    frames = [sight({"A": HERE}, {"1": HERE, "2": ELSEWHERE})] * 4
    assert switches(frames) == 0
    assert idf1(frames) == pytest.approx(2 * 4 / (4 + 8))
    assert hota(frames) == pytest.approx(np.sqrt(4 / 8))  # A(c) = 1; 4 TP, 4 FP


def test_a_gap_is_no_switch_and_a_new_id_after_it_is_one():
    seen, unseen = sight({"A": HERE}, {"1": HERE}), sight({"A": HERE}, {})
    assert switches([seen, unseen, seen]) == 0
    renamed = [seen, unseen, sight({"A": HERE}, {"2": HERE})]
    assert switches(renamed) == switches(renamed, within=2) == 1
    assert switches(renamed, within=1) == 0
    assert idf1([seen, unseen, seen]) == pytest.approx(2 * 2 / 5)
    assert hota([seen, unseen, seen]) == pytest.approx(np.sqrt((2 * 2 / 3) / 3))  # A(c) = 2 / (2 + 1 + 0)


def test_an_id_stays_with_its_person_while_two_overlap():
    """A pair that holds is not broken for a better one."""
    near = [2.0, 0.0, 12.0, 10.0]
    frames = [sight({"A": HERE}, {"1": HERE}), sight({"A": HERE}, {"1": near, "2": HERE})]
    assert switches(frames) == 0


def test_hota_counts_a_loose_box_up_to_its_iou():
    half = [0.0, 0.0, 10.0, 5.0]  # IoU 0.5
    assert hota([sight({"A": HERE}, {"1": half})] * 3) == pytest.approx((ALPHAS <= 0.5).mean())


def test_nothing_at_all_is_not_a_number():
    assert np.isnan(idf1([]))
    assert np.isnan(hota([sight({}, {})]))
