"""What skeletons on a film are judged by: the contact sheet for the eye, and left and right that change places."""

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from edgepose.estimator import Poses
from edgepose.people import People
from edgepose.skeletons import MPII16
from tests.benchmarks import clip_sheet, sides


@pytest.mark.parametrize("every", [10, 25])
def test_a_sheet_has_a_tile_for_each_person_in_full_view(every, clip, tmp_path):
    """Of the shipped clip's first 131 pictures: a woman comes in and stands at the table."""
    short = tmp_path / "short.mp4"
    source, count = cv2.VideoCapture(str(clip)), 0
    size = int(source.get(cv2.CAP_PROP_FRAME_WIDTH)), int(source.get(cv2.CAP_PROP_FRAME_HEIGHT))
    writer = cv2.VideoWriter(str(short), cv2.VideoWriter.fourcc(*"mp4v"), 10, size)
    while count < 131:
        writer.write(source.read()[1])
        count += 1
    writer.release()
    source.release()
    app = clip_sheet.typer.Typer()
    app.command()(clip_sheet.main)
    done = CliRunner().invoke(app, [str(tmp_path / "sheet.png"), str(short), "--every", str(every), "--threads", "2"])
    assert done.exit_code == 0, done.output
    people = int(done.output.split(": ")[1].split()[0])
    assert 30 // every <= people <= 60 // every + 1  # she is fully in view from about the 80th picture on
    assert done.output.rstrip().endswith("; 1 ids")
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape == (190, 8 * 150, 3)
    assert sheet[:, (people - 1) * 150 : people * 150].std() > 20  # the last person's tile
    assert not sheet[:, people * 150 :].any()  # and black behind it


def seen(name, shoulders, hips):
    """One person of 100 px; ``shoulders``, ``hips``: by how many pixels the left one lies to the right of the other."""
    joints = np.zeros((1, 16, 2))
    joints[0, MPII16.index("left_shoulder"), 0], joints[0, MPII16.index("left_hip"), 0] = shoulders, hips
    poses = Poses(joints, np.ones((1, 16)), np.zeros((1, 16, 2, 2)))
    return People([name], np.array([[0.0, 0, 40, 100]]), poses)


@pytest.mark.parametrize(
    ("film", "frames"),
    [
        ([seen("a", 20, 12), seen("a", 21, 13)], 0),
        ([seen("a", 20, 12), seen("a", -20, 12), seen("a", 20, 12)], 2),  # there and back
        ([seen("a", 20, 12), seen("a", -20, -12)], 1),  # a frame, however many lines turn in it
        ([seen("a", 20, 12), seen("a", -7, 12), seen("a", 20, 12)], 0),  # too short to tell
        ([seen("a", 20, 12), seen("b", -20, 12)], 0),  # somebody else
    ],
)
def test_exchanges_of_sides_are_counted_by_frames(film, frames):
    assert sides.exchanges(film, MPII16, 0.08) == frames
