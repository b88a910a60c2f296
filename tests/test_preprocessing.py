import numpy as np
import PIL.Image
import pytest
import timm
import torch
from timm.data import create_transform, resolve_model_data_config
from torchvision.models import get_model_weights

from aliascope import ModelError
from aliascope.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    RESIZE_224,
    Preprocessing,
    from_timm,
    from_torchvision,
)


@pytest.fixture
def picture():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    return PIL.Image.fromarray(coarse).resize((500, 400), PIL.Image.Resampling.BICUBIC)


def pixels_of(picture):
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


# Pillow rounds to whole grey levels between its passes and at the end; floats do not.
ONE_LEVEL = 1.01 / 255


@pytest.mark.parametrize("name", ["resnet50", "tf_efficientnet_lite0", "vit_tiny_patch16_224"])
def test_timm_models_get_timms_own_evaluation_transform(name, picture):
    config = resolve_model_data_config(timm.create_model(name))
    theirs = create_transform(**config, is_training=False)(picture)
    preprocessing = from_timm(config)
    ours = preprocessing.normalise(preprocessing(pixels_of(picture))[None])[0]
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 1.5 * ONE_LEVEL / min(config["std"])


def test_torchvision_models_get_their_weights_own_transform(picture):
    preset = get_model_weights("resnet50").DEFAULT.transforms()
    preprocessing = from_torchvision(preset)
    ours = preprocessing.normalise(preprocessing(pixels_of(picture))[None])[0]
    assert (ours - preset(picture)).abs().max() < 1.5 * ONE_LEVEL / min(IMAGENET_STD)


def test_resize224_is_the_published_protocol(picture):
    theirs = np.array(picture.resize((224, 224), PIL.Image.Resampling.BILINEAR)) / 255
    ours = RESIZE_224(pixels_of(picture)).permute(1, 2, 0).numpy()
    assert np.abs(ours - theirs).max() < ONE_LEVEL
    zeroed = RESIZE_224.normalise(torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
    assert zeroed.abs().max() == 0


def test_bicubic_does_not_leave_the_range_of_a_picture():
    edge = torch.zeros(3, 64, 64)
    edge[:, :, 32:] = 1
    config = resolve_model_data_config(timm.create_model("resnet18"))
    resized = from_timm(config)(edge)
    assert resized.min() == 0
    assert resized.max() == 1


def test_squash_resizes_both_sides():
    config = resolve_model_data_config(timm.create_model("resnet18")) | {"crop_mode": "squash"}
    assert from_timm(config)(torch.rand(3, 50, 400)).shape == (3, 224, 224)


def test_an_unknown_crop_mode_is_named_with_a_remedy():
    config = resolve_model_data_config(timm.create_model("resnet18")) | {"crop_mode": "border"}
    with pytest.raises(ModelError, match=r"crop mode 'border'.*choose --preprocess resize224"):
        from_timm(config)


def test_a_widened_crop_holds_the_crop_in_its_middle():
    pixels = torch.rand(3, 300, 260, generator=torch.Generator().manual_seed(0))
    narrow = Preprocessing(resize=(256,), crop=(224, 224))
    torch.testing.assert_close(narrow.widened(1)(pixels)[:, 1:-1, 1:-1], narrow(pixels))


def test_a_crop_that_cannot_be_widened_is_refused():
    with pytest.raises(ModelError, match=r"need 1 pixel around the crop, but \(224, 224\) is cut"):
        RESIZE_224.widened(1)
