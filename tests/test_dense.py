"""Maps and detections: closed forms, a slow twin, and whole runs of tiny networks."""

import math
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from sklearn.metrics import jaccard_score
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator

from aliascope import ModelError, Preprocessing, compare, load_model, measure
from aliascope.dense import COLUMNS, dense_stability, kind_of
from aliascope.layers import IdealPool
from aliascope.metrics import aliasing
from aliascope.report import report
from aliascope.shifts import ONE_PIXEL, cropped_views, shifted_views

SIDE = 16
PLAIN = Preprocessing(
    resize=(SIDE + 2,), crop=(SIDE, SIDE), interpolation="nearest", mean=(0.0,), std=(1.0,)
)
"""Pictures of SIDE + 2 pixels reach the network as they are."""


def views_of(wide, border):
    """As measured, of pictures with a pixel more on each side."""
    return cropped_views(wide) if border == "crop" else shifted_views(wide[..., 1:-1, 1:-1])


def figures(net, wide, border="crop"):
    size = (wide.shape[-2] - 2, wide.shape[-1] - 2)
    output = net(views_of(wide, border))
    kind, _ = kind_of(output, size)
    found = dense_stability(kind, [output], len(wide), size)
    assert set(found) == set(COLUMNS[kind])
    return {name: values.tolist() for name, values in found.items()}


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


class TwoClasses(nn.Module):
    """Logits (a, -a), a the brightness above a threshold, as every so many pixels show it."""

    def __init__(self, stride, threshold=0.0):
        super().__init__()
        self.stride, self.threshold = stride, threshold

    def forward(self, x):
        a = x[:, :1, :: self.stride, :: self.stride]
        a = a.repeat_interleave(self.stride, 2).repeat_interleave(self.stride, 3) - self.threshold
        return {"out": torch.cat([a, -a], 1)}


class Steady(TwoClasses):
    """Samples likewise, and answers of all pixels."""

    def forward(self, x):
        super().forward(x)
        a = x[:, :1] - self.threshold
        return {"out": torch.cat([a, -a], 1)}


@pytest.mark.parametrize("border", ["crop", "circular"])
def test_a_network_of_single_pixels_moves_with_the_picture(border):
    torch.manual_seed(0)
    with torch.no_grad():
        found = figures(nn.Conv2d(3, 5, 1), noise(2, 3, 18, 14), border)
    assert found["agreement"] == found["iou"] == [1, 1]
    assert found["logit_instability"] == found["sis"] == [0, 0]
    assert all(1 / 5 < x < 1 for x in found["confidence"])


@pytest.mark.parametrize("border", ["crop", "circular"])
def test_every_other_pixel_of_stripes(border):
    """The samples are all + or all -, as the columns shift; rows change nothing."""
    stripes = torch.tensor([-1.0, 1.0]).repeat(9).expand(1, 3, 18, 18)
    found = figures(TwoClasses(2), stripes, border)
    p, q = math.exp(1) / (math.exp(1) + math.exp(-1)), math.exp(-1) / (math.exp(1) + math.exp(-1))
    assert found["agreement"] == found["iou"] == [0.5]
    assert found["logit_instability"] == pytest.approx([1])  # ‖z − (−z)‖ / ‖z‖, in two of four
    assert found["sis"] == pytest.approx([(1 - 2 * p * q / (p * p + q * q)) / 2])
    assert found["confidence"] == pytest.approx([p])


def test_every_other_pixel_of_an_edge():
    """Only the column behind the edge is read from its other side, of 14 that all views show."""
    wide = torch.where(torch.arange(18) - 1 >= 8, 1.0, -1.0).expand(1, 3, 18, 18)
    found = figures(TwoClasses(2), wide)
    assert found["agreement"] == pytest.approx([(2 + 2 * 13 / 14) / 4])
    # - in 7 columns and + in 7, then in 8 and in 6.
    assert found["iou"] == pytest.approx([(2 + 2 * (7 / 8 + 6 / 7) / 2) / 4])
    assert found["logit_instability"] == pytest.approx([2 * math.sqrt(4 / 14) / 4])


