import platform
import resource
import warnings
from types import SimpleNamespace

import pytest
import torch

from aliascope import ModelError
from aliascope.runtime import chosen_device, computing, keep_memory, tf32

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NEW = hasattr(torch.backends.cudnn, "conv")  # torch 2.9
BEFORE = {"default": None, "allowed": True, "forbidden": False}


def settings():
    """What torch says of convolutions and matrix products; it says so without a GPU, too."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    old = cudnn.allow_tf32, matmul.allow_tf32
    places = (cudnn.conv, cudnn.rnn, matmul) if NEW else ()
    return old, tuple(place.fp32_precision for place in places)


def rounded():
    """Whether convolutions and matrix products are rounded."""
    if NEW:
        places = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
        return tuple(place.fp32_precision == "tf32" for place in places)
    return settings()[0]


@pytest.fixture(params=BEFORE)
def before(request):
    """What the user had chosen before, which torch keeps for the process."""
    as_it_was = settings()[0]
    if (chosen := BEFORE[request.param]) is not None:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = chosen
    yield settings()
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = as_it_was


@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_is_set_and_put_back(before, allowed):
    with tf32(allowed=allowed):
        assert rounded() == (allowed, allowed)
        with tf32(allowed=not allowed):
            assert rounded() == (not allowed, not allowed)
        assert rounded() == (allowed, allowed)
    assert settings() == before


def test_tf32_is_put_back_after_a_failure(before):
    with pytest.raises(ZeroDivisionError), tf32(allowed=True):
        _ = 1 / 0
    assert settings() == before


def test_a_model_may_read_the_old_setting(before):
    with tf32(allowed=False):
        with torch.backends.cudnn.flags(enabled=False):  # reads all, and puts it back
            pass
        assert rounded() == (False, False)
    assert settings() == before


@pytest.mark.skipif(not NEW, reason="torch before 2.9 has one way to say it")
def test_who_chose_in_the_new_way_keeps_it():
    conv = torch.backends.cudnn.conv
    was = conv.fp32_precision
    try:
        conv.fp32_precision = "ieee"  # recurrent layers still "tf32": the old setting has no value
        with tf32(allowed=True):
            assert rounded() == (True, True)
        assert conv.fp32_precision == "ieee"
    finally:
        conv.fp32_precision = was


def test_torch_before_the_new_way(monkeypatch):
    cudnn, matmul = SimpleNamespace(allow_tf32=True), SimpleNamespace(allow_tf32=False)
    backends = SimpleNamespace(cudnn=cudnn, cuda=SimpleNamespace(matmul=matmul))
    monkeypatch.setattr(torch, "backends", backends)
    for allowed in (True, False):
        with tf32(allowed=allowed):
            assert (cudnn.allow_tf32, matmul.allow_tf32) == (allowed, allowed)
        assert (cudnn.allow_tf32, matmul.allow_tf32) == (True, False)


def test_fp32_on_cuda_is_not_rounded_where_the_user_allowed_it():
    as_it_was = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        with computing("fp32", CUDA):
            assert rounded() == (False, False)
        with computing("fp32", CPU):
            assert rounded() == (True, True)  # nothing to set
    finally:
        torch.backends.cuda.matmul.allow_tf32 = as_it_was


def test_tf32_where_the_device_has_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    with computing("tf32", CUDA):
        assert rounded() == (True, True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    with (
        pytest.raises(ModelError, match="cuda does not compute in tf32, which"),
        computing("tf32", CUDA),
    ):
        pass


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_what_a_forward_is_cast_to(precision, dtype):
    one = torch.ones(1, 1)
    with torch.autocast("cpu", torch.bfloat16), computing(precision, CPU):
        assert (one @ one).dtype == dtype
    assert (one @ one).dtype == torch.float32


def test_tf32_on_the_cpu_is_refused():
    sentence = (
        "cpu does not compute in tf32, which takes a CUDA device of capability 8.0 or more; "
        "choose fp32"
    )
    with pytest.raises(ModelError) as error:
        chosen_device("cpu", "tf32")
    assert str(error.value) == sentence
    with pytest.raises(ModelError, match="choose fp32"), computing("tf32", CPU):
        pass


def test_nothing_is_warned_of(recwarn):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with tf32(allowed=False), tf32(allowed=True):
            pass
    assert not recwarn.list


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's allocator")
def test_the_memory_of_freed_maps_is_taken_again():
    keep_memory()
    pages = (64 << 20) // resource.getpagesize()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.zeros(64 << 18)  # 64 MiB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 8 * pages
