"""Two networks that compute differently have different digests, and one network has one."""

import copy
import importlib
import itertools
import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn

from aliascope import antialias, load_model
from aliascope.models import structure_digest, weights_digest


def small():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)).eval()


class Act(nn.Module):
    """Prints the same whatever it does."""

    def __init__(self, function, **attributes):
        super().__init__()
        self.function = function
        vars(self).update(attributes)

    def forward(self, x):
        return self.function(x)


def scaled(factor):
    return lambda x: x * factor


class Doubled:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, *tensors):
        return tensors[-1] * self.factor


def hooked(hook, kind="register_forward_hook"):
    net = small()
    getattr(net[0], kind)(hook)
    return net


def buffered(value):
    net = small()
    net[0].register_buffer("filter", torch.full((2,), value), persistent=False)
    return net


def hidden(value):
    """A module that no module knows of, as some keep one in a list."""
    torch.manual_seed(value)
    return Act(torch.relu, kept=[nn.Conv2d(1, 1, 1)])


def overridden(scale):
    net = small()
    net.forward = lambda x: type(net).forward(net, x) * scale
    return net


def strided(stride):
    net = small()
    net[0].stride = stride  # after it was built
    return net


one, two = lambda x: x + 1, lambda x: x + 2

ALIKE_IN_PRINT = {
    "the function in an attribute": (Act(torch.relu), Act(torch.tanh)),
    "a Python function": (Act(nn.functional.relu), Act(nn.functional.silu)),
    "lambdas in one line": (Act(one), Act(two)),
    "what a lambda encloses": (Act(scaled(1)), Act(scaled(2))),
    "a partial": (
        Act(partial(nn.functional.leaky_relu, negative_slope=0.1)),
        Act(partial(nn.functional.leaky_relu, negative_slope=0.2)),
    ),
    "a callable object": (Act(Doubled(1.0)), Act(Doubled(2.0))),
    "a number": (Act(torch.relu, shift=1), Act(torch.relu, shift=2)),
    "a nested number": (Act(torch.relu, at={"a": [1, (2,)]}), Act(torch.relu, at={"a": [1, (3,)]})),
    "a tensor": (Act(torch.relu, k=torch.ones(2)), Act(torch.relu, k=torch.zeros(2))),
    "a module in a list": (hidden(0), hidden(1)),
    "a buffer in no state_dict": (buffered(0.0), buffered(1.0)),
    "a hook": (small(), hooked(Doubled(1.0))),
    "what a hook knows": (hooked(Doubled(1.0)), hooked(Doubled(2.0))),
    "a pre-hook": (hooked(Doubled(1.0)), hooked(Doubled(1.0), "register_forward_pre_hook")),
    "a setting": (strided((2, 2)), strided((2, 1))),
}


@pytest.mark.parametrize("difference", ALIKE_IN_PRINT)
def test_networks_that_differ_are_told_apart(difference):
    first, second = ALIKE_IN_PRINT[difference]
    assert structure_digest(first) != structure_digest(second)
    for net in (first, second):
        assert structure_digest(net) == structure_digest(copy.deepcopy(net))


def test_a_forward_of_its_own_is_told_apart():
    assert structure_digest(overridden(1)) == structure_digest(overridden(1))
    assert structure_digest(overridden(1)) != structure_digest(overridden(2))


def test_conversions_of_one_network_are_told_apart():
    """The weights are the same, bit for bit."""
    net, example = small(), torch.zeros(1, 3, 64, 64)
    made = [antialias(net, method, size=5, example=example) for method in ("blurpool", "aps")]
    made += [antialias(net, "blurpool", size=size, example=example) for size in (2, 3)]
    made += [antialias(net, "blurpool", padding="zeros", example=example)]
    made += [antialias(net, "ideal", example=example), net]
    assert len({weights_digest(m) for m in made}) == 1
    assert len({structure_digest(m) for m in made}) == len(made)


