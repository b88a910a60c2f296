import json
from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import aliascope
from aliascope import AliascopeError, ModelError, bench, latency, load_model
from aliascope.images.preprocessing import Preprocessing

SMALL = Preprocessing(resize=(8, 8), crop=(8, 8))


class Clock:
    """A clock that only forwards move on; whoever runs is logged."""

    def __init__(self):
        self.now = 0.0
        self.log = []

    def __call__(self):
        return self.now


class Fake(nn.Module):
    """Takes the milliseconds that it is told, in turn, after the warm-up forwards."""

    def __init__(self, clock, name, milliseconds, warm_up=50.0):
        super().__init__()
        self.clock, self.name = clock, name
        self.times = iter([*[warm_up] * latency._WARM_UP, *milliseconds])
        self.shapes, self.inputs = [], []

    def forward(self, x):
        self.clock.now += next(self.times) / 1e3
        self.clock.log.append(self.name)
        self.shapes.append(tuple(x.shape))
        self.inputs.append(x)
        return x


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(latency, "_now", clock)
    return clock


def loaded(module, spec):
    return replace(load_model(module), spec=spec, preprocessing=SMALL)


def fakes(clock, **milliseconds):
    return [loaded(Fake(clock, name, ms), name) for name, ms in milliseconds.items()]


def tiny():
    return loaded(nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Flatten()), "tiny")


def run(models, **options):
    return bench(models, **{"batch_sizes": [1], "device": "cpu", "seconds": 0} | options)


def test_a_network_of_one_channel_is_timed_on_grey_images():
    net = loaded(nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.Flatten()), "grey")
    found = run([net])
    assert found.failures == {}
    assert found.info["models"]["grey"]["input"] == [1, 8, 8]


def test_medians_ratios_intervals_and_spread(clock):
    plain = [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110]
    factor = [2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 9]
    found = run(fakes(clock, a=plain, b=np.multiply(plain, factor)), batch_sizes=[4])
    a, b = found.table.to_dict("records")
    # Of 11 sorted values the 2nd and the 10th: P(B < 2) = 0.0059, P(B < 3) = 0.033, B ~ bin(11, ½).
    assert [a[x] for x in ("ms_image", "low", "high")] == pytest.approx([15, 5, 25])
    assert [a[x] for x in ("ratio", "ratio_low", "ratio_high")] == [1, 1, 1]
    assert [b[x] for x in ("ratio", "ratio_low", "ratio_high")] == pytest.approx([3, 2, 3])
    assert a["spread"] == pytest.approx((85 - 35) / 60)
    assert (a["model"], b["model"], a["batch"], a["rounds"]) == ("a", "b", 4, 11)
    ms = found.times.query("model == 'a'").sort_values("round")["ms"]
    assert ms.tolist() == pytest.approx(plain)


def test_the_ratio_is_taken_within_the_round_and_not_of_the_medians(clock):
    a, b = [1, 1, 1, 1, 1, 4, 4, 4, 4, 4, 4], [2, 2, 2, 2, 2, 8, 8, 8, 8, 2, 2]
    found = run(fakes(clock, a=a, b=b)).table.iloc[1]
    assert found["ratio"] == pytest.approx(2)
    assert found["ms_image"] == pytest.approx(2)  # of medians it would be 2 / 4


