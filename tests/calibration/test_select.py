"""Selection: rare poses are in, the count is exact, the same seed is the same set."""

from __future__ import annotations

import tokenize
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from calibration import sets
from calibration.cli import app
from calibration.features import bottleneck_features
from calibration.select import METHODS, choose, contact_sheet, equal_shares, farthest_first, radius, select
from edgepose import bundle as bundles
from edgepose.bundle import Bundle
from edgepose.errors import EdgeposeError
from trainer.data import persons as people
from trainer.data.persons import Person
from trainer.data.splits import join_twins, take

NO_CROPS = np.zeros((0, 3, 1, 1), dtype=np.uint8)
RARE = 5


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pool() -> np.ndarray:
    """Features of 1000 in five clusters; the last, :data:`RARE` of them, is far from the others."""
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 5, (5, 20))
    centres[4] = 15 * np.eye(20)[0] + centres[:4].mean(axis=0)
    kinds = np.concatenate([rng.integers(0, 4, 1000 - RARE), np.full(RARE, 4)])
    return (centres[kinds] + rng.normal(0, 1, (1000, 20))).astype(np.float32)


def has_rare(indices: np.ndarray) -> bool:
    return bool((indices >= 1000 - RARE).any())


def test_random_mostly_misses_the_rare(pool: np.ndarray) -> None:
    """16 of 1000 meet one of five with a probability of 8 %."""
    hits = [has_rare(choose(pool, NO_CROPS, 16, method="random", seed=s).indices) for s in range(50)]
    assert sum(hits) < 15


@pytest.mark.parametrize("method", ["farthest", "kmeans", "dec"])
def test_others_include_the_rare(pool: np.ndarray, method: str) -> None:
    for seed in range(2):
        choice = choose(pool, NO_CROPS, 16, method=method, seed=seed, clusters=5)
        assert has_rare(choice.indices), seed
        assert len(set(choice.indices)) == 16


def test_fcae_includes_the_rare() -> None:
    """It looks at the crops alone: upright bars, and four across, which no feature tells of."""
    rng = np.random.default_rng(2)
    crops = rng.integers(0, 60, (150, 3, 48, 48), dtype=np.uint8)
    for number, crop in enumerate(crops):
        at = int(rng.integers(8, 32))
        if number < 146:
            crop[:, :, at : at + 8] = 220
        else:
            crop[:, 20:28] = 220
    choice = choose(rng.normal(size=(150, 4)).astype(np.float32), crops, 12, method="fcae", clusters=6)
    assert (choice.indices >= 146).any()
    assert len(set(choice.labels[146:])) == 1, "one cluster holds them all"
    assert set(choice.labels[choice.indices]) == set(choice.labels), "every cluster is in the set"


def test_farthest_first_by_hand() -> None:
    """On a line: nearest to the mean 3.2 first, then the ends, then what is left farthest."""
    line = np.array([[0.0], [1.0], [2.0], [3.0], [10.0]], dtype=np.float32)
    np.testing.assert_array_equal(farthest_first(line, 4), [3, 4, 0, 1])


def test_farthest_first_of_equal_points() -> None:
    assert sorted(farthest_first(np.ones((5, 3), dtype=np.float32), 5)) == [0, 1, 2, 3, 4]


def test_equal_shares_in_rounds() -> None:
    """Sizes 6, 3 and 1: of seven, one of each, two of each that has two, and so on; the large first in each round."""
    labels = np.array([0] * 6 + [1] + [2] * 3)
    features = np.arange(10, dtype=np.float32)[:, None]
    drawn = labels[equal_shares(features, labels, 7)]
    np.testing.assert_array_equal(drawn, [0, 2, 1, 0, 2, 0, 2])
    whole = equal_shares(features, labels, 10)
    assert sorted(whole) == list(range(10))
    np.testing.assert_array_equal(whole[:7], equal_shares(features, labels, 7))


def test_radius_by_hand() -> None:
    plane = np.array([[0, 0], [3, 4], [6, 8], [6, 9]], dtype=np.float32)
    assert radius(plane, np.array([0])) == pytest.approx(117**0.5)
    assert radius(plane, np.array([0, 2])) == pytest.approx(5)


def test_farthest_covers(pool: np.ndarray) -> None:
    """Smaller radius than every one of twenty random draws."""
    drawn = [radius(pool, choose(pool, NO_CROPS, 32, method="random", seed=s).indices) for s in range(20)]
    assert radius(pool, choose(pool, NO_CROPS, 32, method="farthest").indices) < min(drawn)