def slow(logits, size):
    """The definitions, a pixel at a time, of (V, C, H, W)."""
    z = logits.double().numpy()
    z = z - z.mean(1, keepdims=True)
    rows, columns = range(1, size[0] - 1), range(1, size[1] - 1)
    of_shifts = []
    for shift, view in zip(ONE_PIXEL, z[1:], strict=True):
        sis, top, other, moved, whole = [], [], [], 0.0, 0.0
        for i in rows:
            for j in columns:
                x, y = z[0, :, i, j], view[:, i + shift.rows, j + shift.columns]
                p, q = np.exp(x) / np.exp(x).sum(), np.exp(y) / np.exp(y).sum()
                sis.append(1 - p @ q / np.sqrt((p @ p) * (q @ q)))
                top.append(x.argmax())
                other.append(y.argmax())
                moved += ((x - y) ** 2).sum()
                whole += (x**2).sum()
        of_shifts.append(
            {
                "sis": np.mean(sis),
                "agreement": np.mean(np.equal(top, other)),
                "iou": jaccard_score(top, other, average="macro"),
                "logit_instability": np.sqrt(moved / whole),
            }
        )
    return {name: np.mean([each[name] for each in of_shifts]) for name in of_shifts[0]}


def test_maps_of_classes_equal_their_definitions():
    size, generator = (7, 9), torch.Generator().manual_seed(3)
    logits = torch.randn(10, 4, *size, generator=generator)
    logits[:, 3] -= 9  # a class that no pixel has
    found = dense_stability("classes", [{"out": logits}], 2, size)
    for image in range(2):
        for name, value in slow(logits[image::2], size).items():
            assert found[name][image].item() == pytest.approx(value, rel=1e-4), name


def test_coarse_logits_are_compared_as_they_are_shown():
    logits = torch.randn(5, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    shown = nn.functional.interpolate(logits, (24, 24), mode="bilinear", align_corners=False)
    coarse, fine = (dense_stability("classes", [x], 1, (24, 24)) for x in (logits, shown))
    assert all(torch.equal(coarse[name], fine[name]) for name in fine)
    assert "bilinearly" in kind_of({"out": logits}, (24, 24))[1]


def test_logits_that_are_not_finite_leave_their_picture_undefined():
    logits = torch.zeros(10, 3, 8, 8)
    logits[2, 0, 4, 4] = math.nan  # of the first picture, moved up
    found = dense_stability("classes", [logits], 2, (8, 8))
    assert found["agreement"].isnan().tolist() == found["iou"].isnan().tolist() == [True, False]


def test_what_comes_in_parts_is_put_together():
    logits = torch.randn(10, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    whole, parts = (dense_stability("classes", x, 2, (8, 8)) for x in ([logits], logits.split(1)))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_finer_map_moves_by_its_own_pixels():
    twice = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Upsample(scale_factor=2))
    with torch.no_grad():
        assert figures(twice, noise(1, 3, 18, 18))["output_instability"] == [0]
        moving = nn.Sequential(twice, nn.MaxPool2d(2), nn.Upsample(scale_factor=2))
        assert figures(moving, noise(1, 3, 18, 18))["output_instability"] == [0]
        moving = nn.Sequential(twice, nn.MaxPool2d(4), nn.Upsample(scale_factor=4))
        assert figures(moving, noise(1, 3, 18, 18))["output_instability"][0] > 0.1


class Sampled(nn.Module):
    def forward(self, x):
        return x[..., ::2, ::2]


def test_an_alias_free_coarse_map_does_not_move():
    """No shift is undone: the amplitudes of a map that holds its band do not know of it."""
    wide = noise(2, 3, 18, 18)
    ideal = IdealPool(3)
    assert max(figures(ideal, wide, "circular")["output_instability"]) < 1e-5
    assert min(figures(Sampled(), wide, "circular")["output_instability"]) > 0.1


def test_coarse_samples_of_stripes():
    """2 where the columns are bright, 0 where they are dark: all of the map, in two of four."""
    stripes = torch.tensor([2.0, 0.0]).repeat(9).expand(1, 1, 18, 18).roll(1, -1)
    assert figures(Sampled(), stripes)["output_instability"] == [0.5]


def test_several_maps_count_alike():
    class Pyramid(nn.Module):
        def forward(self, x):
            return {"fine": x, "coarse": Sampled()(x)}

    wide = noise(1, 3, 18, 18)
    (both,) = figures(Pyramid(), wide)["output_instability"]
    (coarse,) = figures(Sampled(), wide)["output_instability"]
    assert both == pytest.approx(coarse / 2)


NONE = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0), "scores": torch.zeros(0)}
MAP, DEPTH = torch.zeros(1, 5, 4, 4), torch.zeros(1, 1, 16, 16)


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        ({"out": MAP, "aux": MAP}, "classes"),
        (SimpleNamespace(logits=MAP), "classes"),
        ({"out": MAP[:, :1]}, "map"),
        (torch.zeros(1, 2, 16, 16), "classes"),
        (torch.zeros(1, 3, 16, 16), "map"),
        (MAP, "map"),
        (DEPTH, "map"),
        (DEPTH[:, 0], "map"),
        (MAP.movedim(1, -1), "map"),
        ([MAP, MAP], "map"),
        ({"0": MAP, "pool": MAP}, "map"),
        (
            [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0), "scores": torch.zeros(0)}],
            "boxes",
        ),
    ],
)
def test_kinds_of_answers(output, kind):
    assert kind_of(output, (16, 16))[0] == kind


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (None, "NoneType"),
        ({"text": "a cat"}, "dict of text"),
        ({}, "dict"),
        ([], "list"),
        (torch.zeros(1, 197, 768), r"\(1, 197, 768\)"),
        (torch.zeros(1, 8, 1, 1), r"\(1, 8, 1, 1\)"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.int64), r"\(1, 3, 16, 16\)"),
    ],
)
def test_other_answers_are_named(output, told):
    with pytest.raises(ModelError, match=f"the model returned {told}; aliasing can still"):
        kind_of(output, (16, 16))


