"""What a layer decimates: its dense response at stride 1, and the samples of it that are kept.

A strided convolution is a dense one of which every s-th sample is kept, and sampling commutes with
what acts on each sample alone. So what is decimated, D, is taken where a repair puts its low-pass:
behind the norm and the activation that follow; of a repaired network, behind the low-pass itself.
A network and its dense twin then have the same D, wherever their operations read.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from aliascope.layers import Downsampler
from aliascope.records import StridedLayer
from aliascope.taps.dataflow import Name, Program, Span, Trace, split_convolutions
from aliascope.taps.replay import Replay, Undefined
from aliascope.taps.sampling import at_stride_one, pair, slice_phase

_NORMS = frozenset({"batch_norm", "group_norm", "layer_norm", "instance_norm", "rms_norm"})
_ACTIVATIONS = frozenset(
    {"relu", "relu6", "hardtanh", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish"}
    | {"hardswish", "hardsigmoid", "sigmoid", "tanh", "softplus", "softsign", "prelu", "rrelu"}
    | {"threshold", "clamp", "clamp_min"}
)
_ACTIVATION_WORDS = ("relu", "swish", "silu", "elu", "mish", "activation", "sigmoid", "tanh")
_POINTWISE = frozenset(
    {"mul", "__mul__", "__rmul__", "add", "__add__", "__radd__", "sub", "__sub__", "__rsub__"}
    | {"div", "__truediv__", "exp", "log", "pow", "permute", "contiguous", "to", "float", "view"}
    | {"view_as"}
)
"""What else a module may compute that is an activation or a norm as a whole."""
_IDLE = frozenset({"dropout", "dropout2d", "feature_dropout", "float", "to", "contiguous"})
"""What does nothing to a map, or not in eval mode."""


class Followers:
    """What follows what in one trace: where the norm and activation behind an operation end."""

    def __init__(self, model: nn.Module, recorded: Trace) -> None:
        self.recorded = recorded
        self._like = next(model.parameters(), torch.zeros(()))
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.names = {index: name for name, index in recorded.named().items()}
        self.readers: dict[int, list[int]] = defaultdict(list)
        for index, call in enumerate(recorded.calls):
            for parent in call.parents:
                self.readers[parent].append(index)

    def activated(self, end: int, channels: int) -> int:
        """The call that ends conv → norm → activation, along readers that read alone.

        As far as each acts on every sample alone, which then commutes with sampling: a norm whose
        statistics are taken over space (GroupNorm, InstanceNorm) stays behind the samples.

        Args:
            end: the call that made the map.
            channels: of that map.
        """
        for functions, words in ((_NORMS, ("norm",)), (_ACTIVATIONS, _ACTIVATION_WORDS)):
            end = self._past_idle(end)
            following = self._follower(end, channels, functions, words)
            end = end if following is None else following
        return end

    def reading(self, end: int) -> Iterator[Span]:
        """Modules that were passed a call's output and hold all that read it, innermost first."""
        readers = self.readers[end]
        spans = (span for span in self.recorded.spans if span.input == end and span.module)
        for span in spans:
            if all(span.first <= reader < span.stop for reader in readers):
                yield span

    def _past_idle(self, end: int) -> int:
        readers = self.readers[end]
        alone = len(readers) == 1 and end not in self.recorded.held
        if alone and self.recorded.calls[readers[0]].function in _IDLE:
            return readers[0]
        return end

    def _follower(
        self, end: int, channels: int, functions: frozenset[str], words: tuple[str, ...]
    ) -> int | None:
        """The end of the norm, or of the activation, that alone reads a call's output."""
        readers, calls = self.readers[end], self.recorded.calls
        if not readers or end in self.recorded.held:
            return None
        for span in self.reading(end):
            inside = {calls[i].function.rstrip("_") for i in range(span.first, span.stop)}
            title = type(self.modules[span.module]).__name__.lower()
            called = any(word in title for word in words)
            composed = inside & functions and not inside - functions - _POINTWISE - _ACTIVATIONS
            childless = not next(self.modules[span.module].children(), None)
            if span.output is not None and childless and (called or composed):
                pointwise = self._acts_on_samples(self.modules[span.module].forward, channels)
                return span.output if pointwise else None
        program = self.recorded.programs.get(readers[0])
        if len(readers) > 1 or program is None:
            return None
        known = calls[readers[0]].function.rstrip("_") in functions
        pointwise = known and self._acts_on_samples(lambda x: program.run({end: x}), channels)
        return readers[0] if pointwise else None

    def _acts_on_samples(self, run: Callable[[Tensor], Any], channels: int) -> bool:
        """Whether a function acts on every sample alone, whatever its weights: a NaN stays put."""
        x = torch.rand(2, channels, 4, 4, generator=torch.Generator().manual_seed(0))
        x[0, :, 1, 1] = torch.nan
        elsewhere = x.isfinite()
        try:
            y = run(x.to(self._like))
        except (RuntimeError, ValueError, TypeError, KeyError, AssertionError):
            return False  # it asks for maps of one size, or reads another
        return y.shape == x.shape and not bool(y.cpu()[elsewhere].isnan().any())


