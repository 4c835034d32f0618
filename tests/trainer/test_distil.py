"""Distillation: the loss by its formula, a teacher of another size, labels hidden, a student that learns from it."""

import onnx
import pytest
import torch
from pydantic import ValidationError

from edgepose import EdgeposeError, skeletons
from edgepose import bundle as bundles
from tests.trainer.conftest import make_coco
from trainer import checkpoints
from trainer.data.module import PoseData, select
from trainer.distil import Teacher
from trainer.evaluate import figures, open_estimator, predict
from trainer.export import export
from trainer.fit import fit
from trainer.recipe import DataSet, Recipe

STILL = {"scale": [1, 1], "rotation": 0, "shift": 0, "flip": 0, "colour": 0, "blur": 0}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    return make_coco(root, 8)


def recipe(spec, images=1600, **changes):
    return Recipe.model_validate(
        {
            "name": "tiny",
            "precision": "float32",
            "data": [{"data": spec, "split": "all"}],
            "model": {"width": 32, "depth": 2, "stacks": 1, "order": "post"},
            "target": {"sigma": 1.5},
            "stages": [{"images": images, "size": 64, "batch": 8}],
            "optimiser": {"rate": 5e-3, "warm_up": 10, "ema": 0.9},
            "augmentation": STILL,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def teacher(drawn, tmp_path_factory):
    """A bundle that has learnt the eight figures."""
    spec, root = drawn
    folder = tmp_path_factory.mktemp("teacher")
    last = fit(recipe(spec), folder / "run", root=root, workers=0, threads=1)
    export(last, folder / "teacher.onnx", root=root)
    return folder / "teacher.onnx"


def accuracy(checkpoint, spec, root):
    estimator = open_estimator(str(checkpoint))
    persons = select(DataSet(data=spec, split="all"), estimator.skeleton, root).persons
    return figures(predict(estimator, persons), estimator.skeleton)["pckh05"]


def test_a_student_learns_from_unlabelled_images_alone(drawn, teacher, tmp_path):
    """No label is shown: what the student knows it has from the teacher's heatmaps."""
    spec, root = drawn
    made = recipe(
        spec,
        data=[{"data": spec, "split": "all", "labels": False}],
        distillation={"teacher": str(teacher), "weight": 1.0},
        model={"width": 24, "depth": 2, "stacks": 2, "order": "post"},
    )
    assert accuracy(fit(made, tmp_path / "run", root=root, workers=0, threads=1), spec, root) > 90
    data = PoseData(made, root, workers=0)
    data.setup("fit")
    assert not any(sample["labelled"].any() for sample in data.train_dataloader())


def test_a_teacher_that_looks_at_the_mirror_image_too(drawn, teacher):
    """What it says of a crop and of its mirror image is the same, but for the mirroring; alone it does not."""
    spec, root = drawn
    data = PoseData(recipe(spec), root, workers=0)
    data.setup("fit")
    image = next(iter(data.train_dataloader()))["image"].float()
    order = torch.from_numpy(skeletons.get("mpii16").mirror)

    def apart(*, mirrored: bool) -> float:
        asked = Teacher(recipe(spec, distillation={"teacher": str(teacher), "mirrored": mirrored}), threads=1)
        straight, turned = asked(image, 16), asked(image.flip(3), 16)
        return float((straight - turned[:, order].flip(3)).abs().max())

    assert apart(mirrored=True) < 1e-5
    assert apart(mirrored=False) > 1e-2


def test_the_teachers_heatmaps_follow_the_students_size(drawn, teacher):
    """Asked through another input size, the teacher finds the joints in the same places of the crop."""
    spec, root = drawn
    made = recipe(spec, distillation={"teacher": str(teacher)})
    data = PoseData(made, root, workers=0)
    data.setup("fit")
    large = data.view(4)
    small = torch.nn.functional.interpolate(large, (48, 48), mode="bilinear", antialias=True)
    ask = Teacher(made)
    here, there = ask(large, 16), ask(small, 12)
    assert there.shape == (4, 16, 12, 12)

    def peaks(maps):
        flat = maps.flatten(2).argmax(-1)
        side = maps.shape[-1]
        return torch.stack([flat % side, flat // side], -1).add(0.5) / side

    assert (peaks(here) - peaks(there)).norm(dim=-1).median() < 0.06


def test_the_loss_is_the_weighted_sum(drawn, teacher, tmp_path):
    """L = alpha L_pd + (1 - alpha) L_mse, at the first step of equally seeded networks."""
    spec, root = drawn

    def first(**changes):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        fit(recipe(spec, images=8, **changes), folder, root=root, workers=0, threads=1)
        import csv

        with next(folder.glob("log/*/metrics.csv")).open() as file:
            return next(float(r["loss"]) for r in csv.DictReader(file) if r.get("loss"))

    labels = first()
    taught = first(distillation={"teacher": str(teacher), "weight": 1.0})
    assert abs(labels - taught) > 1e-4
    assert first(distillation={"teacher": str(teacher), "weight": 0.25}) == pytest.approx(
        0.25 * taught + 0.75 * labels, rel=1e-5
    )


def test_a_run_does_not_go_on_with_another_teacher(drawn, teacher, tmp_path):
    spec, root = drawn
    mine = tmp_path / "mine.onnx"
    mine.write_bytes(teacher.read_bytes())
    made = recipe(spec, images=32, distillation={"teacher": str(mine)})
    run = {"root": root, "workers": 0, "threads": 1}
    fit(made, tmp_path / "run", **run, max_steps=2)
    bundle = bundles.load(mine, role="pose")
    bundles.save(onnx.load(mine), bundle.manual.model_copy(update={"description": "another"}), mine)
    with pytest.raises(EdgeposeError, match=r"^distillation.teacher: it is not the file that the run began with"):
        fit(made, tmp_path / "run", **run, resume=True)
    mine.write_bytes(teacher.read_bytes())
    assert checkpoints.read(fit(made, tmp_path / "run", **run, resume=True))["global_step"] == 4


def test_what_cannot_teach_is_refused(drawn, teacher):
    spec, _ = drawn
    with pytest.raises(ValidationError, match="leaves nothing to learn from; add \\[distillation\\]"):
        recipe(spec, data=[{"data": spec, "labels": False}])
    with pytest.raises(EdgeposeError, match="speaks of skeleton mpii16, the recipe of lsp14"):
        Teacher(recipe(spec, skeleton="lsp14", distillation={"teacher": str(teacher)}))
    with pytest.raises(EdgeposeError, match="nobody"):
        Teacher(recipe(spec, distillation={"teacher": "nobody"}))