@pytest.mark.parametrize("seed", range(3))
def test_intervals_are_scipys(clock, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.gamma(20, 1, (2, 40))
    found = run(fakes(clock, a=a, b=b), seconds=0.9 * (a.sum() + b.sum()) / 1e3)
    rounds = found.table["rounds"][1]
    assert 30 < rounds < 40
    row = found.table.iloc[1]
    for values, names in (
        (b[:rounds], ["ms_image", "low", "high"]),
        ((b / a)[:rounds], ["ratio", "ratio_low", "ratio_high"]),
    ):
        interval = stats.quantile_test(values, p=0.5).confidence_interval(0.95)
        assert row[names].tolist() == pytest.approx([np.median(values), *interval])


def test_every_model_comes_first_equally_often_and_all_in_every_round(clock):
    names = "abc"
    many = {name: [10] * 100 for name in names}
    found = run(fakes(clock, **many), seconds=0.03 * 59.5)
    timed = "".join(clock.log[3 * latency._WARM_UP :])
    rounds = [timed[i : i + 3] for i in range(0, len(timed), 3)]
    assert len(rounds) == 60
    assert all(sorted(order) == list(names) for order in rounds)
    assert [[order[0] for order in rounds].count(name) for name in names] == [20, 20, 20]
    assert len(set(rounds)) == 6  # not only rotated
    frame = found.times.groupby("round", sort=False)["model"].agg("".join)
    assert frame.tolist() == rounds


def test_the_seed_decides_order_and_input(clock):
    def order(seed):
        models = fakes(clock, a=[10] * 11, b=[10] * 11, c=[10] * 11)
        found = run(models, seed=seed)
        return found.times["model"].tolist(), models[0].module.inputs[0]

    (first, x), (again, same), (other, y) = order(0), order(0), order(1)
    assert first == again
    assert torch.equal(x, same)
    assert first != other
    assert not torch.equal(x, y)


def test_the_input_is_made_once_for_a_batch_size_and_has_the_models_size(clock):
    one = loaded(Fake(clock, "a", [10] * 100), "a")
    one.module.times = cycle([10.0])
    run([one], batch_sizes=[2, 5, 2])
    shapes = one.module.shapes
    assert set(shapes) == {(2, 3, 8, 8), (5, 3, 8, 8)}
    assert shapes == sorted(shapes)  # the second 2 is the first
    assert len({id(x) for x in one.module.inputs}) == 2
    assert one.module.inputs[0].std() > 0.5


@pytest.mark.parametrize(
    ("seconds", "rounds"), [(0, 11), (0.05, 11), (0.15, 15), (0.151, 16), (1e6, 200)]
)
def test_rounds_go_on_until_the_time_is_spent_within_limits(clock, seconds, rounds):
    found = run(fakes(clock, a=[10 + 1e-9] * 200), seconds=seconds)
    assert found.table["rounds"].tolist() == [rounds]
    assert len(clock.log) == rounds + latency._WARM_UP  # and no forward is thrown away
    assert found.times["round"].tolist() == list(range(rounds))
    few = [text for text in found.notices if "give more seconds" in text]
    assert len(few) == (rounds == 11)


def test_each_batch_size_has_its_own_time(clock):
    one = loaded(Fake(clock, "a", []), "a")
    one.module.times = cycle([10.0 + 1e-9])
    found = run([one], batch_sizes=[1, 3], seconds=0.15)
    assert found.table[["batch", "rounds"]].to_numpy().tolist() == [[1, 15], [3, 15]]
    assert found.table["ms_image"].tolist() == pytest.approx([10, 10 / 3])


def test_short_forwards_are_repeated_until_the_clock_can_tell(clock):
    one = loaded(Fake(clock, "a", [], warm_up=0), "a")
    one.module.times = cycle([0.25])
    found = run([one])
    assert len(clock.log) == latency._WARM_UP + 11 * 4
    assert found.times["ms"].tolist() == pytest.approx([0.25] * 11)


def test_a_busy_machine_is_told(clock):
    steady, shaky = [10.0] * 11, [10, 12.1] * 5 + [10]
    found = run(fakes(clock, steady=steady, shaky=shaky), seconds=0)
    (busy,) = [text for text in found.notices if "busy" in text]
    assert "shaky at batch 1 (21%)" in busy
    assert "steady" not in busy
    calm = run(fakes(clock, a=steady, b=[10, 11.9] * 5 + [10]))
    assert not [text for text in calm.notices if "busy" in text]


def test_a_model_against_itself_has_ratio_one():
    module = tiny()
    found = run([module, module], batch_sizes=[1, 2])
    assert found.table["model"].tolist() == ["tiny", "tiny #2"] * 2
    row = found.table.iloc[1]
    assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
    assert (found.times["ms"] > 0).all()


def test_equal_times_give_an_interval_around_one(clock):
    rng = np.random.default_rng(0)
    both = rng.gamma(20, 1, (2, 50))
    row = run(fakes(clock, a=both[0], b=both[1]), seconds=1).table.iloc[1]
    assert row["ratio_low"] < 1 < row["ratio_high"]


def test_modules_run_in_eval_mode_without_gradients_and_stay_as_they_were(clock):
    class Net(nn.Sequential):
        def forward(self, x):
            clock.now += 0.01
            seen.append((self.training, self[0].training, torch.is_inference_mode_enabled()))
            return super().forward(x)

    seen = []
    net = Net(nn.BatchNorm2d(3), nn.Dropout().eval(), nn.Conv2d(3, 4, 3))
    net.to(memory_format=torch.channels_last)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.random.get_rng_state()
    run([loaded(net, "net"), loaded(net, "net")])
    assert set(seen) == {(False, False, True)}
    assert [module.training for module in net] == [True, False, True]
    assert net.training
    assert net[2].weight.is_contiguous(memory_format=torch.channels_last)
    assert net[2].weight.requires_grad
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])