class Square(nn.Module):
    """Finds the bright square of a picture, on a grid: at multiples of so many pixels."""

    def __init__(self, grid=1, *, phased=None):
        super().__init__()
        self.sampled = nn.MaxPool2d(2)  # something that a tap can read
        self.grid, self.phased = grid, phased

    def forward(self, images):
        self.sampled(images)
        return [self.found(picture) for picture in images]

    def found(self, picture):
        rows, columns = (picture[0] > 0.5).nonzero(as_tuple=True)
        if not len(rows):
            return NONE
        low = torch.stack([columns.min(), rows.min()])
        sides = torch.stack([columns.max(), rows.max()]) + 1 - low
        odd = bool(low[0] % 2)
        low = low // self.grid * self.grid
        score = 0.7 if odd and self.phased == "score" else 0.9
        score = 0.4 if odd and self.phased == "found" else score
        label = 2 if odd and self.phased == "label" else 1
        # The second is not sure, and does not count.
        return {
            "boxes": torch.stack([torch.cat([low, low + sides])] * 2).float(),
            "labels": torch.tensor([label, label]),
            "scores": torch.tensor([score, 0.3]),
        }


def bright(rows, columns, side=SIDE + 2):
    picture = torch.zeros(1, 3, side, side)
    picture[..., slice(*rows), slice(*columns)] = 1
    return picture


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (Square(), (1, 1, 0)),
        # The box stays behind by a pixel of its eight: 7 / 9, in all directions.
        (Square(2), (1, 7 / 9, 0)),
        (Square(phased="score"), (1, 1, 0.1)),
        (Square(phased="found"), (0.5, 1, 0)),
        (Square(phased="label"), (0.5, 1, 0)),
        # Behind by a pixel, or by three in the other two directions: 5 / 11 is no match.
        (Square(4), (0.5, 7 / 9, 0)),
    ],
)
@pytest.mark.parametrize("border", ["crop", "circular"])
def test_a_detector_whose_boxes_are_known(net, expected, border):
    found = figures(net, bright((5, 13), (5, 13)), border)
    actual = [found[name][0] for name in ("agreement", "iou", "score_movement")]
    assert actual == pytest.approx(expected, nan_ok=True)
    assert found["detections"] == [1]


def test_a_square_at_the_border_is_compared_where_all_views_show_it():
    found = figures(Square(), bright((0, 9), (6, 18)))
    assert found["agreement"] == found["iou"] == [1]


def test_a_picture_without_detections_has_no_agreement():
    found = figures(Square(), torch.cat([bright((5, 9), (5, 9)), torch.zeros(1, 3, 18, 18)]))
    assert found["agreement"] == pytest.approx([1, math.nan], nan_ok=True)
    assert found["detections"] == [1, 0]


def test_boxes_are_matched_so_that_most_of_them_overlap():
    """Greedily the first would take the second's partner."""

    def one(*boxes):
        scores = torch.linspace(0.9, 0.8, len(boxes))
        labels = torch.ones(len(boxes))
        return {"boxes": torch.tensor(boxes), "labels": labels, "scores": scores}

    here = one([2.0, 2, 10, 10], [4.0, 2, 12, 10])
    there = one([4.5, 2, 12.5, 10], [2.0, 3, 10, 11])
    ways = torch.tensor([[s.columns, s.rows] * 2 for s in ONE_PIXEL])
    moved = [here, *(there | {"boxes": there["boxes"] + way} for way in ways)]
    found = dense_stability("boxes", [moved], 1, (32, 32))
    assert found["agreement"].tolist() == [1]
    assert found["iou"].tolist() == pytest.approx([(7.5 / 8.5 + 7 / 9) / 2])


