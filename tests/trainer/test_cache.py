"""Crops are kept under what they were cut from."""

from dataclasses import replace

from tests.trainer.conftest import make_coco
from trainer.data import load
from trainer.data.cache import open_cache


def test_who_has_another_box_by_now_is_cut_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path / "cache"))
    persons = load(*make_coco(tmp_path, 2))
    moved = replace(persons, persons=[replace(p, box=p.box + 5) for p in persons.persons])
    assert open_cache(persons, 32, 1.25).path == open_cache(persons, 32, 1.25).path
    assert open_cache(persons, 32, 1.25).path != open_cache(moved, 32, 1.25).path
