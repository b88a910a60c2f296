"""Bare calls of what samples, `F.max_pool2d` in a forward, made modules that can be converted.

The forward of the module that makes the call is written down by `torch.fx`, and the call in it
replaced by a new child. That is done where it is safe: nothing in the forward depends on values, or
on whether the network trains, and the network's answers stay the same to the last bit.
"""

import copy
from collections.abc import Iterable
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from aliascope.taps import evaluating
from aliascope.taps.sampling import pair, tensors_in

_POOLED = ("input", "kernel_size", "stride", "padding")
_ARGUMENTS = {
    "max_pool2d": (*_POOLED, "dilation", "ceil_mode", "return_indices"),
    "avg_pool2d": (*_POOLED, "ceil_mode", "count_include_pad", "divisor_override"),
    "conv2d": ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
}
_FUNCTIONS = {
    F.max_pool2d: "max_pool2d",
    torch.max_pool2d: "max_pool2d",
    F.avg_pool2d: "avg_pool2d",
    F.conv2d: "conv2d",
    torch.conv2d: "conv2d",
}


def make_modules(model: nn.Module, hosts: Iterable[str], example: Tensor) -> bool:
    """Give modules children in place of their bare calls, in place, where that is safe.

    The network must answer as before on the example and on noise of another batch size; names and
    weights stay, and the new children save none.

    Args:
        model: a copy that may be changed.
        hosts: names of the modules that make the calls; "" is the model.
        example: a batch to run.

    Returns:
        Whether any call was replaced.
    """
    shape = len(example) + 1, *example.shape[1:]
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(example)
    wanted, changed = None, False
    for name in dict.fromkeys(hosts):
        wanted = wanted or _answers(model, [example, noise])
        host = model.get_submodule(name)
        kind, children = type(host), [child for child, _ in host.named_children()]
        if not wanted or not _replace(host):
            continue
        found = _answers(model, [example, noise])
        same = len(found) == len(wanted) and all(map(torch.equal, found, wanted))
        changed |= same
        if not same:
            host.__class__ = kind
            for child in [child for child, _ in host.named_children() if child not in children]:
                delattr(host, child)
    return changed


class SharedConv2d(nn.Conv2d):
    """A convolution by weights that another module holds, and saves."""

    def _save_to_state_dict(self, *_: Any, **__: Any) -> None:
        """Nothing of its own."""

    def _load_from_state_dict(self, *_: Any, **__: Any) -> None:
        """Nothing of its own."""


class _Rewritten:
    """What the class of a module whose forward was rewritten adds to the one that it had."""

    def __deepcopy__(self, memo: dict) -> Any:
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin

    def __reduce_ex__(self, _protocol: Any) -> tuple:
        return _again, (type(self).__bases__[1], self.__dict__)


def _again(kind: type[nn.Module], state: dict) -> nn.Module:
    """A pickled module: its forward is rewritten with the children that it has."""
    host = object.__new__(kind)
    host.__dict__.update(state)
    _replace(host)
    return host


class _Tracer(fx.Tracer):
    """Follows one forward, and enters no module that it calls."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        del m, module_qualified_name
        return True


def _replace(host: nn.Module) -> bool:
    """Children for the bare calls of one forward, which becomes one that calls them."""
    graph = _graph(host)
    calls = [node for node in graph.nodes if node.op == "call_function"] if graph else []
    found = [(node, module) for node in calls if (module := _module(host, node))]
    if not found or graph is None:
        return False
    for node, module in found:
        if not hasattr(host, node.name):
            host.add_module(node.name, module.train(host.training))
        read = _arguments(node)["input"]
        node.op, node.target, node.args, node.kwargs = "call_module", node.name, (read,), {}
    kind: Any = type(host)
    forward = type(fx.GraphModule(host, graph)).forward
    host.__class__ = type(kind.__name__, (_Rewritten, kind), {"forward": forward})
    return True


def _graph(host: nn.Module) -> fx.Graph | None:
    """Its forward, if that is the same in training."""
    graphs, training = [], host.training
    try:
        for mode in (True, False):
            host.training = mode
            graphs.append(_Tracer().trace(host))
    except Exception:  # noqa: BLE001  (of the user's code, which is handed no maps)
        return None
    finally:
        host.training = training
    return graphs[1] if str(graphs[0]) == str(graphs[1]) else None


def _arguments(node: fx.Node) -> dict[str, Any]:
    names = _ARGUMENTS.get(_FUNCTIONS.get(node.target, ""), ())  # pyright: ignore[reportArgumentType, reportCallIssue]
    return dict(zip(names, node.args, strict=False)) | node.kwargs if names else {}


def _module(host: nn.Module, node: fx.Node) -> nn.Module | None:
    """The module for a call; None if that samples nothing, or takes other maps, too."""
    given = _arguments(node)
    read = given.pop("input", None)
    if not isinstance(read, fx.Node):
        return None
    if "weight" in given:
        return _convolution(host, given)
    if node.all_input_nodes != [read] or given.pop("return_indices", False):
        return None
    given["stride"] = given.get("stride") or given["kernel_size"]
    kind = nn.MaxPool2d if _FUNCTIONS[node.target] == "max_pool2d" else nn.AvgPool2d  # pyright: ignore[reportArgumentType]
    return kind(**given) if max(pair(given["stride"])) > 1 else None


def _convolution(host: nn.Module, given: dict[str, Any]) -> nn.Module | None:
    held = {name: _held(host, given.pop(name, None)) for name in ("weight", "bias")}
    weight, bias = held["weight"], held["bias"]
    constant = not any(isinstance(value, fx.Node) for value in given.values())
    if (
        not isinstance(weight, nn.Parameter)
        or bias is False
        or not constant
        or max(pair(given.get("stride", 1))) == 1
    ):
        return None
    outputs, inputs, rows, columns = weight.shape
    channels = inputs * given.get("groups", 1), outputs
    conv = SharedConv2d(*channels, (rows, columns), bias=False, **given)
    conv.weight, conv.bias = weight, bias
    return conv


def _held(host: nn.Module, value: Any) -> Any:
    """The parameter that a node stands for; None for none, False for anything else."""
    if value is None:
        return None
    if not isinstance(value, fx.Node) or value.op != "get_attr":
        return False
    found = reduce(getattr, str(value.target).split("."), host)
    return found if isinstance(found, nn.Parameter) else False


def _answers(model: nn.Module, batches: list[Tensor]) -> list[Tensor]:
    """All maps that it returns; none if it does not run on one of the batches."""
    found = []
    for x in batches:
        with torch.random.fork_rng([x.device] if x.is_cuda else []), evaluating(model):
            torch.manual_seed(0)
            try:
                found += tensors_in(model(x))
            except Exception:  # noqa: BLE001  (of the user's code, on a batch of another size)
                return []
    return found
