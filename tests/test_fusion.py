import copy

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision.models as tv
from timm.layers import BatchNormAct2d, StdConv2d
from timm.layers.conv2d_same import Conv2dSame
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.prune import l1_unstructured

from aliascope.measure.fusion import fuse_batch_norm
from aliascope.taps import strided_layers, tap

NORM = nn.modules.batchnorm._BatchNorm


def images(side, batch=2):
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))


def randomised(model):
    """A model whose batch-norms do something, in every one of their numbers, and keep the scale."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for norm in (module for module in model.modules() if isinstance(module, NORM)):
            for value, low in ((norm.running_var, 0.5), (norm.weight, 0.5)):
                if value is not None:
                    value.uniform_(low, low + 1, generator=generator)
            for value in (norm.running_mean, norm.bias):
                if value is not None:
                    value.normal_(0, 0.2, generator=generator)
    return model.eval()


def distance(x, reference):
    """Relative, so that it says as much of a small map as of a large one."""
    return ((x - reference).norm() / reference.norm()).item()


def norms(model):
    return [name for name, module in model.named_modules() if isinstance(module, NORM)]


MODELS = {
    "resnet18": (lambda: timm.create_model("resnet18"), []),
    "resnetblur18": (lambda: timm.create_model("resnetblur18"), []),
    "tf_efficientnet_lite0": (lambda: timm.create_model("tf_efficientnet_lite0"), []),
    "mobilenetv3": (tv.mobilenet_v3_small, []),
    # A dense layer's first norm reads what several layers wrote.
    "densenet": (
        lambda: timm.create_model("densenet121", block_config=(2, 1), growth_rate=8),
        [
            "features.denseblock1.denselayer1.norm1",
            "features.denseblock1.denselayer2.norm1",
            "features.transition1.norm",
            "features.denseblock2.denselayer1.norm1",
            "features.norm5",
        ],
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_same_network_with_fewer_passes(name):
    build, remaining = MODELS[name]
    model, x = randomised(build()), images(32)
    weights = copy.deepcopy(model.state_dict())
    modules = list(model.named_modules())
    layers = strided_layers(model, x)

    folded = fuse_batch_norm(model, x)

    assert norms(folded) == remaining
    assert not any(module.training for module in folded.modules())
    assert strided_layers(folded, x) == layers
    with torch.no_grad(), tap(model, layers) as before, tap(folded, layers) as after:
        assert distance(folded(x), model(x)) < 1e-5
    assert list(after.inputs) == [layer.name for layer in layers]
    for layer in layers:
        assert distance(after.inputs[layer.name], before.inputs[layer.name]) < 1e-5

    assert list(model.named_modules()) == modules
    assert list(model.state_dict()) == list(weights)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


class Pair(nn.Module):
    """A convolution and a batch-norm, and what becomes of the map between them."""

    def __init__(self, conv=None, norm=None, forward=lambda net, x: net.norm(net.conv(x))):
        super().__init__()
        self.conv = conv or nn.Conv2d(3, 4, 3, padding=1)
        self.norm = norm or nn.BatchNorm2d(4)
        self.function = forward

    def forward(self, x):
        return self.function(self, x)


def folds(model, x=None):
    """Whether a model's norm is gone from the folded copy, which must compute the same."""
    x = images(16) if x is None else x
    model = randomised(model)
    folded = fuse_batch_norm(model, x)
    with torch.no_grad():
        for ours, theirs in zip(tensors(folded(x)), tensors(model(x)), strict=True):
            assert distance(ours, theirs) < 1e-5
    assert len(norms(folded)) in (0, len(norms(model)))
    return not norms(folded)


def tensors(output):
    return output if isinstance(output, tuple) else (output,)


CONVS = {
    "bias": nn.Conv2d(3, 4, 3),
    "no bias": nn.Conv2d(3, 4, 3, bias=False),
    "grouped": nn.Conv2d(3, 6, 3, groups=3, stride=2),
    "strided, dilated": nn.Conv2d(3, 4, (3, 1), stride=(1, 2), dilation=2),
    "reflect": nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
    "circular": nn.Conv2d(3, 4, 5, padding=2, padding_mode="circular"),
    "pads itself": Conv2dSame(3, 4, 3, stride=2),
}


@pytest.mark.parametrize("name", CONVS)
def test_folds_every_kind_of_convolution(name):
    conv = CONVS[name]
    assert folds(Pair(conv, nn.BatchNorm2d(conv.out_channels)))