@dataclass(frozen=True)
class Decimation:
    """Of one layer: from what it reads to what is decimated, and to the samples that are kept."""

    layer: StridedLayer
    stride: tuple[int, int]
    phase: tuple[int, int]
    """Row and column of D at which the first sample is taken."""
    node: Name
    """The call that makes what is handed on: the samples, behind norm and activation,
    or what the layer yields where it acts on them behind the sampling."""
    _dense: Callable[[Tensor], Tensor]
    _pool: Downsampler | None = None
    """The downsampler, where it chooses its samples by looking at the map."""
    _hands_on: Callable[[Tensor], Tensor] | None = None
    """From D to what the node makes, where those are not the samples."""

    def __call__(self, x: Float[Tensor, "batch chan h w"]) -> Float[Tensor, "batch chan2 h2 w2"]:
        """D of what the layer reads."""
        return self._dense(x)

    @property
    def chooses(self) -> bool:
        """Whether which samples are kept depends on the map, so that there is no one phase."""
        return self._pool is not None

    @property
    def hands_on_samples(self) -> bool:
        """Whether what is handed on are the samples of one phase, and nothing else."""
        return self._pool is None and self._hands_on is None

    def kept(
        self,
        dense: Float[Tensor, "batch chan h w"],
        like: Float[Tensor, "batch chan h w"] | None = None,
    ) -> Float[Tensor, "batch chan h2 w2"]:
        """The samples of a map that the layer keeps; those that it keeps of another, `like`."""
        if self._pool is not None:
            choice = self._pool.choice_of(dense if like is None else like)
            # A follower knows what its leader chose for all views of the batch.
            return self._pool.sample(dense, None if choice is None else choice[: len(dense)])
        _, rows, columns = self.layer.output_shape
        return grid(dense, self.stride, self.phase)[..., :rows, :columns]

    def handed_on(self, dense: Float[Tensor, "batch chan h w"]) -> Float[Tensor, "batch *rest"]:
        """What the node makes where D is this map.

        Of layers that share a choice, the one that makes it must be asked first.
        """
        if self._hands_on is not None:
            return self._hands_on(dense)
        if self._pool is not None:
            choice = self._pool.choice_of(dense)
            self._pool.hand_over(choice)
            return self._pool.sample(dense, choice)
        return self.kept(dense)


def decimations(model: nn.Module, recorded: Trace) -> tuple[dict[str, Decimation], dict[str, str]]:
    """What each strided layer of a traced model decimates, by the layer's name.

    That the samples which are kept of D are what the layer yields is tried on noise; of a layer
    where it is not so, nothing is said.

    Args:
        model: in eval mode, on the device where it will run: weights are taken from it as it is.
        recorded: its trace.

    Returns:
        The decimations, and the names of the other layers, each with the reason.
    """
    following = Followers(model, recorded)
    found, missing = {}, {}
    with torch.no_grad():
        for at, layer in recorded.located_layers():
            try:
                found[layer.name] = _decimation(following, at, layer)
            except Undefined as reason:
                missing[layer.name] = str(reason)
    return found, missing


