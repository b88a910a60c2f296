"""Who writes a run directory: one process all of it, or several a shard each."""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import numpy as np
from jaxtyping import Float

from aliascope.measure.parts import (
    DAMAGE,
    KINDS,
    image_table,
    layer_table,
    read_part,
    together,
    verified,
    write_part,
)
from aliascope.measure.store import RECORD, SHARD, Run, identity_of, record_of, records
from aliascope.records import StridedLayer
from aliascope.results.files import (
    Place,
    lock,
    place,
    plain,
    refusal,
    refuse_another,
    refuse_other_images,
    sealed,
    write_file,
)

_MAX_BUFFERED = 4096  # images: bounds the memory where `flush_seconds` alone would not
_SHARE = 0.01
"""Of the time so far that a kill may cost: the parts of a long run stay few."""

Shard = tuple[int, int]
"""Which part of how many equal ones, from 0: image number k is in shard k mod N."""


class RunWriter:
    """Writes one run, in a `with` block; an equal one in the directory is continued or extended.

    Parts that are damaged are dropped with a notice, so that their images are measured anew.

    On leaving the block early, by an error or Ctrl-C, the buffered rows are written all the same.

    Args:
        path: the run directory, made where missing; None keeps the rows in memory.
        config: what decides the numbers; "model" names the model, "images" their source.
        layers: the layers measured.
        info: versions, device, command: recorded, not compared.
        identities: of all images that are asked for, by their ids: what tells such an image and its
            label from another of the same id. A run that holds some of them is extended by the
            others. None where the images are not known before they are read.
        shard: where other processes write the rest of the run; `identities` are then its own.
        flush_seconds: how much work, in seconds, a kill may cost; 1 % of the time so far if that is
            more.

    Attributes:
        run: the run as it stands; what is added to its `info` is saved with the next part.
        measured: ids of what is asked for that the run holds already; known inside the block.
        previous_info: the `info` of that run, or None.

    Raises:
        RunError: on entering the block: the directory holds another run, images that have changed
            since, images that are not asked for, or somebody else's files; another process is
            writing it, or it cannot be written.

    Example:
        >>> layer = StridedLayer("conv1", "conv", (7, 7), (2.0, 2.0), (3, 224, 224),
        ...                      (64, 112, 112), (2.0, 2.0), 0, shortcut=False)
        >>> with RunWriter(None, {"model": "toy", "images": "noise"}, [layer], {}) as writer:
        ...     images = {"image_id": ["a", "b"], "label": [1, None], "sis": [0.1, 0.2]}
        ...     writer.add(images, {"avr": np.array([[0.003], [0.004]])})
        ...     writer.skip("c", "truncated")
        ...     print(writer.finish())
        toy on noise: 2 images measured, 1 skipped, complete
        <BLANKLINE>
        shift instability (SIS)  0.1500 ± 0.0707
        SIS at confidence ½      –
        agreement                –
        logit instability        –
        accuracy                 –
        <BLANKLINE>
        layer  kind  stride  sampled AVR  alias share  read AVR
        conv1  conv  2       –            –            0.0035 ± 0.0007
        <BLANKLINE>
        2 photographs: fewer than 30, so that each of them weighs.
        <BLANKLINE>
        skipped c: truncated
    """

    def __init__(
        self,
        path: Place | None,
        config: dict[str, Any],
        layers: Sequence[StridedLayer],
        info: dict[str, Any],
        *,
        identities: Mapping[str, str] | None = None,
        shard: Shard | None = None,
        flush_seconds: float = 10.0,
    ) -> None:
        # Through JSON, so that a run in memory and one read back have the same config.
        self.run = Run(plain(config), list(layers), info | {"pid": os.getpid()})
        self.run.path = None if path is None else place(path)
        self.measured: frozenset[str] = frozenset()
        self.previous_info: dict[str, Any] | None = None
        self._identities = identities
        self._shard = shard
        name = "" if shard is None else f"{shard[0]}-of-{shard[1]}"
        self._record = SHARD.format(name) if name else RECORD
        self._prefix = f"part-{name}-" if name else "part-"
        self._lock = f".lock-{name}" if name else ".lock"
        self._flush_seconds = flush_seconds
        self._started = self._flushed = time.monotonic()
        self._number = 0
        self._held = ExitStack()

    def __enter__(self) -> "RunWriter":  # noqa: PYI034  (beartype knows Self in whole classes only)
        with ExitStack() as held:
            if self.run.path is not None:
                # A process that writes all of it and those that write a shard exclude each other.
                others = ".lock" if self._shard else ".lock-*"
                known = (RECORD, SHARD.format("*"))
                held.callback(lock(self.run.path, *known, name=self._lock, others=others).release)
                self._resume(self.run.path)
            self._held = held.pop_all()
        return self

    def _resume(self, path: Place) -> None:
        if earlier := next(records(path), None) and Run.open(path):
            refuse_another(path, identity_of(earlier), identity_of(self.run))
            held = self._sound(path, earlier)
            self.measured = frozenset(held)
            if self._identities is not None:
                refuse_other_images(path, held, self._identities, all_of_them=self._shard is None)
            self.run.times = earlier.times
            self.run.notices = [*earlier.notices, *self.run.notices]
            self.previous_info = earlier.info
        # The record before the folders: with folders and without it, this is a stranger's.
        self._save()
        with refusal(path):
            if self._shard is None:  # their parts are listed in run.json now
                for file in path.glob(SHARD.format("*")):
                    file.unlink()
            for kind in KINDS:
                (path / kind).mkdir(exist_ok=True)
                for leftover in (path / kind).glob(f".{self._prefix}*.tmp"):
                    leftover.unlink()

    def _sound(self, path: Place, earlier: Run) -> dict[str, str]:
        """Take over the parts that are ours and whole; the ids of what is measured.

        What the other shards of this partition wrote is not read: a thousand of them, each reading
        what those before it wrote, would take hours to begin. Their images are others, unless
        pictures came on the way, and with them other numbers.
        """
        held: dict[str, str] = {}
        apart = f"-of-{self._shard[1]}-" if self._shard else ""
        listing = self.run.info.get("listing")
        if apart and (not listing or listing != earlier.info.get("listing")):
            self.run.info["listing"] = apart = ""
        for part, digests in earlier.parts.items():
            own = part.startswith(self._prefix)
            if apart and apart in part and not own:
                continue
            try:
                rows = read_part(path, "images", part, digests["images"])
                if own or self._shard is None:
                    verified(path, "layers", part, digests["layers"])
                    self.run.parts[part] = digests
            except DAMAGE as error:
                reason = getattr(error, "strerror", None) or error
                self.notice(f"{part} was damaged ({reason}): its images are measured anew")
            else:
                ids = rows["image_id"].to_pylist()
                known = rows["identity"].to_pylist() if "identity" in rows.schema.names else []
                held |= dict(zip(ids, known or [""] * len(ids), strict=True))
            if own and (number := part.removeprefix(self._prefix)).isdecimal():
                self._number = max(self._number, 1 + int(number))
        return held

    def add(
        self,
        images: dict[str, Sequence[Any] | np.ndarray],
        layers: dict[str, Float[np.ndarray, "batch layer"]],
    ) -> None:
        """Add the rows of one batch of B images, none of them in `measured`.

        Args:
            images: name -> B values: image_id; group, the photograph it was cut from; label and
                prediction, indices of classes; correct, a truth value; note; any other name is a
                metric, kept as float32. None and NaN: unknown. The column identity is added here.
            layers: metric -> (B, L), in the order of the run's layers, kept as float32.

        Raises:
            RunError: a part cannot be written; the parts before it are safe.
        """
        if self._identities is not None:
            known = [self._identities[image_id] for image_id in images["image_id"]]
            images = images | {"identity": known}
        rows = layer_table(images["image_id"], self.run.strided_layers, layers)
        self.run.batches.append({"layers": rows, "images": image_table(images)})
        now = time.monotonic()
        interval = max(self._flush_seconds, _SHARE * (now - self._started))
        late = now - self._flushed >= interval
        if late or len(images["image_id"]) * len(self.run.batches) >= _MAX_BUFFERED:
            self._flush()

    def skip(self, image_id: str, reason: str) -> None:
        """List an image that cannot be used; a continued run tries it again."""
        self.run.skipped.append({"image_id": image_id, "reason": reason})

    def notice(self, text: str) -> None:
        """Record, once, what the user should know about the whole run."""
        if text not in self.run.notices:
            self.run.notices.append(text)

    def finish(self) -> Run:
        """Write what is left and mark the run complete.

        Raises:
            RunError: the directory cannot be written.
        """
        self._flush()
        self.run.state = "complete"
        self._save()
        return self.run

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with self._held:
            if self.run.state == "running":
                failed = isinstance(error, Exception)
                self.run.state = "failed" if failed else "interrupted"
                self.run.error = str(error) if failed else ""
                self._flush()

    def _flush(self) -> None:
        if self.run.batches and self.run.path is not None:
            part = f"{self._prefix}{self._number:05d}"
            tables = {kind: together([rows[kind] for rows in self.run.batches]) for kind in KINDS}
            self.run.parts[part] = write_part(self.run.path, part, tables)
            # In one step: interrupted before it, the part is written again, not its rows twice.
            self.run.batches, self._number = [], self._number + 1
        self._flushed = time.monotonic()
        self._save()

    def _save(self) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.run.times = {"started": now, **self.run.times, "updated": now}
        if self.run.path is not None:
            record = record_of(self.run) | {"parts": self.run.parts}
            write_file(self.run.path / self._record, sealed(record))