def test_keeps_what_a_convolution_is():
    conv = CONVS["reflect"]
    folded = fuse_batch_norm(Pair(conv).eval(), images(16)).conv
    assert folded.padding_mode == "reflect"
    assert type(folded) is nn.Conv2d
    assert conv.bias is not folded.bias


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(4),
        nn.BatchNorm2d(4, affine=False),
        nn.BatchNorm2d(4, eps=0.3),
        BatchNormAct2d(4),
        BatchNormAct2d(4, act_layer=nn.SiLU, drop_layer=nn.Dropout),
        BatchNormAct2d(4, apply_act=False),
    ],
    ids=["plain", "no affine", "eps", "with ReLU", "with dropout and SiLU", "without its act"],
)
def test_folds_every_kind_of_norm(norm):
    assert folds(Pair(norm=norm))


def calls_twice(net, x):
    return net.norm(net.conv(x)) + net.conv(x.flip(3))


def keeps_the_map(net, x):
    net.kept = net.conv(x)
    return net.norm(net.kept)


def second_reader(net, x):
    x = net.conv(x)
    return net.norm(x) + x.relu()


def returns_both(net, x):
    x = net.conv(x)
    return net.norm(x), x


def norm_called_twice(net, x):
    return net.norm(net.norm(net.conv(x)))


def in_place_between(net, x):
    return net.norm(net.conv(x).relu_())


def in_place_after(net, x):
    return net.norm(net.conv(x)).relu_()


@pytest.mark.parametrize(
    ("forward", "expected"),
    [
        (in_place_after, True),
        (second_reader, False),
        (returns_both, False),
        (keeps_the_map, False),
        (calls_twice, False),
        (norm_called_twice, False),
        (in_place_between, False),
    ],
)
def test_folds_only_where_nothing_else_reads_the_map(forward, expected):
    assert folds(Pair(forward=forward)) is expected


def masks_the_map(net, x):
    x = net.conv(x)
    x[..., :4] = 0
    return net.norm(x)


def copies_the_map(net, x):
    y = net.conv(x)
    both = y.new_zeros(len(y), 8, *y.shape[2:])
    both[:, :4] = y
    both[:, 4:] = net.norm(y)
    return both


def reads_a_number(net, x):
    x = net.conv(x)
    return net.norm(x) * float(x.abs().mean())


def custom_gradient(net, x):
    class Gate(torch.autograd.Function):
        @staticmethod
        def forward(_, x):
            return x * x.sigmoid()

    x = net.conv(x)
    return net.norm(x) + Gate.apply(x)


def reads_a_detached_array(net, x):
    x = net.conv(x)
    return net.norm(x) + torch.from_numpy(x.detach().numpy().copy())


def reads_an_array(net, x):
    x = net.conv(x)
    return net.norm(x) + torch.from_numpy(x.numpy().copy())


def edits_an_array(net, x):
    x = net.conv(x)
    x.numpy()[..., :4] = 0
    return net.norm(x)


def edits_the_storage(net, x):
    x = net.conv(x)
    x.untyped_storage().fill_(0)  # no operation on a tensor
    return net.norm(x)


def ties_the_weight(net, x):
    return F.conv_transpose2d(net.norm(net.conv(x)), net.conv.weight)


def reads_the_bias(net, x):
    return net.norm(net.conv(x)) + net.conv.bias.sum()


def reads_the_norms_weight(net, x):
    return net.norm(net.conv(x)) + net.norm.weight.sum()


def asks_the_norm(net, x):
    return net.norm(net.conv(x)) * net.norm.num_features


@pytest.mark.parametrize(
    "forward",
    [
        masks_the_map,
        copies_the_map,
        reads_a_number,
        custom_gradient,
        reads_a_detached_array,
        reads_an_array,
        edits_an_array,
        edits_the_storage,
        ties_the_weight,
        reads_the_bias,
        reads_the_norms_weight,
        asks_the_norm,
    ],
)
def test_nothing_is_folded_where_something_unseen_reads_or_edits(forward):
    assert not folds(Pair(forward=forward))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_a_scripted_function_may_read_the_map():
    @torch.jit.script
    def gate(x: torch.Tensor):
        return x * torch.sigmoid(x)

    def forward(net, x):
        x = net.conv(x)
        return net.norm(x) + gate(x)

    assert not folds(Pair(forward=forward))


def test_one_pair_at_fault_does_not_keep_the_others():
    conv = nn.Conv2d(4, 4, 3)
    model = nn.Sequential(Pair(), Pair(conv, forward=copies_the_map)).eval()
    assert fuse_batch_norm(model, images(16)).fused == [("0.conv", "0.norm")]


def test_a_fault_that_only_the_outputs_show_keeps_all():
    model = nn.Sequential(Pair(), Pair(nn.Conv2d(4, 4, 3), forward=edits_the_storage))
    assert not folds(model)


def test_a_network_that_multiplies_rounding_is_folded():
    """As random ones do, by more than a million; only double precision tells that all is well."""
    model = randomised(Pair(forward=lambda net, x: (1e6 * net.norm(net.conv(x))).sin()))
    fused = fuse_batch_norm(model, images(16))
    with torch.no_grad():
        assert distance(fused(images(16)), model(images(16))) > 1e-3
    assert fused.fused == [("conv", "norm")]


