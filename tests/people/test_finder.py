"""The finder on the device: maps -> boxes in the image, through the letterbox."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepose import EdgeposeError, engines
from edgepose import bundle as bundles
from edgepose.bundle import Manual
from edgepose.people.finder import Finder, decode, peaks

INPUT = (96, 64)  # width, height
SHAPES = [(64, 96), (128, 192), (40, 300), (300, 40), (20, 24), (333, 101)]  # of images: height, width


def manual(**changes):
    return Manual.model_validate(
        {"name": "tiny-finder", "role": "person", "input_size": INPUT, "padding": 1, **changes}
    )


def empty(width=INPUT[0] // 4, height=INPUT[1] // 4):
    """Maps [5, h, w] that see nobody."""
    return np.zeros((5, height, width), dtype=np.float32)


def write(maps, box, score):
    """Write a box in cells into ``maps`` as a finder should, at the cell nearest to its centre."""
    centre, sides = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
    x, y = np.clip(centre.round().astype(int), 0, np.array(maps.shape[:0:-1]) - 1)
    maps[:, y, x] = [score, *np.log(sides), *(centre - [x, y])]


class Drawn:
    """An engine that gives the maps that it was made with."""

    name, precision = "drawn", "float32"

    def __init__(self, maps):
        self.maps = maps

    def infer(self, images):
        assert images.shape == (1, 3, INPUT[1], INPUT[0])
        return self.maps[None]

    def close(self):
        """Nothing is held."""


def finder_of(maps, **settings):
    return Finder(Drawn(maps), manual(), **settings)


def letterboxed(boxes, shape):
    """Boxes in pixels of an image of ``shape`` (height, width) -> cells, by hand."""
    height, width = shape
    zoom = min(INPUT[0] / width, INPUT[1] / height)
    bars = (np.array(INPUT) - zoom * np.array([width, height])) / 2  # grey beside the image, pixels of the input
    corners = (np.asarray(boxes, dtype=float).reshape(-1, 2) + 0.5) * zoom + bars  # from the input's edge
    return (corners / 4 - 0.5).reshape(-1, 4)


def found_in(shape, boxes, scores, **settings):
    maps = empty()
    for box, score in zip(letterboxed(boxes, shape), scores, strict=True):
        write(maps, box, score)
    return finder_of(maps, **settings).find(np.zeros((*shape, 3), dtype=np.uint8))


# Decoding


def test_peaks_are_cells_that_no_neighbour_exceeds():
    centre = np.array([[0.9, 0.5, 0.1, 0.4], [0.5, 0.5, 0.1, 0.3], [0.1, 0.1, 0.1, 0.1], [0.6, 0.1, 0.2, 0.1]])
    assert list(zip(*peaks(centre, 0.15), strict=True)) == [(0, 0), (0, 3), (3, 0), (3, 2)]
    assert list(zip(*peaks(centre, 0.5), strict=True)) == [(0, 0), (3, 0)]
    assert len(peaks(centre, 0.95)[0]) == 0
    assert len(peaks(np.full((3, 3), 0.4), 0.4)[0]) == 9  # none exceeds another, and the bar itself counts


def test_decoding_by_hand():
    maps = empty(8, 6)
    maps[:, 2, 5] = [0.8, np.log(4), np.log(2), 0.25, -0.5]
    boxes, scores = decode(maps, 0.3)
    assert np.allclose(boxes, [[3.25, 0.5, 7.25, 2.5]])
    assert scores == pytest.approx(0.8)
    assert boxes.dtype == scores.dtype == np.float64


def test_nobody_is_two_empty_arrays():
    boxes, scores = decode(empty(), 0.3)
    assert boxes.shape == (0, 4)
    assert scores.shape == (0,)


def test_the_best_come_first_and_at_most_so_many():
    maps = empty(40, 4)
    maps[0, 1, ::4] = np.linspace(0.4, 0.9, 10)
    boxes, scores = decode(maps, 0.3, most=3)
    assert scores == pytest.approx(np.linspace(0.4, 0.9, 10)[:6:-1])
    assert boxes.mean(axis=1) == pytest.approx((np.array([36, 32, 28]) + 1) / 2)


def test_of_doubles_the_stronger_stays():
    """Two cells that say the same box are one person; two people side by side are two."""
    maps = empty()
    write(maps, np.array([2.0, 2, 10, 14]), 0.6)
    maps[:, 8, 8] = [0.8, *np.log([8, 12]), -2, 0]  # the very same box, from two cells further
    boxes, scores = decode(maps, 0.3)
    assert scores == pytest.approx([0.8])
    assert np.allclose(boxes, [[2, 2, 10, 14]], atol=1e-5)
    maps[3, 8, 8] = 1  # three cells further: 5 of 11 parts are shared
    assert len(decode(maps, 0.3)[0]) == 2


def test_a_third_is_compared_with_those_that_stay():
    """b goes for a's sake; c, which resembles b alone, stays."""
    maps = empty(30, 4)
    for x, score in ((4, 0.9), (6, 0.8), (8, 0.7)):  # IoU of neighbours 10 / 14, of the outer two 8 / 16
        maps[:, 1, x] = [score, np.log(12), np.log(3), 0, 0]
    assert decode(maps, 0.3)[1] == pytest.approx([0.9, 0.7])