@pytest.mark.parametrize("method", ["random", "farthest", "kmeans", "dec"])
def test_exact_count_without_duplicates(pool: np.ndarray, method: str) -> None:
    few = pool[-60:]
    for count in (8, 37, 60):
        first, again = (choose(few, NO_CROPS, count, method=method, seed=4).indices for _ in range(2))
        assert len(set(first)) == count
        np.testing.assert_array_equal(first, again)


def test_seed_changes_the_random_draw(pool: np.ndarray) -> None:
    one, two = (choose(pool, NO_CROPS, 16, method="random", seed=s).indices for s in (0, 1))
    assert set(one) != set(two)


@pytest.fixture
def persons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Person]:
    """Two dozen drawn persons."""
    monkeypatch.setenv("EDGEPOSE_CACHE", str(tmp_path))
    return people.load("synth:24").persons


@pytest.mark.parametrize("method", METHODS)
def test_select_makes_a_set(tiny: Bundle, persons: list[Person], method: str, tmp_path: Path) -> None:
    made = select(tiny, persons, 9, method=method, seed=5, clusters=4, data=["synth:24@all"])
    about = made.about
    assert (about.model, about.data, about.method, about.seed, about.pool) == ("tiny", ["synth:24@all"], method, 5, 24)
    places = [int(name.split(": ")[1]) for name in about.persons]
    assert len(set(places)) == len(made) == 9
    np.testing.assert_array_equal(made.crops, sets.cut([persons[i] for i in places], tiny.manual))
    if method in ("random", "farthest"):
        assert about.clusters == []
        assert made.sizes == {}
    else:
        assert set(about.clusters) == set(made.sizes)
        assert sum(made.sizes.values()) == 24
        assert about.clusters == [int(made.pool_labels[i]) for i in places]
    again = select(tiny, persons, 9, method=method, seed=5, clusters=4, data=["synth:24@all"])
    assert again.about == about

    kept = sets.save(made, tmp_path / "set.npz")
    assert kept.about == about
    np.testing.assert_array_equal(kept.crops, made.crops)
    assert len(kept.sha256) == 64


def test_select_by_autoencoder_features(tiny: Bundle, persons: list[Person]) -> None:
    made = select(tiny, persons, 8, features="autoencoder", seed=1)
    assert len(set(made.about.persons)) == 8
    assert len(made.sizes) == 2, "a quarter of the count"


def test_damaged_set(tiny: Bundle, persons: list[Person], tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    sets.save(select(tiny, persons, 4, method="random"), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(EdgeposeError, match=r"set\.npz is not a whole calibration set .*; make it again"):
        sets.load(path)


def test_what_numpy_and_zipfile_make_of_a_damaged_set_is_a_sentence(
    tiny: Bundle, persons: list[Person], tmp_path: Path
) -> None:
    """Each byte of the archive's names, versions and headers, whose faults have many kinds of exceptions."""
    path = tmp_path / "set.npz"
    sets.save(select(tiny, persons, 4, method="random"), path)
    whole, faults = path.read_bytes(), set()
    ends = [*range(160), *range(len(whole) - 200, len(whole))]
    for place in ends:
        for flipped in (0xFF, 0x01, 0x0D):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ flipped]) + whole[place + 1 :])
            try:
                sets.load(path)
            except EdgeposeError as error:
                faults.add(type(error.__cause__))
    assert len(faults) > 4, faults
    assert faults & {RuntimeError, NotImplementedError}
    assert faults & {SyntaxError, tokenize.TokenError}


def test_a_set_whose_name_is_too_long_is_refused() -> None:
    with pytest.raises(EdgeposeError, match="cannot be looked at: File name too long"):
        sets.load(Path("x" * 300 + ".npz"))