class Raises(nn.Module):
    """Runs until its batch is too large or its forwards are used up, then raises."""

    def __init__(self, error, *, largest=0, forwards=10**6):
        super().__init__()
        self.error, self.largest, self.forwards = error, largest, forwards

    def forward(self, x):
        self.forwards -= 1
        if len(x) > self.largest or self.forwards < 0:
            raise self.error
        return x


def test_modes_come_back_from_a_model_that_raises():
    net = Raises(ValueError("no"))
    with pytest.raises(ModelError, match=r"^bad failed on an image of shape \(1, 3, 8, 8\): no$"):
        run([loaded(net, "bad")])
    assert net.training
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("forwards", [0, 4500])  # none, or a thousand in each of four rounds
def test_a_model_that_fails_does_not_stop_the_others(clock, forwards):
    bad = loaded(Raises(ValueError("no"), largest=9, forwards=forwards), "bad")
    found = run([bad, "no:such", *fakes(clock, tiny=[10] * 11)])
    assert bad.module.forwards == -1
    assert found.table["model"].tolist() == ["tiny"]
    assert set(found.times["model"]) == {"tiny"}
    assert found.table["ratio"].tolist() == [1]
    assert list(found.failures) == ["no:such", "bad"]
    assert found.failures["bad"].endswith(": no")
    assert "bad could not be timed: ratios are to tiny" in found.notices
    assert "failed bad: bad failed on" in str(found)


def test_a_model_that_fails_at_one_batch_size_keeps_the_other():
    bad = loaded(Raises(ValueError("no"), largest=2), "bad")
    found = run([tiny(), bad], batch_sizes=[1, 4])
    assert found.table[["model", "batch"]].to_numpy().tolist() == [
        ["tiny", 1], ["bad", 1], ["tiny", 4],
    ]  # fmt: skip
    assert list(found.failures) == ["bad"]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"
        ),
    ],
)
def test_out_of_memory_leaves_the_rows_out_with_a_notice(error):
    large = loaded(Raises(error, largest=2), "large")
    found = run([large, tiny()], batch_sizes=[1, 4])
    assert found.table[["model", "batch"]].to_numpy().tolist() == [
        ["large", 1], ["tiny", 1], ["tiny", 4],
    ]  # fmt: skip
    assert found.failures == {}
    memory, ratios, *_ = found.notices
    assert memory.startswith("large at batch 4 does not fit into the memory of cpu and is left out")
    assert ratios == "no ratios at batch 4, at which large could not be timed"
    assert found.table["ratio"].isna().tolist() == [False, False, True]
    assert found.to_dict()["table"][2]["ratio"] is None
    assert "–" in str(found)
    with pytest.raises(ModelError, match="does not fit into the memory of cpu"):
        run([large], batch_sizes=[4])