def test_no_box_is_larger_than_a_bound_whatever_the_network_says():
    maps = empty()
    maps[:, 5, 5] = [0.9, 1e4, 1e4, 0, 0]
    with np.errstate(over="raise"):
        boxes, _ = decode(maps, 0.3)
    assert np.isfinite(boxes).all()


# Through the letterbox


@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_come_back_in_image_pixels(shape):
    height, width = shape
    boxes = np.array([[0.1, 0.1, 0.4, 0.45], [0.5, 0.5, 0.97, 0.9]]) * [width, height, width, height]
    found = found_in(shape, boxes, [0.9, 0.7])
    assert np.allclose(found.boxes, boxes, atol=1e-3)
    assert found.scores == pytest.approx([0.9, 0.7])
    assert len(found) == 2


@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_end_where_the_image_ends(shape):
    height, width = shape
    whole = [-0.5, -0.5, width - 0.5, height - 0.5]
    found = found_in(shape, [[-30, -40, width + 30, height + 10]], [0.9])
    assert np.allclose(found.boxes, [whole], atol=1e-3)


@pytest.mark.parametrize("shape", [(40, 300), (300, 40)])
def test_nobody_is_beside_the_image(shape):
    """A box that lies in the grey of the letterbox is of nobody, and not an empty box on the image's edge."""
    maps = empty()
    write(maps, np.array([0.0, 0, 2, 2]), 0.9)
    image = np.zeros((*shape, 3), dtype=np.uint8)
    found = finder_of(maps).find(image)
    assert found.boxes.shape == (0, 4)
    assert found.scores.shape == (0,)


def test_scores_fall_and_least_is_respected():
    boxes = [[x, 10, x + 12, 50] for x in (2, 26, 50, 74)]
    scores = [0.35, 0.9, 0.25, 0.6]
    found = found_in((64, 96), boxes, scores, least=0.3)
    assert found.scores == pytest.approx([0.9, 0.6, 0.35])
    assert np.allclose(found.boxes, [boxes[1], boxes[3], boxes[0]], atol=1e-3)
    assert len(found_in((64, 96), boxes, scores, least=0.5)) == 2
    assert len(found_in((64, 96), boxes, scores, least=0.2)) == 4
    assert len(found_in((64, 96), boxes, scores, least=0.95)) == 0


