from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import timm
import torch
from timm.data import create_transform, resolve_data_config
from timm.models import get_pretrained_cfg
from torch import nn
from torchvision.models import get_model_weights
from torchvision.transforms.v2 import functional

from aliascope import ImageError, ModelError, load_model
from aliascope.images import MAX_PIXELS, decode, loaded_ahead
from aliascope.images.preprocessing import (
    AS_CROP,
    IMAGENET_MEAN,
    RESIZE_224,
    Preprocessing,
    customised,
    from_timm,
    from_torchvision,
    native_views,
)
from aliascope.images.source import Entry
from aliascope.shifts import ONE_PIXEL, Shift

PHOTOGRAPHS = [
    Path(find_spec(package).submodule_search_locations[0], name)
    for package, name in (
        ("skimage", "data/chelsea.png"),  # 300 × 451
        ("skimage", "data/camera.png"),  # 512 × 512, grey
        ("skimage", "data/coins.png"),  # 303 × 384, grey
        ("sklearn", "datasets/images/china.jpg"),  # 427 × 640
    )
]
CONFIG = {"crop_mode": "center", "mean": IMAGENET_MEAN, "std": (0.229, 0.224, 0.225)}


@pytest.fixture(params=PHOTOGRAPHS, ids=lambda path: path.stem)
def photograph(request):
    """What Pillow reads of a photograph, as timm and torchvision take it, and what decode does."""
    pixels, _ = decode(request.param)
    assert pixels.dtype == torch.uint8
    with PIL.Image.open(request.param) as picture:
        return picture.convert("RGB"), pixels


def timm_config(name):
    return resolve_data_config(pretrained_cfg=get_pretrained_cfg(name).to_dict())


def prepared(preprocessing, pixels):
    return preprocessing.normalise(preprocessing(pixels)[None])[0]


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("sides", "crop_pct", "crop_mode"),
    [
        ((224, 224), 0.875, "center"),
        ((224, 224), 0.95, "center"),
        ((97, 97), 0.9, "center"),
        ((513, 513), 1.0, "center"),  # larger than most of the photographs
        ((224, 224), 1.1, "center"),  # three of timm's models ask for more than there is
        ((256, 193), 0.95, "squash"),
    ],
)
def test_timms_own_transform_to_the_last_bit(photograph, interpolation, sides, crop_pct, crop_mode):
    picture, pixels = photograph
    config = CONFIG | {"input_size": (3, *sides), "crop_pct": crop_pct, "crop_mode": crop_mode}
    config["interpolation"] = interpolation
    theirs = create_transform(**config, is_training=False)(picture)
    assert torch.equal(prepared(from_timm(config), pixels), theirs)


def test_torchs_own_8_bit_resize_would_not_be_equal():
    """Why Pillow is asked: the test above can fail."""
    pixels, _ = decode(PHOTOGRAPHS[0])
    preprocessing = Preprocessing((224, 224), (224, 224), "bicubic")
    theirs = functional.resize(pixels, [224, 224], functional.InterpolationMode.BICUBIC)
    assert not torch.equal(preprocessing(pixels), theirs / 255)


@pytest.mark.parametrize("name", ["resnet50", "tf_efficientnet_lite0", "vit_tiny_patch16_224"])
def test_timm_models_get_timms_own_evaluation_transform(name, photograph):
    picture, pixels = photograph
    config = timm_config(name)
    theirs = create_transform(**config, is_training=False)(picture)
    assert torch.equal(prepared(from_timm(config), pixels), theirs)


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0", "vit_b_16", "inception_v3"])
def test_torchvision_models_get_their_weights_own_transform(name, photograph):
    picture, pixels = photograph
    preset = get_model_weights(name).DEFAULT.transforms()
    assert torch.equal(prepared(from_torchvision(preset), pixels), preset(picture))