@pytest.fixture
def folder(tmp_path):
    """Squares of 18 × 18 pixels, and one picture without."""
    places = [(5, 5), (4, 6), (7, 4), None]
    path = tmp_path / "pictures"
    path.mkdir()
    for number, place in enumerate(places):
        pixels = np.zeros((18, 18, 3), np.uint8)
        if place:
            pixels[place[0] : place[0] + 8, place[1] : place[1] + 8] = 255
        PIL.Image.fromarray(pixels).save(path / f"{number}.png")
    return str(path)


def test_a_run_of_a_detector(folder):
    run = measure(Square(2), folder, preprocess=PLAIN, device="cpu")
    row = run.images.set_index("image_id")
    assert row.loc["0.png", "iou"] == pytest.approx(7 / 9)
    assert row["agreement"].isna().tolist() == [False, False, False, True]
    assert row["detections"].tolist() == [1, 1, 1, 0]
    assert "prediction" not in row
    assert run.config["border"] == "crop"
    assert run.layers["avr"].notna().tolist() == [True, True, True, False]
    text = " ".join(str(run).split())
    assert "Square keeps under one-pixel crop shifts 100 % of its detections" in text
    assert "detections an image 0.7500 ± 0.5000" in text
    assert "SIS" not in text
    assert any("no view has a detection of score 0.5 or more" in x for x in run.notices)


def test_a_run_of_class_maps_and_one_of_others(folder):
    run = measure(TwoClasses(2, 0.5), folder, preprocess=PLAIN, device="cpu")
    assert run.images["agreement"].between(0.8, 0.99).iloc[:3].all()
    assert "logits' length" in run.verdict
    assert "of the pixels" in run.verdict
    run = measure(nn.Conv2d(3, 4, 3, 2), folder, preprocess=PLAIN, device="cpu")
    assert run.images["output_instability"].iloc[0] > 0
    assert "of its answer's length" in run.verdict
    assert any("taken for a map without classes (4 × 7 × 7)" in x for x in run.notices)
    assert "sis" not in run.images


def test_a_crop_of_everything_gets_room_to_move(folder):
    tight = Preprocessing(
        resize=(SIDE, SIDE), crop=(SIDE, SIDE), interpolation="nearest", mean=(0.0,), std=(1.0,)
    )
    run = measure(Square(), folder, preprocess=tight, device="cpu")
    assert run.config["border"] == "crop"
    assert run.config["preprocessing"]["resize"] == [SIDE + 2, SIDE + 2]
    assert run.images["agreement"].iloc[:3].tolist() == [1, 1, 1]
    assert any("it is resized to 18 × 18 instead of 16 × 16" in x for x in run.notices)
    run = measure(Square(), folder, preprocess=tight, device="cpu", shifts="circular")
    assert run.config["preprocessing"]["resize"] == [SIDE, SIDE]


@pytest.mark.parametrize("options", [{"shifts": "native"}, {"only": "avr"}])
def test_where_only_aliasing_is_measured(folder, options):
    run = measure(Square(), folder, preprocess=PLAIN, device="cpu", **options)
    assert "agreement" not in run.images
    assert run.layers["avr"].notna().any()
    native = [x for x in run.notices if x.startswith("native shifts move an answer")]
    assert len(native) == ("shifts" in options)


class Nothing(nn.Conv2d):
    def forward(self, x):
        super().forward(x)


def test_a_network_without_an_answer_has_its_aliasing_measured(folder):
    run = measure(Nothing(3, 4, 3, 2), folder, preprocess=PLAIN, device="cpu")
    assert run.layers["avr"].notna().any()
    (told,) = (x for x in run.notices if "the model returned NoneType" in x)
    assert told.endswith("aliasing can still be measured")


