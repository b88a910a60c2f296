"""A cluster of Ray's that measures one run, a shard a task. Ray only says who measures which."""

import os
from importlib import import_module
from typing import Any

from aliascope.errors import AliascopeError, RunError
from aliascope.measure.merging import merge
from aliascope.measure.store import Run
from aliascope.records import Report
from aliascope.results.files import Place, place

_PER_SLOT = 4
"""Shards a GPU, or a CPU where there is none: what a lost node costs is a fraction of its share."""
_RETRIES = 5
"""How often a task whose process or node dies is begun elsewhere."""


def on_ray(
    model: Any,
    images: Any,
    options: dict[str, Any],
    *,
    address: str | None,
    out: Place | None,
    progress: Report | None,
) -> Run:
    """What `measure` with these options returns, from the nodes of a Ray cluster.

    Each task measures one shard into `out`, which all nodes must see; a shard whose node dies is
    measured by another, from where its files end.

    Args:
        model: as for `measure`; what is no spec travels to each node.
        images: as for `measure`; a path must be the same on each node.
        options: those of `measure`.
        address: of a running cluster, such as "auto" or "ray://head:10001"; None starts one on this
            machine, and ends it.
        out: the run directory.
        progress: as for `measure`; it counts in images as shards end.

    Raises:
        RunError: Ray is not installed, there is no such cluster, or no directory.
        AliascopeError: what `measure` raises, of the first shard that fails.
    """
    if out is None or options["shard"] is not None:
        raise RunError("a run on Ray needs a directory that all nodes see, and all of its shards: "
                       "give --out, and no --shard")  # fmt: skip
    try:
        ray = import_module("ray")
    except ModuleNotFoundError:
        raise RunError(
            "the engine ray needs the package ray: run `pip install aliascope[ray]`"
        ) from None
    # Asked otherwise, Ray warns that it is about to stop hiding GPUs from tasks that ask for none.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    started = not ray.is_initialized()
    if started:
        try:
            ray.init(address or "local", log_to_driver=False, logging_level="warning")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise RunError(
                f"no Ray cluster at {address}: {str(error).splitlines()[0]}; start one with "
                "`ray start --head`, or leave --address out"
            ) from error
    try:
        _all_shards(ray, model, images, options | {"out": str(place(out).absolute())}, progress)
    finally:
        if started:
            ray.shutdown()
    return merge(out)


def _all_shards(
    ray: Any, model: Any, images: Any, options: dict[str, Any], progress: Report | None
) -> None:
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    count = _PER_SLOT * max(1, gpus or int(resources.get("CPU", 1)))
    task = ray.remote(num_cpus=1, num_gpus=min(gpus, 1), max_retries=_RETRIES)(_measure_shard)
    shared = ray.put((model, images, options))
    waiting = [task.remote(shared, index, count) for index in range(count)]
    done = 0
    while waiting:
        (ended,), waiting = ray.wait(waiting, num_returns=1)
        try:
            failure, measured = ray.get(ended)
        except ray.exceptions.RayError as error:
            raise RunError(
                f"a shard died {1 + _RETRIES} times ({type(error).__name__}): give a smaller "
                "--batch-size, or nodes with more memory; what is measured stays"
            ) from error
        if failure is not None:
            for other in waiting:
                ray.cancel(other)
            raise failure
        done += measured
        if progress:
            progress(done, None, "forward")


def _measure_shard(
    shared: tuple[Any, Any, dict[str, Any]], index: int, count: int
) -> tuple[AliascopeError | None, int]:
    """What a task does: the error, and how many images its shard holds."""
    from aliascope.measure import measure
    from aliascope.runtime import keep_memory

    keep_memory()
    model, images, options = shared
    try:
        own: dict[str, Any] = options | {"shard": (index, count)}
        run = measure(model, images, **own)
    except AliascopeError as error:
        return error, 0
    return None, sum(run.read(part, "images").num_rows for part in run.parts)