def test_resize224_is_the_published_protocol(photograph):
    picture, pixels = photograph
    theirs = np.array(picture.resize((224, 224), PIL.Image.Resampling.BILINEAR), np.float32) / 255
    assert np.array_equal(RESIZE_224(pixels).permute(1, 2, 0).numpy(), theirs)
    zeroed = RESIZE_224.normalise(torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
    assert zeroed.abs().max() == 0


def test_deeper_pictures_are_not_rounded():
    pixels = torch.rand(3, 50, 70, generator=torch.Generator().manual_seed(0))
    ours = Preprocessing((20, 30), (20, 30), "bicubic")(pixels)
    theirs = functional.resize(pixels, [20, 30], functional.InterpolationMode.BICUBIC)
    torch.testing.assert_close(ours, theirs.clamp(0, 1), atol=1e-6, rtol=0)
    assert ((ours * 255).round() / 255 - ours).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_bicubic_does_not_leave_the_range_of_a_picture(dtype):
    edge = torch.zeros(3, 64, 64, dtype=dtype)
    edge[:, :, 32:] = 1 if dtype.is_floating_point else 255
    config = timm_config("resnet18")
    resized = from_timm(config)(edge)
    assert resized.min() == 0
    assert resized.max() == 1


class TestHugeAfterResizing:
    STRIP = torch.zeros(3, 2, 60_000, dtype=torch.uint8)

    def test_a_strip_is_refused_with_its_size(self):
        sentence = r"would be resized to 256 × 7,680,000 pixels, more than the 100,000,000 allowed"
        with pytest.raises(ImageError, match=sentence):
            Preprocessing((256,), (224, 224))(self.STRIP)

    def test_and_skipped_where_pictures_are_decoded_ahead(self):
        entries = [
            Entry(str(i), None, str(i), lambda pixels=pixels: (pixels, "note"))
            for i, pixels in enumerate([self.STRIP, torch.zeros(3, 9, 9)])
        ]
        strip, fine = loaded_ahead(entries, Preprocessing((256,), (224, 224)))
        assert strip.pixels is None
        assert "would be resized to" in strip.note
        assert (fine.pixels.shape, fine.note) == ((3, 224, 224), "note")

    def test_both_sides_given_it_is_no_matter(self):
        assert RESIZE_224(self.STRIP).shape == (3, 224, 224)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"resize": (256, 256, 3)}, r"resize \(256, 256, 3\) is no size; give pixels, such as"),
        ({"resize": (0,)}, r"resize \(0,\) is no size"),
        ({"crop": (224, -1)}, r"crop \(224, -1\) is no size"),
        ({"crop": (MAX_PIXELS, 2)}, r"crop \(100000000, 2\) is no size"),
        ({"interpolation": "cubic"}, r"no interpolation 'cubic'; choose from nearest, .*bicubic"),
        ({"mean": (123.7, 116.3, 103.5)}, r"mean \(123.7, .* divided by 255"),
        ({"std": (0.2, 0.2)}, r"std \(0.2, 0.2\) does not fit .* three numbers"),
        ({"std": (0.0, 1.0, 1.0)}, r"std \(0.0, 1.0, 1.0\) does not fit"),
        ({"mean": (float("nan"),) * 3}, r"mean \(nan, nan, nan\) does not fit"),
    ],
)
def test_a_transform_that_cannot_be(values, sentence):
    with pytest.raises(ModelError, match=sentence):
        replace(RESIZE_224, **values)