def test_an_image_after_another_is_seen_afresh(tmp_path):
    """What the buffers held of the frame before does not show in the bars of the next."""
    seen = []

    class Watching(Drawn):
        def infer(self, images):
            seen.append(images.copy())
            return super().infer(images)

    finder = Finder(Watching(empty()), manual())
    narrow, wide = np.full((64, 20, 3), (10, 20, 30), np.uint8), np.full((64, 96, 3), 255, np.uint8)
    for image in (narrow, wide, narrow):
        finder.find(image)
    assert np.array_equal(seen[0], seen[2])
    assert seen[0][0, :, 32, 0] == pytest.approx([114, 114, 114])
    assert seen[0][0, :, 32, 48] == pytest.approx([30, 20, 10])  # RGB


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("place", [(0, 3, 3), (2, 0, 0)])
def test_no_numbers_are_refused(number, place):
    maps = empty()
    maps[place] = number
    with pytest.raises(EdgeposeError, match=r"engine drawn gave no numbers for finder tiny-finder in float32; try an"):
        finder_of(maps).find(np.zeros((64, 96, 3), dtype=np.uint8))


@pytest.mark.parametrize("shape", [(4, 16, 24), (6, 16, 24), (5, 24, 16), (5, 8, 12), (16, 24)])
def test_maps_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"are not the \(5, 16, 24\) of finder tiny-finder"):
        finder_of(np.zeros(shape, dtype=np.float32)).find(np.zeros((64, 96, 3), dtype=np.uint8))


# On a real engine


def red_finder():
    """An ONNX finder: a person of 8 x 16 pixels is where it is red."""
    weight = np.zeros((5, 3, 1, 1), dtype=np.float32)
    weight[0, 0] = 1 / 255
    bias = np.log(np.array([1, 2, 4, 1, 1], dtype=np.float32))
    nodes = [
        helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Conv", ["pooled", "weight", "bias"], ["heatmaps"]),
    ]
    graph = helper.make_graph(
        nodes,
        "red",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 64, 96])],
        [helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, ["N", 5, 16, 24])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("name", engines.available())
@pytest.mark.parametrize("zoom", [1, 3])
def test_a_bundle_on_an_engine_finds_what_it_should(tmp_path, name, zoom):
    if name == "tensorrt":
        pytest.skip("builds a plan; tests/gpu runs those")
    bundle = bundles.save(red_finder(), manual(), tmp_path / "red.onnx")
    engine = engines.load(bundle, name, engines.Options(threads=1))
    image = np.zeros((64 * zoom, 96 * zoom, 3), dtype=np.uint8)
    image[20 * zoom : 24 * zoom, 40 * zoom : 44 * zoom] = (0, 0, 255)  # BGR: the cell in column 10, row 5
    finder = Finder(engine, bundle.manual, least=0.6)
    found = [finder.find(image)]
    answer = finder.begin(image)
    image[:] = 0  # a camera's buffer may be filled anew before the answer is taken
    found.append(answer())
    engine.close()
    centre, half = np.array([42.0, 22.0]) * zoom - 0.5, np.array([4.0, 8.0]) * zoom
    for each in found:
        assert np.allclose(each.boxes, [[*(centre - half), *(centre + half)]], atol=0.02)
        assert each.scores == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_turned_look_finds_who_lies(shape):
    """What the network is shown is the whole image turned by a quarter; what it tells comes back to the image."""
    height, width = shape
    corners = np.zeros((height, width, 3), dtype=np.uint8)
    box = np.array([0.55 * width, 0.2 * height, 0.9 * width, 0.5 * height])
    corners[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = 255
    seen = []

    class Bright(Drawn):
        """Finds what is bright, where it stands in the input."""

        def infer(self, images):
            rows, columns = np.nonzero(images[0, 0] > 200)
            seen.append((columns.max() - columns.min() + 1, rows.max() - rows.min() + 1))
            edges = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 4 - 0.5
            maps = empty()
            write(maps, edges, 0.9)
            return maps[None]

    finder = Finder(Bright(None), manual())
    for turned in (False, True):
        (found,) = finder.find(corners, turned=turned).boxes
        cell = max(width / INPUT[1], height / INPUT[0], width / INPUT[0], height / INPUT[1])  # pixels in one of input
        assert np.abs(found - (box - 0.5)).max() < 2 * cell + 1
    upright, lying = seen
    assert (lying[0] < lying[1]) == (upright[0] > upright[1])  # broad has become high