def test_two_segmentation_networks_compared(folder, tmp_path):
    out = tmp_path / "both"
    options = {"images": folder, "preprocess": PLAIN, "device": "cpu"}
    found = compare(TwoClasses(2, 0.5), Steady(2, 0.5), out=out, limit=3, **options)
    rows = found.images.set_index("metric")
    assert [*rows.index] == ["agreement", "iou", "logit_instability", "confidence", "sis"]
    assert rows.loc["agreement", "mean_b"] == rows.loc["iou", "mean_b"] == 1
    assert rows.loc["agreement", "mean_a"] < 1
    assert "moves 100 % less than" in found.verdict
    assert not any("not known" in text for text in found.notices)
    assert math.isnan(found.prediction_agreement.value)
    assert not (out / "curves.csv").exists()
    page = report(out).read_text()
    assert "IoU" in page


def test_two_detectors_and_two_feature_maps_compared(folder, tmp_path):
    options = {"images": folder, "preprocess": PLAIN, "device": "cpu", "limit": 3}
    found = compare(Square(phased="found"), Square(), out=tmp_path / "both", **options)
    assert "of its detections under one-pixel crop shifts" in found.verdict
    assert "score movement" in str(found)
    assert "detections" in report(tmp_path / "both" / "A").read_text()
    assert "IoU" in report(tmp_path / "both").read_text()
    found = compare(nn.Conv2d(3, 4, 3, 2), nn.AvgPool2d(2), **options)
    assert "(output instability" in found.verdict


def test_a_detector_of_torchvision_has_its_layers_measured(folder):
    """What its heads are handed, hundreds of regions, is no layer of the picture's."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1))
    backbone.out_channels = 8
    anchors = AnchorGenerator(sizes=((16, 32),), aspect_ratios=((1.0,),))
    few = {"rpn_post_nms_top_n_test": 20, "box_detections_per_img": 5}
    net = FasterRCNN(backbone, 3, min_size=64, max_size=64, rpn_anchor_generator=anchors, **few)
    net.roi_heads.box_predictor.cls_score.weight.data *= 1e4  # as sure as random weights can be
    prepared = Preprocessing(resize=(66,), crop=(64, 64), mean=(0.0,), std=(1.0,))
    run = measure(net, "photos", limit=2, preprocess=prepared, device="cpu", batch_size=2)
    assert [layer.name for layer in run.strided_layers] == ["backbone.0", "backbone.2"]
    assert run.layers["alias_share"].notna().all()
    assert (run.images["detections"] > 0).all()
    assert run.images["agreement"].between(0, 1).all()
    one = measure(net, "photos", limit=2, preprocess=prepared, device="cpu", batch_size=1)
    np.testing.assert_allclose(run.layers["avr"], one.layers["avr"], rtol=1e-4)


def test_metrics_in_training_take_what_there_is():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Upsample(scale_factor=2))
    found = aliasing(net, noise(2, 3, 32, 32), figures=["avr"])
    assert [*found] == ["avr/0", *COLUMNS["classes"]]
    assert (found["agreement"] < 1).all()
    assert [*aliasing(net, noise(2, 3, 32, 32), figures=["avr"], shifts=None)] == ["avr/0"]


class Looking(Square):
    """Samples each detection, too, as what draws masks does."""

    def found(self, picture):
        nn.functional.max_pool2d(picture[None, :, :8, :8], 2)
        return super().found(picture)


def test_what_samples_single_detections_is_no_layer(folder):
    run = measure(Looking(), folder, preprocess=PLAIN, device="cpu")
    assert [layer.name for layer in run.strided_layers] == ["sampled"]
    (told,) = (text for text in run.notices if "single detections" in text)
    assert "max_pool2d" in told
    assert not any("measured alone" in text for text in run.notices)


@pytest.mark.parametrize(
    ("spec", "resize", "crop"),
    [
        ("torchvision:lraspp_mobilenet_v3_large", (520,), (520, 520)),
        ("torchvision:fasterrcnn_mobilenet_v3_large_320_fpn", (320,), (320, 320)),
    ],
)
def test_torchvisions_segmentation_and_detection(spec, resize, crop):
    """Random weights need no network, and a detector normalises by itself."""
    loaded = load_model(spec, weights="random")
    assert (loaded.preprocessing.resize, loaded.preprocessing.crop) == (resize, crop)
    assert (loaded.preprocessing.mean == (0.0,)) == ("lraspp" not in spec)
    assert "person" in loaded.class_names


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ("torchvision:raft_small", "takes pairs of pictures"),
        ("torchvision:r3d_18", "takes clips"),
        ("torchvision:quantized_resnet18", "computes with whole numbers"),
    ],
)
def test_models_of_torchvision_that_take_something_else(spec, what):
    with pytest.raises(ModelError, match=f"{spec} {what}: choose a network"):
        load_model(spec, weights="random")