class TestCustomised:
    BASE = Preprocessing((256,), (224, 224), assumed=True)

    def test_nothing_given_changes_nothing(self):
        assert customised(self.BASE) == self.BASE
        assert customised(self.BASE).assumed

    def test_everything_given(self):
        options = {"size": "160x96", "resize": "200x120", "mean": "0.5", "std": "0.1,0.2,0.3"}
        made = customised(self.BASE, **options, interpolation="bicubic")
        wanted = Preprocessing((200, 120), (160, 96), "bicubic", (0.5,) * 3, (0.1, 0.2, 0.3))
        assert made == wanted
        assert made.notice == ""

    @pytest.mark.parametrize(
        ("base", "size", "resize"),
        [
            (Preprocessing((256,), (224, 224)), "160", (182,)),  # as timm: floor(160 / 0.875)
            (Preprocessing((256,), (224, 224)), "112x224", (256,)),
            (Preprocessing((256, 240), (224, 224)), "112x224", (128, 240)),
            (RESIZE_224, "299", (299, 299)),
        ],
    )
    def test_the_resize_keeps_its_ratio_to_the_size(self, base, size, resize):
        assert customised(base, size=size).resize == resize

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"size": "big"}, "--size 'big' is no size in pixels; write 224, or 288x224"),
            ({"size": "0"}, r"crop \(0, 0\) is no size"),
            ({"resize": "1x2x3"}, "--resize '1x2x3' is no size"),
            ({"resize": "100"}, r"resize to \(100,\) .* crop of \(224, 224\).* larger --resize"),
            ({"mean": "0.5,0.5"}, "--mean '0.5,0.5' is not one number nor three; write it as"),
            ({"std": "a,b,c"}, "--std 'a,b,c' is not one number nor three"),
            ({"mean": "123.675,116.28,103.53"}, r"mean .* divided by 255"),
            ({"interpolation": "cubic"}, "no interpolation 'cubic'; choose from"),
        ],
    )
    def test_what_cannot_be_read(self, options, sentence):
        with pytest.raises(ModelError, match=sentence):
            customised(self.BASE, **options)


class TestAssumed:
    def test_a_network_of_the_users_own_says_so(self):
        own = load_model(nn.Sequential(nn.Conv2d(3, 8, 3))).preprocessing
        assert own.assumed
        assert "ImageNet's usual one is assumed (resize 256, crop 224 × 224" in own.notice
        assert "--size, --resize" in own.notice

    def test_one_that_names_its_own_does_not(self):
        assert load_model("timm:resnet18", weights="random").preprocessing.notice == ""
        assert load_model(timm.create_model("resnet18")).preprocessing.notice == ""

    def test_the_figures_do_not_depend_on_it(self):
        usual = Preprocessing((256,), (224, 224))
        assumed = replace(usual, assumed=True)
        assert assumed == usual
        assert assumed.to_dict() == usual.to_dict()
        assert assumed.widened(1).notice


def test_squash_resizes_both_sides():
    config = timm_config("resnet18") | {"crop_mode": "squash"}
    assert from_timm(config)(torch.rand(3, 50, 400)).shape == (3, 224, 224)


def test_an_unknown_crop_mode_is_named_with_a_remedy():
    config = timm_config("resnet18") | {"crop_mode": "border"}
    with pytest.raises(ModelError, match=r"crop mode 'border'.*choose --preprocess resize224"):
        from_timm(config)


def test_a_widened_crop_holds_the_crop_in_its_middle():
    pixels = torch.rand(3, 300, 260, generator=torch.Generator().manual_seed(0))
    narrow = Preprocessing(resize=(256,), crop=(224, 224))
    torch.testing.assert_close(narrow.widened(1)(pixels)[:, 1:-1, 1:-1], narrow(pixels))


def test_a_crop_that_cannot_be_widened_is_refused():
    with pytest.raises(ModelError, match=r"need 1 pixel around the crop, but \(224, 224\) is cut"):
        RESIZE_224.widened(1)


PLAN = [*ONE_PIXEL, Shift("corner", 1, -2)]


def wave(height, width, rows, columns):
    """cos of so many cycles per pixel along both axes; pixels lie at half-integers."""
    y, x = (torch.arange(n, dtype=torch.float64) + 0.5 for n in (height, width))
    return (0.5 + 0.4 * torch.cos(2 * torch.pi * (rows * y[:, None] + columns * x))).float()