def _filtered(pool: Downsampler, x: Tensor) -> Tensor:
    return pool.dense(x)[:, :, : x.shape[2], : x.shape[3]]


def _decimation(following: Followers, at: int, layer: StridedLayer) -> Decimation:
    stride, names = (int(layer.stride[0]), int(layer.stride[1])), following.names
    if layer.stride != stride:
        raise Undefined("it resamples by no whole number")
    module = following.modules[layer.name.partition("#")[0]] if not layer.function else None
    if isinstance(module, Downsampler):
        chooser = None if type(module).choice_of is Downsampler.choice_of else module
        return Decimation(
            layer, stride, module.starts, names[at], partial(_filtered, module), chooser
        )
    if layer.kernel == (1, 1) and layer.kind == "conv":
        strided, _, end = _responses(following, at, layer, module)
        return Decimation(layer, stride, (0, 0), names[end], lambda x: x, None, strided)
    if layer.kind == "slice":
        return _slices(following, at, layer, module)
    strided, dense, end = _responses(following, at, layer, module)
    phase = found_phase(layer, strided, dense, module)
    if phase is None:
        raise Undefined("what it yields are no samples of its response at stride 1")
    if layer.kind != "conv" or layer.kernel == stride:  # patches are filtered before they are cut
        return Decimation(layer, stride, phase, names[end], dense)
    last = following.activated(end, layer.output_shape[0])
    behind = Replay(following.recorded.programs, [end], last)
    return Decimation(layer, stride, phase, names[last], lambda x: behind({end: dense(x)}))


def _responses(
    following: Followers, at: int, layer: StridedLayer, module: nn.Module | None
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], int]:
    """A layer's response to what it reads, the same at stride 1, and the call that made it."""
    recorded = following.recorded
    known = isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d | nn.LPPool2d)
    if module is not None and (known or split_convolutions(module)):
        ends = (span.output for span in recorded.spans if span.module == layer.name)
        end = next((end for end in ends if end is not None), at)
        strided: Any = module.forward
        return strided, densified(module).forward, end
    start, call = _entry(following, at, layer, module), recorded.calls[at]
    program = recorded.programs.get(at)
    if call.sampling is None or call.sampling.stride != layer.stride or program is None:
        raise Undefined("it samples more than once")
    twin = at_stride_one(program.func, call.function, program.args, program.kwargs, layer.stride)
    if twin is None:
        raise Undefined("its response at stride 1 cannot be had")
    programs = {**recorded.programs, at: Program(*twin)}
    strided, dense = (Replay(each, [start], at) for each in (recorded.programs, programs))
    return lambda x: strided({start: x}), lambda x: dense({start: x}), at


def _slices(
    following: Followers, at: int, layer: StridedLayer, module: nn.Module | None
) -> Decimation:
    """Of several phases that a module takes, the first."""
    recorded = following.recorded
    read, program = recorded.sliced(at), recorded.programs.get(at)
    start = read if module is None else _entry(following, at, layer, module)
    phase = program and slice_phase(recorded.calls[at].function, program.args)
    if phase is None:
        raise Undefined("which samples it takes is not known")
    before = Replay(recorded.programs, [start], read)
    stride = int(layer.stride[0]), int(layer.stride[1])
    sampling = recorded.calls[at].sampling
    back = (0, 2, 3, 1) if sampling and sampling.channels_last and module is None else (0, 1, 2, 3)
    # Who takes all phases takes them from D.
    return Decimation(
        *(layer, stride, phase, following.names[read]),
        lambda x: before({start: x}),
        None,
        lambda dense: dense.permute(back),
    )