@pytest.mark.parametrize("spec", ["timm:test_resnet@aps", "timm:levit_128s"])
def test_using_a_network_does_not_change_its_digests(spec):
    """levit fills a cache in its forward; a choice is handed on in that of aps."""
    loaded = load_model(spec, weights="random")
    before = loaded.structure_digest, loaded.weights_digest
    with torch.no_grad():
        loaded.module(loaded.example())
    loaded.module.train().eval().requires_grad_(False)
    assert (loaded.structure_digest, loaded.weights_digest) == before
    compiled = torch.compile(loaded.module)
    assert structure_digest(compiled) == before[0]


def test_the_weights_are_no_part_of_the_structure():
    first, second = (load_model("timm:test_resnet", weights="random", seed=seed) for seed in (0, 1))
    assert first.structure_digest == second.structure_digest
    assert first.weights_digest != second.weights_digest


def test_a_module_changed_after_it_was_loaded_has_other_digests():
    loaded = load_model("timm:test_resnet", weights="random")
    before = loaded.structure_digest, loaded.weights_digest
    loaded.module.act1 = nn.Tanh()
    with torch.no_grad():
        loaded.module.fc.bias += 1
    assert loaded.structure_digest != before[0]
    assert loaded.weights_digest != before[1]


CODE = '''
import torch
from torch import nn
from helpers import shrink
import helpers

FACTOR = 2

def scale(x):
    return x * FACTOR

class Net(nn.Module):
    """Its words."""
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)
        self.names = {"b", "a", "c"}

    @torch.no_grad()
    def forward(self, x):
        return helpers.grow(shrink(scale(self.conv(x)).mean((2, 3))))

def net():
    return Net()
'''
HELPERS = "def shrink(x):\n    return x / 3\n\ndef grow(x):\n    return x * 3\n"
EDITS = {
    "forward": ("shrink(scale(", "shrink(abs("),
    "a function it calls": ("x * FACTOR", "x + FACTOR"),
    "a constant": ("FACTOR = 2", "FACTOR = 3"),
}


@pytest.fixture
def edited(tmp_path, monkeypatch):
    """The digest of `mine:net` after its file was written anew."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # it tells files apart by the second
    number = itertools.count()

    def digest(code=CODE, helpers=HELPERS):
        folder = tmp_path / f"{next(number)}"
        folder.mkdir()
        (folder / "mine.py").write_text(code)
        (folder / "helpers.py").write_text(helpers)
        monkeypatch.chdir(folder)
        importlib.invalidate_caches()
        for name in ("mine", "helpers"):
            sys.modules.pop(name, None)
        return load_model("mine:net", weights="random").structure_digest

    yield digest
    for name in ("mine", "helpers"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("edit", EDITS)
def test_edited_code_is_noticed(edited, edit):
    assert edited() == edited()
    assert edited(CODE.replace(*EDITS[edit])) != edited()


@pytest.mark.parametrize("change", [("/ 3", "/ 4"), ("* 3", "* 4")])
def test_edited_helpers_in_another_file_are_noticed(edited, change):
    assert edited(helpers=HELPERS.replace(*change)) != edited()


def test_comments_and_layout_do_not_count(edited):
    code = CODE.replace("return x * FACTOR", "# why\n    return (x *\n        FACTOR)")
    assert code != CODE
    assert edited(code) == edited()


def test_code_without_a_file_is_told_apart():
    found = []
    for factor in (1, 2, 2):
        names = {}
        exec(f"def f(x):\n    return x * {factor}", names)  # noqa: S102
        found.append(structure_digest(Act(names["f"])))
    assert found[0] != found[1] == found[2]


def test_the_digest_is_the_same_in_another_process(edited):
    expected = edited()
    code = "from aliascope import load_model; print(load_model('mine:net').structure_digest)"
    environment = os.environ | {"PYTHONHASHSEED": "3"}
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    )
    assert found.stdout.strip() == expected