@pytest.mark.parametrize(
    ("count", "options", "sentence"),
    [
        (25, {}, "25 crops cannot be chosen of 24 persons; ask for 1 to 24, or add data"),
        (0, {}, "0 crops cannot be chosen of 24 persons"),
        (8, {"method": "kmean"}, "unknown selection method 'kmean'; did you mean 'kmeans'"),
        (8, {"clusters": 9}, "8 crops cannot cover 9 clusters"),
        (8, {"clusters": -1}, "8 crops cannot cover -1 clusters"),
        (8, {"features": "bottelneck"}, "unknown features 'bottelneck'; did you mean 'bottleneck'"),
        (8, {"features": "bottelneck", "method": "random"}, "unknown features"),
    ],
)
def test_refusals(tiny: Bundle, persons: list[Person], count: int, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(EdgeposeError) as raised:
        select(tiny, persons, count, **options)
    assert sentence in str(raised.value)


def test_contact_sheet(tiny: Bundle, persons: list[Person], tmp_path: Path) -> None:
    made = select(tiny, persons, 12, method="kmeans", clusters=3)
    contact_sheet(made, tmp_path / "sheet.png", made.sizes)
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    height, width = 3 * 100, 150 + max(made.about.clusters.count(n) for n in range(3)) * 100
    assert sheet.shape == (height, width, 3)
    largest = max(made.sizes, key=lambda name: (made.sizes[name], -name))
    first = made.crops[made.about.clusters.index(largest)].transpose(1, 2, 0)[:, :, ::-1]
    np.testing.assert_array_equal(sheet[:96, 150:246], cv2.resize(first, (96, 96), interpolation=cv2.INTER_LINEAR))
    assert all((sheet[row * 100 : row * 100 + 96, :150] < 100).any() for row in range(3)), "words in each margin"

    loaded = sets.save(made, tmp_path / "set.npz")
    contact_sheet(loaded, tmp_path / "loaded.png")
    again = cv2.imread(str(tmp_path / "loaded.png"))
    assert again.shape == sheet.shape


def test_contact_sheet_without_clusters(tiny: Bundle, persons: list[Person], tmp_path: Path) -> None:
    contact_sheet(select(tiny, persons, 14, method="random"), tmp_path / "sheet.png")
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape[0] == 200
    assert (sheet[100:196, 150 + 300 : 150 + 396] < 250).any()
    assert (sheet[100:, 150 + 400 :] == 255).all(), "fourteen are ten and four"
    with pytest.raises(EdgeposeError, match=r"sheet\.txt: a picture's file name ends in \.png"):
        contact_sheet(select(tiny, persons, 2, method="random"), tmp_path / "sheet.txt")


@pytest.fixture(scope="session")
def sports(data_root: Path) -> list[Person]:
    """The persons of mpii_sports dev."""
    spec = "coco:mpii_sports/annotations.json:mpii_sports/images"
    return take(join_twins(people.load(spec, data_root)), "dev").persons


def test_kmeans_on_real_persons(shipped: Bundle, sports: list[Person]) -> None:
    """Members of every cluster, and better coverage than random draws have on average."""
    crops = sets.cut(sports, shipped.manual)
    known = bottleneck_features(shipped, crops)
    drawn = np.mean([radius(known, choose(known, crops, 32, method="random", seed=s).indices) for s in range(10)])
    for method in ("farthest", "kmeans"):
        assert radius(known, choose(known, crops, 32, method=method).indices) < drawn, method
    choice = choose(known, crops, 32, method="kmeans")
    assert set(choice.labels[choice.indices]) == set(range(8))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("select", "m.onnx", "set.np", "--data", "x"), "set.np: the file name of a calibration set ends in .npz"),
        (("select", "m.onnx", "set.npz", "--data", "x", "--sheet", "s.txt"), "s.txt"),
        (
            ("quantize", "m.onnx", "i.onnx", "--set", "s.npz", "--judge-on", "x", "--report", "int8.htm"),
            "ends in .html",
        ),
        (("report", "m.onnx", "i.onnx", "page.pdf", "--set", "s.npz", "--judge-on", "x"), "ends in .html"),
    ],
)
def test_names_are_looked_at_before_the_work(words: tuple[str, ...], reason: str) -> None:
    """Neither model nor data are there: it is the name that is told."""
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, EdgeposeError)
    assert reason in str(done.exception)


def test_an_int8_bundle_does_not_replace_the_float_one(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(bundles.load("edgepose-first").path.read_bytes())
    for words in ((str(model), str(model)), ("edgepose-first", str(model), "--against", str(model))):
        done = CliRunner().invoke(app, ["quantize", *words, "--set", "s.npz", "--judge-on", "x"])
        assert "is the float bundle itself" in str(done.exception)


def test_a_finder_is_no_pose_network(tmp_path: Path) -> None:
    words = ["select", "edgepose-finder", str(tmp_path / "s.npz"), "--data", "synth:20", "--count", "4"]
    done = CliRunner().invoke(app, words)
    assert "is a person finder" in str(done.exception)
    assert "see 'quantize-finder'" in str(done.exception)
