"""Bare calls become modules where nothing else changes, and are refused elsewhere."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from aliascope import ModelError, antialias, conversion_of, strided_layers
from aliascope.antialias.calls import make_modules
from test_antialias import Handwritten, assert_same_network, built, conv_block, image


class Block(nn.Module):
    """Weights of its own in a bare convolution, and pools of all kinds of arguments."""

    def __init__(self):
        super().__init__()
        self.first, self.unused = conv_block(3, 8), nn.Linear(2, 2)
        self.weight = nn.Parameter(torch.randn(8, 4, 3, 3) / 6)
        self.bias = nn.Parameter(torch.randn(8))
        self.last = nn.Conv2d(8, 4, 1)
        self.note = ["kept"]

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.first(x), (3, 2), 2, padding=(1, 0), ceil_mode=True))
        x = torch.tanh(F.conv2d(x, self.weight, self.bias, stride=2, padding=1, groups=2))
        x = self.last(x)
        return torch.max_pool2d(x, 2) + F.avg_pool2d(input=x, kernel_size=2)


class Around(nn.Module):
    """The calls in a module within, and one in the network itself."""

    def __init__(self):
        super().__init__()
        self.block = Block()

    def forward(self, x):
        x = self.block(x)
        return F.max_pool2d(x, 2).mean((2, 3))


def outcomes(converted):
    return {row.layer: row.outcome for row in conversion_of(converted).layers}


class TestRewriting:
    @pytest.mark.parametrize("side", [64, 61])
    def test_one_tap_is_the_original_network(self, side):
        net, x = built(Around), image(side)
        names = [layer.name.replace("#2", "_1") for layer in strided_layers(net, x)]
        assert len(names) == 5
        converted = antialias(net, size=1, example=x)
        # One tap leaves average pools alone.
        kept = {"block.avg_pool2d": "kept"}
        assert outcomes(converted) == dict.fromkeys(names, "converted") | kept
        assert_same_network(converted, net, image(side, batch=3, seed=1))

    def test_all_are_filtered_and_the_weights_stay(self):
        net, x = built(Around), image()
        converted = antialias(net, example=x)
        assert {*outcomes(converted).values()} == {"converted"}
        assert {layer.kind for layer in strided_layers(converted, x)} == {
            "blur_pool",
            "max_blur_pool",
        }
        converted.load_state_dict(net.state_dict(), strict=True)
        assert list(converted.state_dict()) == list(net.state_dict())
        assert len(list(converted.parameters())) == len(list(net.parameters()))
        assert isinstance(converted, Around)
        assert converted.block.note == ["kept"]
        assert type(net) is Around  # the original is as it was
        assert [name for name, _ in net.block.named_children()] == ["first", "unused", "last"]

    def test_the_filters_stand_where_they_would_behind_modules(self):
        class Modules(Handwritten):
            def __init__(self):
                super().__init__()
                self.pool = nn.MaxPool2d(2)

            def forward(self, x):
                x = self.pool(F.relu(self.a(x)))
                return self.c(F.relu(self.b(x))).mean((2, 3))

        net, other, x = built(Handwritten), built(Modules), image()
        other.load_state_dict(net.state_dict())
        converted, twin = antialias(net, example=x), antialias(other, example=x)
        assert outcomes(converted) == {"max_pool2d": "converted", "b": "converted"}
        assert torch.equal(converted(x), twin(x))

    def test_copies_and_files(self):
        net, x = built(Around), image()
        converted = antialias(net, example=x)
        file = io.BytesIO()
        torch.save(converted, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        for twin in (copy.deepcopy(converted), copy.deepcopy(loaded), loaded):
            assert torch.equal(twin(x), converted(x))
        loaded.block.weight.data.zero_()
        assert not torch.equal(loaded(x), converted(x))

    def test_training(self):
        net, x = built(Around).train(), image()
        converted = antialias(net, example=x)
        assert all(module.training for module in converted.modules())
        converted(image(batch=2)).sum().backward()
        grads = {name: p.grad is not None for name, p in converted.named_parameters()}
        assert grads == {name: not name.startswith("block.unused") for name in grads}

    def test_a_module_without_children_too(self):
        class Down(nn.Module):
            def forward(self, x):
                return F.max_pool2d(x, 3, 2, 1)

        net, x = built(lambda: nn.Sequential(conv_block(3, 8), Down(), nn.Conv2d(8, 4, 1))), image()
        assert_same_network(antialias(net, size=1, example=x), net, image(63, batch=2))
        (row,) = conversion_of(antialias(net, example=x)).layers
        assert row.downsampler == "1.max_pool2d.1"


class Dependent(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.first, self.last, self.how = conv_block(3, 8), nn.Conv2d(8, 4, 3, 2, 1), how

    def forward(self, x):
        x = F.max_pool2d(self.first(x), 2)
        return self.last(self.how(self, x))


def by_value(_, x):
    return x if x.mean() > 100 else 2 * x


def by_mode(net, x):
    return F.dropout(x, training=net.training)


def by_batch(_, x):
    return x * len(x.unbind())


def by_size(_, x):
    return x.view(1, 8, 32, 32)


def by_chance(_, x):
    return x + torch.rand_like(x)


@pytest.mark.parametrize("how", [by_value, by_mode, by_batch, by_size])
def test_what_is_not_safe_is_refused_by_name(how):
    net = Dependent(how)
    with pytest.raises(ModelError, match=r"max_pool2d \(max_pool\): a bare call.*make it a module"):
        antialias(net, example=image())
    converted = antialias(net, partial=True, example=image())
    assert outcomes(converted) == {"max_pool2d": "refused", "last": "converted"}
    assert type(converted) is Dependent
    assert [name for name, _ in converted.named_children()] == ["first", "last"]


def test_chance_that_is_the_same_for_both_is_no_reason():
    net = Dependent(by_chance)
    assert {*outcomes(antialias(net, example=image())).values()} == {"converted"}


def test_what_would_answer_otherwise_is_put_back(monkeypatch):
    monkeypatch.setattr(nn.MaxPool2d, "forward", lambda self, x: F.max_pool2d(x, 2) + 1e-6)
    net = Handwritten()
    assert not make_modules(net, [""], image())
    assert type(net) is Handwritten
    assert [name for name, _ in net.named_children()] == ["a", "b", "c"]