def test_what_is_drawn_at_random_is_drawn_again():
    def forward(net, x):
        return F.dropout(net.norm(net.conv(x)), 0.5, training=True)

    model = Pair(forward=forward).eval()
    state = torch.get_rng_state()
    assert fuse_batch_norm(model, images(16)).fused
    assert torch.equal(torch.get_rng_state(), state)


def test_a_number_that_is_undefined_is_not_compared():
    assert not fuse_batch_norm(Pair(forward=lambda net, x: net.conv(x) / 0 * 0), images(16)).fused


def test_the_comparison_costs_one_forward():
    runs = []

    def forward(net, x):
        runs.append(x.shape)
        return net.norm(net.conv(x))

    model = Pair(forward=forward).eval()
    assert fuse_batch_norm(model, images(16, batch=1)).fused
    assert runs == [(1, 3, 16, 16)] * 2


def test_a_norm_before_a_convolution_stays():
    assert not folds(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)))


def test_a_norm_after_a_shuffle_of_the_map_stays():
    conv = nn.Conv2d(3, 16, 3, padding=1)
    assert not folds(nn.Sequential(conv, nn.PixelShuffle(2), nn.BatchNorm2d(4)))


def test_each_pair_is_judged_by_itself():
    branches = nn.Sequential(
        Pair(nn.Conv2d(3, 4, 3)), Pair(nn.Conv2d(4, 4, 3), forward=second_reader)
    )
    assert norms(fuse_batch_norm(branches, images(16))) == ["1.norm"]


@pytest.mark.parametrize("which", ["conv", "norm"])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_pair_with_a_hook_stays(which, kind):
    model = Pair()
    seen = []
    getattr(model.get_submodule(which), kind)(lambda *_: seen.append(1))
    assert not folds(model)
    assert seen


def test_a_hook_around_the_convolution_still_sees_its_map():
    model = randomised(nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)))
    seen = []
    model[0].register_forward_hook(lambda _module, _args, output: seen.append(output))
    assert not folds(model)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, BatchNormAct2d])
def test_a_norm_without_statistics_stays(norm):
    assert not folds(Pair(norm=norm(4, track_running_stats=False)))


@torch.no_grad()
def pruned(conv):
    return l1_unstructured(conv, "weight", 0.5)


@pytest.mark.parametrize(
    "conv",
    [
        StdConv2d(3, 4, 3),
        spectral_norm(nn.Conv2d(3, 4, 3)),
        pruned(nn.Conv2d(3, 4, 3)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()),
    ],
    ids=["standardised", "spectral norm", "pruned", "activated"],
)
def test_a_convolution_that_computes_more_stays(conv):
    assert not folds(Pair(conv))


def test_a_functional_convolution_stays():
    def forward(net, x):
        return net.norm(F.conv2d(x, net.conv.weight))

    assert not folds(Pair(forward=forward))


def test_a_norm_known_by_two_names():
    model = Pair(forward=lambda net, x: net.layers[1](net.layers[0](x)))
    model.layers = nn.ModuleList([model.conv, model.norm])
    assert folds(model)


def test_two_convolutions_may_share_their_weight():
    model = nn.Sequential(Pair(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)), nn.Conv2d(3, 3, 3))
    model[1].weight = model[0].conv.weight
    assert folds(model)


def test_keeps_channels_last():
    model = timm.create_model("test_resnet").to(memory_format=torch.channels_last)
    x = images(32).contiguous(memory_format=torch.channels_last)
    assert folds(model, x)
    conv = fuse_batch_norm(model, x).conv1
    conv = conv if isinstance(conv, nn.Conv2d) else conv[0]
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_folds_in_half_precision():
    model = randomised(Pair()).to(torch.bfloat16)
    x = images(16).to(torch.bfloat16)
    folded = fuse_batch_norm(model, x)
    assert not norms(folded)
    with torch.no_grad():
        assert distance(folded(x).float(), model(x).float()) < 2e-2


def test_a_model_in_train_mode_is_folded_as_it_evaluates():
    model = nn.Sequential(randomised(Pair()), nn.Dropout()).train()
    folded = fuse_batch_norm(model, images(16))
    assert model[0].norm.training
    assert not any(module.training for module in folded.modules())
    assert distance(folded(images(16)), model.eval()(images(16))) < 1e-5


def test_the_activation_of_a_fused_norm_keeps_its_name():
    folded = fuse_batch_norm(Pair(norm=BatchNormAct2d(4)).eval(), images(16))
    assert type(folded.get_submodule("norm.act")) is nn.ReLU


def test_the_randomised_norms_would_show_a_fold_left_out():
    model = randomised(Pair())
    assert distance(model.conv(images(16)), model(images(16))) > 0.1