class TestNativeViews:
    @pytest.mark.parametrize("n", [2, 3, 4])
    def test_an_n_fold_larger_picture_moves_by_an_nth_of_a_pixel(self, n):
        """Against a closed form: the wave itself, moved by shift / n of the network's pixels."""
        margin, side, cycles = 2, 48, (0.02, 0.03)  # cycles per pixel of the network
        whole = n * side + 2 * margin
        pixels = wave(whole, whole, cycles[0] / n, cycles[1] / n).expand(3, -1, -1)
        inner = Preprocessing((side, side), (32, 32), "bicubic")
        views, note = native_views(inner, pixels, PLAN)
        assert note == ""
        # The window begins `margin` pixels of its own inside, the crop 8 of the network's.
        y, x = (torch.arange(32, dtype=torch.float64) + 0.5 + 8 + margin / n for _ in "yx")
        for view, shift in zip(views, [Shift("none", 0, 0), *PLAN], strict=True):
            phase = cycles[0] * (y - shift.rows / n)[:, None] + cycles[1] * (x - shift.columns / n)
            wanted = 0.5 + 0.4 * torch.cos(2 * torch.pi * phase)
            assert (view - wanted).abs().max() < 2e-3
            unmoved = (views[0] - wanted).abs().max()
            assert unmoved > 0.01 or shift.name == "none"

    def test_each_view_is_a_window_through_the_same_preprocessing(self, photograph):
        _, pixels = photograph
        inner = Preprocessing((160,), (128, 128), "bicubic")
        views, note = native_views(inner, pixels)
        height, width = (side - 2 for side in pixels.shape[1:])
        corners = [(1, 1), (2, 1), (0, 1), (1, 2), (1, 0)]  # none, up, down, left, right
        cuts = [pixels[:, y : y + height, x : x + width] for y, x in corners]
        assert note == ""
        assert torch.equal(views, torch.stack([inner(cut) for cut in cuts]))

    def test_directions_are_those_of_the_other_shifts(self):
        """A block that moves by n of its own pixels moves by one of the network's."""
        n, side = 4, 24
        small = torch.zeros(3, side, side)
        small[:, 10:14, 8:12] = 1
        small = functional.gaussian_blur(small, [5, 5])
        large = small.repeat_interleave(n, 1).repeat_interleave(n, 2)
        padded = nn.functional.pad(large, (n,) * 4)
        plan = [replace(s, rows=n * s.rows, columns=n * s.columns) for s in ONE_PIXEL]
        views, _ = native_views(Preprocessing((side, side), (side, side)), padded, plan)
        for view, shift in zip(views[1:], ONE_PIXEL, strict=True):
            moved = views[0].roll((shift.rows, shift.columns), (1, 2))
            torch.testing.assert_close(view, moved, atol=1e-6, rtol=0)
            assert (view - views[0]).abs().max() > 0.1

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
    @pytest.mark.parametrize("shape", [(40, 60), (42, 42), (30, 30), (1, 1)])
    def test_what_is_not_shrunk_moves_by_pixels_of_the_network_and_says_so(self, shape, dtype):
        scale = 255 if dtype == torch.uint8 else 1
        pixels = (torch.rand(3, *shape) * scale).to(dtype)
        inner = Preprocessing((40,), (32, 32))
        views, note = native_views(inner, pixels)
        assert note == AS_CROP
        wide = Preprocessing((40,), (34, 34))(pixels)
        assert torch.equal(views[0], wide[:, 1:-1, 1:-1])
        assert torch.equal(views[1], wide[:, 2:, 1:-1])  # up
        assert torch.equal(views[4], wide[:, 1:-1, :-2])  # right

    def test_what_cannot_move_at_all_is_refused(self):
        with pytest.raises(ImageError, match=r"not larger than the network's frame \(224, 224\)"):
            native_views(RESIZE_224, torch.rand(3, 96, 96))

    def test_a_full_frame_is_no_hindrance_for_a_large_photograph(self):
        views, note = native_views(RESIZE_224, torch.rand(3, 300, 400))
        assert (views.shape, note) == ((5, 3, 224, 224), "")
