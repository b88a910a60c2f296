"""Files that aliascope writes are model specs; files of others are named."""

import dataclasses
import errno
import json

import pytest
import safetensors
import safetensors.torch
import torch

from aliascope import ModelError, conversion_of, load_model, save_model
from aliascope.models.files import provenance_of

pytestmark = pytest.mark.xdist_group("weights")  # one worker makes what all share

SPEC = "timm:test_resnet"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A converted network with weights that no seed gives, and its file."""
    path = tmp_path_factory.mktemp("models") / "mine@home.safetensors"
    loaded = load_model(f"{SPEC}@blurpool:2:stem:zeros", weights="random", seed=9)
    save_model(loaded, path)
    return loaded, path


def rewritten(path, target, **changes):
    """A copy of a file with other metadata."""
    with safetensors.safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["aliascope"]) | changes
    state = safetensors.torch.load_file(path)
    safetensors.torch.save_file(state, target, {"aliascope": json.dumps(record)})
    return target


def logits(loaded):
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return loaded.module(x)


def test_a_file_is_a_model_spec(saved):
    loaded, path = saved
    again = load_model(str(path))
    assert torch.equal(logits(again), logits(loaded))
    assert again.weights_digest == loaded.weights_digest
    assert again.preprocessing == loaded.preprocessing
    assert again.class_names == loaded.class_names
    assert again.provenance == loaded.provenance
    assert conversion_of(again.module) == conversion_of(loaded.module)
    structure = load_model(str(path), weights="random")
    assert not torch.equal(logits(structure), logits(loaded))


def test_half_the_size(saved, tmp_path):
    """Filters are rounded to float16, vectors are not, and the network computes in float32."""
    loaded, path = saved
    save_model(loaded, tmp_path / "half.safetensors", half=True)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.55 * path.stat().st_size
    again = load_model(str(tmp_path / "half.safetensors")).module.state_dict()
    for name, tensor in loaded.module.state_dict().items():
        expected = tensor.half().float() if tensor.ndim > 1 else tensor
        assert torch.equal(again[name], expected)
        assert again[name].dtype == tensor.dtype


def test_it_says_what_it_is(saved):
    _, path = saved
    known = provenance_of(path)
    assert known.base == SPEC
    (recipe,) = known.recipes
    assert str(recipe) == "blurpool:2:stem:zeros"
    assert known.weights_digest == load_model(SPEC, weights="random", seed=9).weights_digest


def test_a_file_can_be_converted_further(saved, tmp_path):
    chained = load_model(f"{SPEC}@blurpool:3@lps:1:stem", weights="random")
    save_model(chained, tmp_path / "chained.safetensors")
    again = load_model(str(tmp_path / "chained.safetensors"))
    assert torch.equal(logits(again), logits(chained))
    save_model(load_model(SPEC, weights="random", seed=9), tmp_path / "plain.safetensors")
    onward = load_model(f"{tmp_path / 'plain.safetensors'}@blurpool:2:stem:zeros")
    assert torch.equal(logits(onward), logits(saved[0]))
    assert onward.provenance == saved[0].provenance


def test_weights_of_a_converted_network_load_where_their_names_are(saved, tmp_path):
    """As a fine-tuning writes them: a bare state_dict, learned layers included."""
    loaded = load_model(f"{SPEC}@tips", weights="random", seed=4)
    safetensors.torch.save_file(loaded.module.state_dict(), tmp_path / "tuned.safetensors")
    again = load_model(f"{SPEC}@tips", weights=tmp_path / "tuned.safetensors")
    assert torch.equal(logits(again), logits(loaded))
    with pytest.raises(ModelError, match=r"tuned\.safetensors do not fit the model.*Unexpected"):
        load_model(f"{SPEC}@blurpool", weights=tmp_path / "tuned.safetensors")
    with pytest.raises(ModelError, match=r"no aliascope metadata: name the base model.*--weights"):
        load_model(str(tmp_path / "tuned.safetensors"))


def test_the_conversion_that_a_file_records_is_made(saved, tmp_path):
    """`--weights tuned.safetensors` on the network as it was before, which a function may name."""
    loaded, path = saved
    for made in (load_model(SPEC, weights=path), load_model(loaded.spec, weights=path)):
        assert torch.equal(logits(made), logits(loaded))
        assert conversion_of(made.module) == conversion_of(loaded.module)
        assert made.provenance == loaded.provenance
        assert made.spec == f"{SPEC}@blurpool:2:stem:zeros"
    for other in ("blurpool:3:stem:zeros", "ideal"):
        sentence = rf"mine@home.* converted by @blurpool:2:stem:zeros, .* asks for @{other}.*:"
        with pytest.raises(ModelError, match=sentence):
            load_model(f"{SPEC}@{other}", weights=path)
    save_model(load_model(SPEC, weights="random", seed=9), tmp_path / "plain.safetensors")
    converted = load_model(f"{SPEC}@blurpool:2:stem:zeros", weights=tmp_path / "plain.safetensors")
    assert torch.equal(logits(converted), logits(loaded))


def test_files_that_do_not_serve_are_named(saved, tmp_path):
    _, path = saved
    with pytest.raises(ModelError, match=r"gone\.safetensors does not exist"):
        load_model(str(tmp_path / "gone.safetensors"))
    (tmp_path / "noise.safetensors").write_bytes(b"noise" * 100)
    with pytest.raises(ModelError, match=r"cannot read .*noise\.safetensors as safetensors"):
        load_model(str(tmp_path / "noise.safetensors"))
    target = tmp_path / "other.safetensors"
    for changes, sentence in (
        ({"format": 2}, "has format 2, newer than 1: upgrade aliascope"),
        ({"format": "new"}, "cannot read the aliascope metadata"),
        (
            {"recipes": [{"method": "blurpool", "size": "two"}]},
            "cannot read the aliascope metadata",
        ),
        ({"recipes": [{"method": "wrong"}]}, "unknown method 'wrong'"),
        ({"recipes": 3}, "cannot read the aliascope metadata"),
        ({"base": "torchvision:resnet18"}, "do not fit the model"),
    ):
        with pytest.raises(ModelError, match=sentence):
            load_model(str(rewritten(path, target, **changes)))


def test_a_file_cannot_name_code_to_run(saved, tmp_path):
    """A weights file is data: only published networks are built from its word."""
    target = rewritten(saved[1], tmp_path / "evil.safetensors", base="antigravity:geohash")
    with pytest.raises(
        ModelError, match=r"code of your own.*name antigravity:geohash as the model.*--weights"
    ):
        load_model(str(target))


def test_what_cannot_be_saved(saved, tmp_path, monkeypatch):
    loaded, _ = saved
    with pytest.raises(ModelError, match=r"model\.pt must end in \.safetensors"):
        save_model(loaded, tmp_path / "model.pt")
    with pytest.raises(ModelError, match="was passed as a module, which no file can name"):
        save_model(load_model(loaded.module), tmp_path / "model.safetensors")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(ModelError, match=r"cannot be written \(No space left on device\)"):
        save_model(loaded, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_tied_weights_are_written(saved, tmp_path):
    loaded, _ = saved
    module = load_model(SPEC, weights="random").module
    module.layer1[0].conv2.weight = module.layer1[0].conv1.weight
    save_model(dataclasses.replace(loaded, module=module), tmp_path / "tied.safetensors")
    assert (tmp_path / "tied.safetensors").exists()
