"""Files for other runtimes answer as the network does and say what they take, or are not kept."""

import json
import logging
import math
import sys
import warnings
from dataclasses import replace
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import PIL.Image
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import aliascope
from aliascope.errors import AliascopeError, ImageError, ModelError, RunError
from aliascope.export import TARGETS, Exported
from aliascope.export.proof import BATCH, difference
from aliascope.export.targets import To, quiet, target_of
from aliascope.images.preprocessing import Preprocessing
from aliascope.layers import LAYERS, PADDINGS, IdealPool
from aliascope.layers.aps import _BASE, _digits, first_largest, loudness

ODD = Preprocessing(resize=(29, 33), crop=(27, 31), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
RUNTIMES = {
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "torch-export": "torch",
    "executorch": "executorch",
}


class Small(nn.Module):
    """Four classes; the filter is reflected at a side of 25 and of 29."""

    def __init__(self, method="blurpool", channels=3, **options):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(channels, 6, 3)
        self.pool = LAYERS[method](6, 2, **options)
        self.classes = nn.Linear(6, 4)

    def forward(self, x):
        return self.classes(self.pool(self.conv(x).relu()).mean((2, 3)))


class Dict(Small):
    def forward(self, x):
        y = self.pool(self.conv(x))
        return {"out": y, "aux": 2 * y}


class AllMethods(nn.Module):
    """Every method and every padding, at odd sides, each with an output of its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        pools = [LAYERS[name](4, (3, 2), padding="reflect") for name in LAYERS]
        pools += [LAYERS["blurpool"](4, 2, size=7, padding=padding) for padding in PADDINGS]
        self.pools = nn.ModuleList(pools)
        with torch.no_grad():
            for parameter in self.pools.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))

    def forward(self, x):
        y = self.conv(x).relu()
        return [pool(y) for pool in self.pools]


def exported(model, out, *args, **options):
    return aliascope.export(model, out, *args, limit=3, preprocess=ODD, **options)


@pytest.fixture(scope="module")
def pt2(tmp_path_factory):
    """A small network in training, its file, timed against another's, and the figures."""
    net, path = Small("lps").train(), tmp_path_factory.mktemp("pt2") / "net.pt2"
    made = exported(net, path, against=Small("ideal"), seconds=0)
    assert net.training
    return net.eval(), path, made


class TestTorchExport:
    def test_the_file_answers_as_the_network_for_any_batch(self, pt2):
        net, path, _ = pt2
        program = torch.export.load(path).module()
        for batch in (1, 2, 7):
            x = torch.randn(batch, 3, 27, 31)
            (found,) = program(x)
            torch.testing.assert_close(found, net(x))

    def test_the_metadata_are_what_the_pictures_went_through(self, pt2):
        files = {"aliascope": ""}
        torch.export.load(pt2[1], extra_files=files)
        card = json.loads(files["aliascope"])
        steps = card["preprocessing"]
        assert (
            Preprocessing(**{k: tuple(v) if isinstance(v, list) else v for k, v in steps.items()})
            == ODD
        )
        assert card["input"] == {
            "shape": ["batch", 3, 27, 31], "type": "float32", "colours": "RGB"
        }  # fmt: skip
        assert card["weights_digest"] == aliascope.load_model(pt2[0]).weights_digest

    def test_the_figures_are_those_of_the_pictures(self, pt2):
        _, path, made = pt2
        assert made.table["batch"].tolist() == [1, BATCH]
        assert made.table["pictures"].tolist() == [3, 3]
        assert made.table["agreement"].tolist() == [1, 1]
        assert made.table["error"].max() < 1e-5
        assert made.size == path.stat().st_size
        assert made.info["operators"]["aten.linear.default"] == 1

    def test_it_is_printed_and_kept(self, pt2, tmp_path):
        _, path, made = pt2
        text = " ".join(str(made).split())
        assert "resize to 29 × 33 (bilinear), cut 27 × 31 out of the middle" in text
        assert "subtract 0.4, 0.5, 0.6, divide by 0.2, 0.3, 0.25" in text
        assert made.verdict in text
        assert made.verdict.startswith(f"{path} answers as Small does in PyTorch")
        assert "over 3 pictures at batch 1 and 4, same prediction for 100 %." in made.verdict
        made.save(tmp_path / "made.json")
        again = Exported.open(tmp_path / "made.json")
        assert str(again) == str(made)
        assert again.to_dict() == made.to_dict()

    def test_timed_against_another(self, pt2):
        _, path, made = pt2
        assert made.latency["model"].tolist() == ["Small", "Small #2"]
        assert made.latency["ratio"][0] == 1
        assert "the export of Small at batch 1" in made.verdict
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("net", "colours", "names"),
    [
        (Small(channels=1), "grey, 0.299 R + 0.587 G + 0.114 B", ["logits"]),
        (Dict(), "RGB", ["out", "aux"]),
    ],
)
def test_onnx_says_what_it_takes_and_returns(net, colours, names, tmp_path):
    net.eval()
    made = exported(net, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    (taken,) = session.get_inputs()
    assert (taken.name, taken.type) == ("images", "tensor(float)")
    assert isinstance(taken.shape[0], str)
    assert taken.shape[1:] == [net.conv.in_channels, 27, 31]
    assert [output.name for output in session.get_outputs()] == names
    card = json.loads(session.get_modelmeta().custom_metadata_map["aliascope"])
    assert card["input"]["colours"] == colours
    opsets = {x.domain: x.version for x in onnx.load(tmp_path / "net.onnx").opset_import}
    assert made.info["opset"] == opsets[""]
    assert "opset" in str(made)
    assert made.table["agreement"].isna().all() == isinstance(net, Dict)
    x = torch.randn(5, *taken.shape[1:])
    wanted = net(x)
    wanted = wanted.values() if isinstance(net, Dict) else [wanted]
    for found, y in zip(session.run(None, {"images": x.numpy()}), wanted, strict=True):
        np.testing.assert_allclose(found, y.detach(), atol=1e-5)


@pytest.mark.parametrize("padding", PADDINGS)
def test_an_exported_ideal_filter_is_two_products_and_no_fft(padding):
    pool = IdealPool(3, 2, padding=padding)
    batch = torch.export.Dim("batch")
    x = torch.rand(2, 3, 13, 10)
    program = torch.export.export(pool, (x,), dynamic_shapes=({0: batch},), strict=False)
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert called.count("aten.matmul.default") == 2
    assert not [name for name in called if "fft" in name or "aten.sin" in name]
    assert len(program.constants) == 2
    x = torch.rand(5, 3, 13, 10)
    torch.testing.assert_close(program.module()(x), pool(x))


class TestSumsInDigits:
    @given(
        values=st.lists(st.integers(0, 2**36 - 1), min_size=12, max_size=12),
        copies=st.integers(1, 500),
    )
    def test_they_are_the_sum_and_fit_32_bits(self, values, copies):
        x = torch.tensor(values).view(1, 1, 2, 3, 2).repeat(1, 1, 1, 1, copies)
        high, low = (digit.int() for digit in (x // _BASE, x % _BASE))
        found = _digits32(high, low)
        total = sum(
            digit.long() * _BASE**power for power, digit in zip((2, 1, 0), found, strict=True)
        )
        assert torch.equal(total, x.sum((2, 3, 4)))

    def test_a_key_that_overflows_to_one_value_unsettles_nothing(self):
        """As where a runtime computes the last key in 32 bits, and masks with what these hold."""
        lost = torch.full((1, 4), torch.iinfo(torch.int64).min)
        norms = torch.tensor([[5205, 5216, 5213, 5224]])
        assert first_largest([norms, lost]).item() == 3
        assert first_largest([norms // 8, lost, norms % 8]).item() == 3

    @pytest.mark.parametrize("norm", ["l1", "l2"])
    def test_traced_and_untraced_choose_alike_however_near_the_norms(self, norm):
        class Choice(nn.Module):
            def forward(self, x):
                return first_largest(loudness(x, norm))

        torch.manual_seed(0)
        same = torch.randn(8, 1, 5, 6, 7).expand(8, 4, 5, 6, 7).clone()
        same[torch.arange(8), torch.arange(8) % 4, 2, 3, 4] *= 1.001
        batch = torch.export.Dim("batch")
        program = torch.export.export(
            Choice(), (same,), dynamic_shapes=({0: batch},), strict=False
        ).module()
        assert torch.equal(Choice()(same), torch.arange(8) % 4)
        assert torch.equal(program(same), torch.arange(8) % 4)


def _digits32(high, low):
    """As a runtime does whose sums have 32 bits."""
    whole = torch.Tensor.sum
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "sum", lambda x, dim: whole(x, dim, dtype=torch.int32))
        return _digits(high, low, (4, 3, 2))


class TestDifference:
    def test_it_is_relative_to_the_largest_answer_of_an_output(self):
        expected = [torch.tensor([1.0, -4.0]), torch.tensor([[0.5]])]
        found = [torch.tensor([1.0, -3.0]), torch.tensor([[0.75]])]
        assert difference("a", expected, found) == {"id": "a", "error": 0.5, "same": 1.0}
        assert difference("a", expected[:1], [torch.tensor([2.0, 3.0])])["same"] == 0

    @pytest.mark.parametrize("found", [[[1.0, math.nan]], [[1.0, 2.0, 3.0]], [[1.0, 2.0]] * 2])
    def test_what_is_no_answer_is_infinitely_far(self, found):
        expected = [torch.tensor([1.0, 2.0])]
        assert difference("a", expected, [torch.tensor(y) for y in found])["error"] == math.inf


class TestRefusals:
    @pytest.mark.parametrize(
        ("to", "name", "sentence"),
        [
            (None, "net.bin", "no ending that tells a format; give one of .onnx"),
            ("tflite", "net.onnx", "no target 'tflite'; choose from onnx"),
            ("openvino", "net.onnx", "a file for openvino ends in .xml, and"),
        ],
    )
    def test_a_format_that_there_is_not(self, to, name, sentence, tmp_path):
        with pytest.raises(AliascopeError, match=sentence):
            exported(Small(), tmp_path / name, to)

    @pytest.mark.parametrize("name", TARGETS)
    def test_the_command_line_knows_every_target(self, name):
        assert name in get_args(To)
        assert len(get_args(To)) == len(TARGETS)

    def test_a_package_that_is_missing(self, tmp_path, monkeypatch):
        absent = replace(TARGETS["onnx"], packages=("onnxruntime",))
        monkeypatch.setitem(TARGETS, "onnx", absent)
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(AliascopeError, match=r"pip install 'aliascope\[export\]'"):
            exported(Small(), tmp_path / "net.onnx")

    @pytest.mark.parametrize("tolerance", [0, -1, math.nan, math.inf])
    def test_a_tolerance_that_makes_no_sense(self, tolerance, tmp_path):
        with pytest.raises(AliascopeError, match="tolerance must be above 0"):
            exported(Small(), tmp_path / "net.pt2", tolerance=tolerance)

    @pytest.mark.parametrize(
        ("output", "sentence"),
        [
            (lambda y: [{"boxes": y, "labels": y, "scores": y}] * 2, "returns detections"),
            (lambda y: "four", r"returns something else than tensors \(str\)"),
            (lambda y: y.sum(), r"returns \(\) of two pictures"),
            (lambda y: y.argmax(1, keepdim=True), "only networks that return floating-point"),
            (lambda y: y @ torch.rand(2, 3), "failed on an image of shape"),
        ],
    )
    def test_a_network_that_returns_what_no_file_can(self, output, sentence, tmp_path):
        class Other(Small):
            def forward(self, x):
                return output(super().forward(x))

        with pytest.raises(ModelError, match=sentence):
            exported(Other(), tmp_path / "net.pt2")
        assert not list(tmp_path.iterdir())

    def test_a_network_that_takes_batches_of_one_size_only(self, tmp_path):
        class Fixed(Small):
            def forward(self, x):
                return super().forward(x).view(2, 4)

        with pytest.raises(ModelError, match="cannot be traced for batches of any size"):
            exported(Fixed(), tmp_path / "net.pt2")

    def test_a_file_that_answers_otherwise_is_not_kept(self, tmp_path, monkeypatch):
        path = tmp_path / "net.pt2"
        path.write_bytes(b"before")

        right = TARGETS["torch-export"]

        def load(file):
            run = right.load(file)
            return lambda x: [y + (0.01 if len(x) > 1 else 0) for y in run(x)]

        monkeypatch.setitem(TARGETS, "torch-export", replace(right, load=load))
        with pytest.raises(ModelError, match=rf"does not answer .* batch {BATCH}\), more than"):
            exported(Small(), path)
        assert path.read_bytes() == b"before"
        assert list(tmp_path.iterdir()) == [path]

    def test_places_that_cannot_be_written(self, tmp_path):
        (tmp_path / "net.pt2").mkdir()
        (tmp_path / "file").write_text("")
        for path in (tmp_path / "net.pt2", tmp_path / "file" / "net.pt2"):
            with pytest.raises(RunError, match="cannot be written"):
                exported(Small(), path)

    def test_pictures_that_cannot_be_read(self, tmp_path):
        (tmp_path / "pictures").mkdir()
        (tmp_path / "pictures" / "a.png").write_bytes(b"no picture")
        with pytest.raises(ImageError, match=r"no picture of .* can be read"):
            exported(Small(), tmp_path / "net.pt2", images=tmp_path / "pictures")
        PIL.Image.new("RGB", (40, 40), "red").save(tmp_path / "pictures" / "b.png")
        made = exported(Small(), tmp_path / "net.pt2", images=tmp_path / "pictures")
        assert made.table["pictures"].tolist() == [1, 1]
        assert any("a.png is left out" in notice for notice in made.notices)


def test_exporters_are_quiet(capfd):
    with quiet():
        sys.stdout.write("told")
        warnings.warn("told", stacklevel=1)
        logging.getLogger("torch.onnx").critical("told")
    assert capfd.readouterr() == ("", "")
    logging.getLogger("torch.onnx").critical("heard")
    assert "heard" in capfd.readouterr().err


def test_an_ending_tells_the_format(tmp_path):
    for name, target in TARGETS.items():
        assert target_of(None, tmp_path / f"a{target.suffix}").name == name


def asked_for(made):
    """Rows in full precision: on processors with bfloat16, OpenVINO's default is shown, too."""
    return made.table[made.table["precision"] == "f32"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", TARGETS)
def test_every_method_agrees_in_every_runtime(name, tmp_path, capfd):
    pytest.importorskip(RUNTIMES[name], reason=f"{RUNTIMES[name]} is not installed")
    path = tmp_path / f"net{TARGETS[name].suffix}"
    made = exported(AllMethods(), path, name, tolerance=1e-5)
    assert asked_for(made)["error"].max() < 1e-5
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("method", ["aps", "ideal", "folded"])
@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_repaired_network_with_shortcuts_agrees(name, method, tmp_path):
    pytest.importorskip(RUNTIMES[name], reason=f"{RUNTIMES[name]} is not installed")
    path = tmp_path / f"net{TARGETS[name].suffix}"
    made = aliascope.export(f"timm:resnet18@{method}", path, weights="random", limit=2)
    assert asked_for(made)["error"].max() < 1e-5