def _entry(following: Followers, at: int, layer: StridedLayer, module: nn.Module | None) -> int:
    """The call that made what a layer reads."""
    if module is None:
        return next(iter(following.recorded.calls[at].parents), at)
    reads = (span.input for span in following.recorded.spans if span.module == layer.name)
    return next((read for read in reads if read is not None), at)


def found_phase(
    layer: StridedLayer,
    strided: Callable[[Tensor], Tensor],
    dense: Callable[[Tensor], Tensor],
    module: nn.Module | None = None,
) -> tuple[int, int] | None:
    """Where in its response at stride 1 a layer finds its first sample, by trial on noise.

    With explicit padding it is the first one; a module that pads by its stride, "same" as
    TensorFlow has it, takes another.
    """
    like = next(iter(module.parameters()), torch.zeros(())) if module else torch.zeros(())
    x = torch.randn(1, *layer.input_shape, generator=torch.Generator().manual_seed(0)).to(like)
    with torch.no_grad():
        try:
            wanted, response = strided(x), dense(x)
        except (RuntimeError, ValueError, TypeError, IndexError):
            return None
    if not isinstance(wanted, Tensor) or not isinstance(response, Tensor):
        return None
    stride = int(layer.stride[0]), int(layer.stride[1])
    for top in range(stride[0]):
        for left in range(stride[1]):
            found = grid(response, stride, (top, left))
            found = found[:, :, : wanted.shape[2], : wanted.shape[3]]
            if found.shape == wanted.shape and torch.allclose(found, wanted, 1e-3, 1e-4):
                return top, left
    return None


def grid(
    x: Float[Tensor, "batch chan h w"], stride: tuple[int, int], phase: tuple[int, int]
) -> Float[Tensor, "batch chan h2 w2"]:
    """Every s-th sample from a phase on.

    >>> grid(torch.arange(4.0).view(1, 1, 1, 4), (1, 2), (0, 1)).tolist()
    [[[[1.0, 3.0]]]]
    """
    return x[:, :, phase[0] :: stride[0], phase[1] :: stride[1]]


def densified(module: nn.Module) -> Any:
    """A twin of a convolution or pool that runs at stride 1 and shares its weights."""
    twin = object.__new__(type(module))  # copy.copy refuses what is parametrised
    twin.__dict__.update(module.__dict__)
    if split_convolutions(module):
        twin._modules = {name: densified(conv) for name, conv in module.named_children()}
    else:
        densify(twin)
    return twin


def densify(module: Any) -> None:
    """Let a convolution or pool, or all of split convolutions, run at stride 1 from now on."""
    if chunks := split_convolutions(module):
        for conv in chunks:
            densify(conv)
        return
    if isinstance(module, nn.MaxPool2d) and module.ceil_mode:
        sampled = pair(module.stride)
        module.__class__ = DenseMaxPool2d
        setattr(module, "sampled", sampled)  # noqa: B010  (pyright took it for an nn.MaxPool2d)
    module.stride = (1, 1)


class DenseMaxPool2d(nn.MaxPool2d):
    """Max at stride 1 of a pool in ceil mode: with the last windows, which reach over the border.

    At stride 1 PyTorch's own ceil mode adds none, and the stride would find one sample too few.
    """

    sampled: tuple[int, int]
    """The stride that the pool had."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Continue the map by −∞ as far as the windows reach."""
        kernel, padding, dilation = map(pair, (self.kernel_size, self.padding, self.dilation))
        extra = []
        for axis in (1, 0):
            side = input.shape[2 + axis]
            span = dilation[axis] * (kernel[axis] - 1) + 1
            dense = side + 2 * padding[axis] - span + 1
            step = self.sampled[axis]
            count = -(-(dense - 1) // step) + 1
            # As in PyTorch: the last window starts within the map or the padding before it.
            count -= (count - 1) * step >= side + padding[axis]
            extra += [0, max((count - 1) * step + 1 - dense, 0)]
        x = F.pad(input, extra, value=-math.inf)
        return F.max_pool2d(x, kernel, 1, padding, dilation)