def test_nothing_left_names_every_failure():
    with pytest.raises(ModelError, match=r"cannot find no:such .*; bad failed on"):
        run(["no:such", loaded(Raises(ValueError("no")), "bad")])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"models": []}, "no model to time"),
        ({"batch_sizes": []}, "but are none"),
        ({"batch_sizes": [1, 0]}, "but are 1, 0"),
        ({"seconds": -1}, "but are -1"),
        ({"seconds": float("nan")}, "but are nan"),
        ({"device": "cuda:99"}, "choose cpu"),
        ({"precision": "tf32"}, "^cpu does not compute in tf32, .* choose fp32$"),
    ],
)
def test_what_makes_no_sense_is_refused(options, sentence):
    with pytest.raises(AliascopeError, match=sentence):
        run(**{"models": [tiny()]} | options)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_precision_is_that_of_the_forward(precision):
    seen = []
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    net.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    found = run(loaded(net, "net"), precision=precision)
    expected = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert set(seen) == {expected}
    assert net[0].weight.dtype == torch.float32
    assert found.info["precision"] == precision


def test_info_says_where_and_how():
    found = run([tiny(), nn.Identity()], seed=3)
    info = found.info
    assert {"device", "hardware", "threads", "versions", "command"} <= set(info)
    assert info["hardware"]
    assert (info["device"], info["threads"]) == ("cpu", torch.get_num_threads())
    assert torch.__version__.startswith(info["versions"]["torch"])
    assert (info["seconds"], info["seed"], info["reference"]) == (0, 3, "tiny")
    assert info["models"]["tiny"]["input"] == [3, 8, 8]
    assert info["models"]["Identity"]["weights"] == "as given"


def test_json_holds_the_same(clock):
    found = run(fakes(clock, a=[10.5] * 11, b=[12] * 11))
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told == found.to_dict()
    assert told["times"] == found.times.to_dict("records")
    assert told["table"] == found.table.to_dict("records")
    assert told["notices"] == list(found.notices)
    assert told["info"]["precision"] == "fp32"


def test_the_table_prints_itself(clock):
    text = str(run(fakes(clock, plain=[10] * 11, blurred=[12] * 11), batch_sizes=[2]))
    head, table, verdict, caption, notice = text.split("\n\n")
    assert head.startswith("fp32 on cpu (")
    assert table.splitlines() == [
        "model    batch  ms an image  95 % interval   ratio  95 % interval   rounds  spread",
        "plain    2      5.000        [5.000, 5.000]  1.000  [1.000, 1.000]  11      0.0%",
        "blurred  2      6.000        [6.000, 6.000]  1.200  [1.200, 1.200]  11      0.0%",
    ]
    assert verdict == "At batch 2 blurred takes 20 % longer than plain (95 % interval 20 to 20 %)."
    assert "batch-norm is not folded" in " ".join(caption.split())
    assert notice.startswith("notice: at batch 2 the 11 rounds")
    assert max(map(len, text.splitlines())) <= 100


def test_a_single_model_needs_no_list():
    assert run(tiny()).table["model"].tolist() == ["tiny"]
    assert run(nn.Identity(), batch_sizes=(1,)).table["model"].tolist() == ["Identity"]


def test_progress_counts_rounds_over_all_batch_sizes():
    seen = []
    run(tiny(), batch_sizes=[1, 2], progress=lambda *told: seen.append(told))
    assert seen == [(n, None) for n in range(1, 23)]


def test_random_weights_are_those_of_the_seed():
    found = run("timm:test_resnet", weights="random")
    expected = load_model("timm:test_resnet", weights="random").weights_digest
    assert found.info["models"]["timm:test_resnet"]["weights_digest"] == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_timed_by_its_own_events():
    net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Flatten())
    found = run(loaded(net, "net"), device="cuda", batch_sizes=[1, 64])
    assert (found.times["ms"] > 0).all()
    assert next(net.parameters()).device.type == "cpu"


def test_it_is_exported():
    assert aliascope.bench is latency.bench
    assert aliascope.Latency is latency.Latency


def test_a_latency_is_saved_and_opened_to_the_last_bit(clock, tmp_path):
    saved = bench(fakes(clock, a=[5.0, 6.1] * 50, b=[7.0] * 100), batch_sizes=[1], seconds=0)
    saved.save(tmp_path / "latency.json")
    opened = latency.Latency.open(tmp_path / "latency.json")
    assert (str(opened), opened.info) == (str(saved), saved.info)
    assert opened.times.equals(saved.times)
    assert opened.table.equals(saved.table)
