"""Wrappers of a network: closed forms, moves that change nothing, and pictures that say nothing."""

import pytest
import torch
from torch import nn

from aliascope import ModelError, compare, load_model, measure, save_model
from aliascope.images.preprocessing import RESIZE_224, Preprocessing
from aliascope.inference import CropSelection, ShiftAverage, SmallerFrame, around, seen_by
from aliascope.inference.averaging import half_phases


def picture(height=96, width=96, seed=0):
    """Blobs, the strongest in the middle, so smooth that they can be sampled anywhere."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(
        torch.arange(height).double(), torch.arange(width).double(), indexing="ij"
    )
    places = torch.rand(30, 2, generator=generator).double() * torch.tensor([height, width])
    sizes = 0.5 + torch.rand(30, 3, generator=generator).double()
    places[0], sizes[0] = torch.tensor([height / 2, width / 2]), 4
    return lambda down=0.0, right=0.0: sum(
        size[:, None, None] * torch.exp(-((y - p[0] - down) ** 2 + (x - p[1] - right) ** 2) / 18)
        for size, p in zip(sizes, places, strict=True)
    )[None].float()  # fmt: skip


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5),
    ).eval()  # fmt: skip


SIZE, MARGIN = (40, 48), 9
FRAME = SIZE[0] + 2 * MARGIN, SIZE[1] + 2 * MARGIN


def cut(whole, down=0, right=0):
    """A frame in the middle of a picture that moved so far."""
    top, left = (whole.shape[-2] - FRAME[0]) // 2 - down, (whole.shape[-1] - FRAME[1]) // 2 - right
    return whole[..., top : top + FRAME[0], left : left + FRAME[1]]


@pytest.mark.parametrize("score", ["corners", "laplacian"])
def test_a_picture_that_moves_by_whole_pixels_gives_the_same_logits_to_the_last_bit(score):
    selection = CropSelection(network(), SIZE, MARGIN, score=score)
    whole = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(1)) / 10
    middle = torch.tensor([48, 48])
    whole[..., middle[0], middle[1]] = 9  # the strongest place, for every score
    still = selection(cut(whole))
    plain = selection.model(cut(whole)[..., MARGIN:-MARGIN, MARGIN:-MARGIN])
    for down, right in ((1, 0), (0, -1), (3, -4), (-5, 4)):
        moved = cut(whole, down, right)
        assert torch.equal(selection(moved), still), (down, right)
        centre = moved[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
        assert not torch.allclose(selection.model(centre), plain)  # without it, another answer
    assert not torch.equal(selection(cut(whole, 10, 0)), still)  # beyond the range


def test_a_batch_is_asked_picture_by_picture():
    selection = CropSelection(network(), SIZE, MARGIN)
    frames = torch.rand(4, 3, *FRAME, generator=torch.Generator().manual_seed(2))
    alone = torch.cat([selection.windows(frame[None]) for frame in frames])
    assert torch.equal(selection.windows(frames), alone)
    torch.testing.assert_close(selection(frames), selection.model(alone))


@pytest.mark.parametrize(("down", "right"), [(0.5, 0.0), (0.25, -0.4), (-1.5, 2.3)])
def test_a_fraction_of_a_pixel_is_undone(down, right):
    at = picture(96, 96)
    selection = CropSelection(nn.Identity(), SIZE, MARGIN)
    still, moved = (
        selection.windows(cut(at(*move)).expand(1, 3, -1, -1)) for move in ((0, 0), (down, right))
    )
    centre = slice(MARGIN, -MARGIN)
    before, after = (cut(at(*m))[..., centre, centre] for m in ((0, 0), (down, right)))
    assert (moved - still).norm() < 0.1 * (after - before).norm()
    whole = CropSelection(nn.Identity(), SIZE, MARGIN, score="laplacian")
    coarse = [whole.windows(cut(at(*m)).expand(1, 3, -1, -1)) for m in ((0, 0), (down, right))]
    assert (moved - still).norm() < 0.2 * (coarse[1] - coarse[0]).norm()


def test_the_place_of_a_blob_is_found_to_a_fraction_of_a_pixel():
    selection = CropSelection(nn.Identity(), (41, 41), 9)
    y, x = torch.meshgrid(torch.arange(59.0), torch.arange(59.0), indexing="ij")
    for row, column in ((29, 29), (30.3, 27.6), (25.5, 33.1)):
        blob = torch.exp(-((y - row) ** 2 + (x - column) ** 2) / 18)[None, None]
        top, left, down, right = selection.chosen(blob)
        assert top + down / 64 == pytest.approx(row - 20, abs=0.05)
        assert left + right / 64 == pytest.approx(column - 20, abs=0.05)


@pytest.mark.parametrize("score", ["corners", "laplacian"])
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_constant_picture_is_seen_as_it_is_in_the_middle(score, value):
    selection = CropSelection(nn.Identity(), SIZE, MARGIN, score=score)
    frame = torch.full((1, 3, *FRAME), value)
    top, left, *_ = selection.chosen(frame)
    assert (top.item(), left.item()) == (MARGIN, MARGIN)
    torch.testing.assert_close(selection.windows(frame), torch.full((1, 3, *SIZE), value))


def test_of_equal_places_the_one_nearest_to_the_middle_is_taken():
    selection = CropSelection(nn.Identity(), SIZE, MARGIN, score="laplacian")
    frame = torch.zeros(1, 3, *FRAME)
    row, column = FRAME[0] // 2, FRAME[1] // 2
    for down, right in ((-7, 0), (0, 4), (6, 6)):
        frame[..., row + down, column + right] = 1
    top, left, *_ = selection.chosen(frame)
    assert (top.item() - MARGIN, left.item() - MARGIN) == (0, 4)


@pytest.mark.parametrize("score", ["corners", "laplacian"])
@pytest.mark.parametrize("size", [(32, 32), (33, 40)])
def test_the_circular_one_is_exact_under_circular_shifts(score, size):
    selection = CropSelection(network(), size, 0, score=score, circular=True)
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(3))
    still = selection(x)
    for shift in ((1, 0), (0, -1), (13, -7), (size[0] - 1, size[1] // 2)):
        assert torch.equal(selection(x.roll(shift, (-2, -1))), still)
    assert not torch.allclose(selection.model(x), selection.model(x.roll((1, 0), (-2, -1))))


def test_the_circular_one_rolls_and_loses_nothing():
    selection = CropSelection(nn.Identity(), (16, 16), 0, score="laplacian", circular=True)
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    seen = selection.windows(x)
    assert any(torch.equal(seen, x.roll((r, c), (-2, -1))) for r in range(16) for c in range(16))


def test_all_fractions_of_a_pixel_are_filtered_alike():
    kernels = CropSelection(nn.Identity(), SIZE, MARGIN).kernels.double()
    torch.testing.assert_close(kernels.sum(1), torch.ones(len(kernels)).double())
    d = torch.arange(-4, 5).double()
    fractions = torch.arange(-32, 33).double() / 64
    for frequency, spread in (
        (0.1, 0.01),
        (0.3, 0.01),
        (0.5, 0.01),
        (0.85, 0.02),
        (1.0, 0.1),
    ):  # of Nyquist's
        waves = torch.exp(1j * torch.pi * frequency * (d - fractions[:, None]))
        gains = (kernels * waves).sum(1)
        assert (gains - gains[32]).abs().max() < spread, frequency
    whole = torch.fft.fft(kernels[32], 64).abs()
    assert (whole[:16] > 0.94).all()  # up to half of Nyquist's
    assert whole[32] < 0.15


def test_an_average_is_that_of_the_windows():
    net = network()
    offsets = [(0, 0), (0, 3), (5, 0)]
    average = ShiftAverage(net, SIZE, offsets)
    frames = torch.rand(2, 3, 45, 51, generator=torch.Generator().manual_seed(6))
    each = [net(frames[..., r : r + 40, c : c + 48]) for r, c in offsets]
    torch.testing.assert_close(average(frames), torch.stack(each).mean(0))
    doubled = ShiftAverage(net, SIZE, [(0, 0), (0, 0)])
    torch.testing.assert_close(doubled(frames[..., :40, :48]), each[0])


def test_phases_are_half_a_patch_or_half_a_stride_apart():
    assert half_phases(network(), 3, (32, 32)) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    patches = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert half_phases(patches, 3, (32, 32))[-1] == (4, 4)
    with pytest.raises(ModelError, match="does not downsample"):
        half_phases(nn.Conv2d(3, 8, 3), 3, (32, 32))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: CropSelection(nn.Identity(), SIZE, 3), "a margin of more than 4 here, got 3"),
        (lambda: CropSelection(nn.Identity(), SIZE, 4, circular=True), "margin of 0 here, got 4"),
        (lambda: CropSelection(nn.Identity(), (12, 12), 5), "12 × 12 pixels are too small"),
        (lambda: ShiftAverage(nn.Identity(), SIZE, []), "pixels from the frame's corner, got"),
        (lambda: around(network(), RESIZE_224, "crop-selection"), "6 pixels on each side"),
        (lambda: around(network(), RESIZE_224, "crop-selection:best"), "'crop-selection:best'"),
        (lambda: around(network(), RESIZE_224, "shift-average:9"), "no wrapper 'shift-average:9'"),
        *(
            (lambda text=text: around(network(), RESIZE_224, text), f"frame:192; got '{text}'")
            for text in ("frame", "frame:", "frame:224", "frame:0", "frame:1.5", "frame:small")
        ),
        (lambda: SmallerFrame(network(), SIZE, (20, 24))(torch.zeros(1, 3, 20, 24)), "of 40 × 48"),
        (
            lambda: CropSelection(nn.Identity(), SIZE, MARGIN)(torch.zeros(1, 3, *SIZE)),
            "takes frames of 58 × 66 pixels, got 40 × 48",
        ),
    ],
)
def test_what_is_refused(make, said):
    with pytest.raises(ModelError, match=said):
        make()


def test_the_frame_keeps_the_scale_and_leaves_a_pixel_to_move_over():
    own = Preprocessing(resize=(72,), crop=(60, 60))
    for text, crop in (("crop-selection", (70, 70)), ("shift-average", (61, 61))):
        _, frame = around(network(), own, text)
        assert (frame.resize, frame.crop) == (own.resize, crop)
        frame.widened(1)
    assert around(network(), own, "crop-selection:circular")[1].crop == own.crop


def test_a_smaller_frame_is_the_picture_itself_resized():
    """A constant and a slow tone stay; at the old Nyquist limit less than a tenth is left."""
    seen = SmallerFrame(nn.Identity(), (40, 48), (30, 36))
    torch.testing.assert_close(
        seen(torch.full((2, 3, 40, 48), 0.3)), torch.full((2, 3, 30, 36), 0.3)
    )
    board = 1 - 2.0 * ((torch.arange(40)[:, None] + torch.arange(48)) % 2)
    assert seen(board.expand(1, 3, 40, 48))[..., 4:-4, 4:-4].abs().max() < 0.1
    x = (torch.arange(48) + 0.5) / 48
    slow = torch.cos(2 * torch.pi * 3 * x).expand(1, 3, 40, 48)
    expected = torch.cos(2 * torch.pi * 3 * (torch.arange(36) + 0.5) / 36)
    assert (seen(slow) - expected)[..., 4:-4].abs().max() < 0.03


def test_a_smaller_frame_is_exported_as_products_that_equal_the_resize():
    seen, x = SmallerFrame(nn.Identity(), (40, 48), (30, 36)), torch.rand(2, 3, 40, 48)
    program = torch.export.export(seen, (x,)).module()
    assert "upsample" not in str(program.graph)
    torch.testing.assert_close(program(x), seen(x))


def test_sides_of_a_frame_keep_their_ratio():
    assert seen_by("frame:60", (40, 80)) == (30, 60)
    assert seen_by("crop-selection", (40, 80)) == (40, 80)


def test_what_is_converted_within_a_smaller_frame_is_converted_for_it():
    """Padding as TensorFlow has it begins with another phase on odd sides."""
    for side in (192, 208):
        net = load_model(f"efficientnet_lite0@frame:{side}")
        control = load_model(f"efficientnet_lite0@blurpool:1@frame:{side}")
        example = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            torch.testing.assert_close(net.module(example), control.module(example))


def test_a_smaller_frame_is_compared_place_by_place():
    pair = "cifar_resnet8", "cifar_resnet8_ideal@frame:20"
    for one, other in (pair, pair[::-1]):
        found = compare(one, other, images="photos", limit=3, device="cpu", shifts="crop")
        share = found.layers[found.layers["metric"] == "alias_share"]
        names = [x.removeprefix("model.").partition(".")[0] for x in share["layer_a"]]
        others = [x.removeprefix("model.").partition(".")[0] for x in share["layer_b"]]
        assert names == others == ["layer1", "layer1", "layer2", "layer2"]


def test_a_wrapper_is_the_end_of_a_spec_and_is_measured_like_a_network(tmp_path):
    loaded = load_model("efficientnet_lite0@ideal@crop-selection:laplacian")
    assert loaded.preprocessing.crop == (254, 254)
    assert loaded.class_names is not None
    with pytest.raises(ModelError, match="shift-average goes around what stands before it"):
        load_model("efficientnet_lite0@shift-average@ideal")
    with pytest.raises(ModelError, match="ends in a wrapper"):
        save_model(loaded, tmp_path / "wrapped.safetensors")
    runs = [
        measure(spec, "photos", limit=2, device="cpu", only=only)
        for spec, only in (("efficientnet_lite0", "avr"), (f"{loaded.spec}", "all"))
    ]
    names = [[x.name for x in run.strided_layers] for run in runs]
    assert len(names[1]) == len(names[0])
    assert all(name.startswith("model.") for name in names[1])
    strides = [[x.cumulative_stride for x in run.strided_layers] for run in runs]
    assert strides[1] == strides[0]
    assert runs[1].images["logit_instability"].notna().all()
