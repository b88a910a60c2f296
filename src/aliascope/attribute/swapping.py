"""What each sampling of a network contributes to how its logits move, of a batch of pictures.

D0, D1: what a layer decimates of a picture and of its copy moved by a pixel, each from a run of its
own. L and H: below, and on or above, the new Nyquist limit. The network goes on once from
L D0 + H D1 and once from L D1 + H D0: what the band that aliases carries, and what the rest does.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from aliascope.errors import ModelError
from aliascope.images import Loaded
from aliascope.images.preprocessing import channels_of
from aliascope.layers import BlurPool
from aliascope.measure.batch import Instrument, Rows, layer_columns, told, views_of
from aliascope.records import StridedLayer
from aliascope.results.text import brief
from aliascope.runtime import MODEL_FAILURES, computing
from aliascope.shifts import ONE_PIXEL
from aliascope.spectra import amplitude_spectrum, band_limited
from aliascope.stability import logits_of, stability
from aliascope.taps import Decimation, tap
from aliascope.taps.cuts import Continuation, Cut, cuts
from aliascope.taps.replay import Undefined

PLAN = tuple(shift for shift in ONE_PIXEL if shift.rows + shift.columns > 0)
"""Down and right: seen from the moved picture, the same two moves are up and left."""
DOSES = {"taps_3": 3, "taps_5": 5, "taps_7": 7, "ideal": 0}
"""The filters that a place is given: binomial ones by their taps; `ideal` is L itself."""
SWAPPED = ("alias_carried", "low_carried", "interaction", "alias_effect", "low_effect")
EQUIVARIANCE = tuple(
    f"{what}_{where}" for what in ("equivariance", "floor") for where in ("before", "behind")
)
_OWN = "own_"
"""Of the layer alone, where others sample to the same cumulative stride."""
_TOLERANCE = 1e-3
"""Of logits from a continuation, as a share of their norm, next to those of a forward."""

Columns = dict[str, Tensor]


class Attributor:
    """An instrument and the cuts at which its network's maps can be exchanged.

    Args:
        instrument: from `prepare`.
        doses: on how many pictures, the first, filters are tried at each place.

    Raises:
        ModelError: the network is no classifier, must see each picture alone, or cannot be cut.
    """

    def __init__(self, instrument: Instrument, doses: int = 0) -> None:
        if instrument.classes is None:
            raise ModelError(
                "attribution needs a classifier that returns (batch, classes) logits, and this "
                "network returns something else: `aliascope measure` takes others, too"
            )
        if instrument.singly:
            raise ModelError(
                "this network's maps depend on what else is in a batch, so that what a picture "
                "does to it cannot be told apart: attribute one that takes pictures one by one"
            )
        self._instrument, self._doses = instrument, doses
        self._continuations: dict[int, Continuation] = {}
        self.notices: list[str] = []
        self.cuts = list(self._sound(cuts(self._decimations())))
        if not self.cuts:
            why = "; ".join(self.notices) or "it samples nowhere in a way that can be measured"
            raise ModelError(f"this network cannot be attributed: {why}")

    @property
    def layers(self) -> list[StridedLayer]:
        """Of all cuts, in the order of execution."""
        return [x for x in self._instrument.layers if x.name in self._places]

    @property
    def _places(self) -> dict[str, Cut]:
        return {place.layer.name: cut for cut in self.cuts for place in cut.places}

    def _decimations(self) -> Iterator[Decimation]:
        for layer in self._instrument.layers:
            if (found := self._instrument.decimations.get(layer.name)) is not None:
                yield found

    @torch.inference_mode()
    def _sound(self, found: Sequence[Cut]) -> Iterator[Cut]:
        """Those behind which the network goes on as it does in a forward, tried on noise."""
        instrument = self._instrument
        size = (2, channels_of(instrument.module), *instrument.preprocessing.crop)
        noise = torch.randn(size, generator=torch.Generator().manual_seed(0))
        noise = noise.to(instrument.device, instrument.dtype)
        for cut in found:
            names = " and ".join(cut.names)
            try:
                dense, wanted = self._seen(noise, [cut])
                handed_on = [p.handed_on(dense[p.layer.name]) for p in cut.places]
                logits = self._continued(cut, handed_on, noise)
            except (Undefined, *MODEL_FAILURES) as reason:
                self.notices.append(f"{names}: not attributed: {brief(reason)}")
                continue
            if any(len(map_) != len(noise) for map_ in dense.values()):
                self.notices.append(f"{names}: not attributed: an image has several maps there")
            elif (logits - wanted).norm() > _TOLERANCE * wanted.norm():
                self.notices.append(f"{names}: not attributed: what follows cannot be made again")
            else:
                yield cut

    def rows(self, batch: Sequence[Loaded], labels_fit: bool, before: int) -> Rows:
        """All figures of a batch of pictures.

        Args:
            batch: readable pictures.
            labels_fit: whether labels number the model's own classes.
            before: how many pictures came before these.
        """
        pixels = torch.stack([item.pixels for item in batch if item.pixels is not None])
        columns = self.columns(pixels, min(max(self._doses - before, 0), len(batch)))
        return told(self._instrument, batch, *columns, labels_fit=labels_fit)

    @torch.inference_mode()
    def columns(self, images: Tensor, dosed: int = 0) -> tuple[Columns, Columns]:
        """Columns of the images (B,) and of the layers (B, L).

        Args:
            images: as `measure_batch` takes them.
            dosed: on how many, the first ones, filters are tried.
        """
        instrument, count = self._instrument, len(images)
        views = views_of(instrument, images).unflatten(0, (-1, count))
        chosen = [0, *(1 + ONE_PIXEL.index(shift) for shift in PLAN)]
        views = views[chosen].flatten(0, 1).contiguous(memory_format=torch.channels_last)

        figures: dict[str, Columns] = {}

        def read(layer: StridedLayer, map_: Tensor, dense: Tensor) -> None:
            own = map_[:count], count, dense[:count]
            figures[layer.name] = layer_columns(instrument, layer, *own)

        dense, logits = self._seen(views, self.cuts, read)
        logits = logits.unflatten(0, (-1, count))
        for cut in self.cuts:
            maps = [dense[name].unflatten(0, (-1, count)) for name in cut.names]
            for name, columns in self._of_cut(cut, maps, logits, views, dosed).items():
                figures[name] = figures[name] | columns
        named = [figures[layer.name] for layer in self.layers]
        together = {name: torch.stack([each[name] for each in named], 1) for name in named[0]}
        return stability(logits, PLAN), together

    def _seen(
        self,
        views: Tensor,
        wanted: Sequence[Cut],
        read: Callable[[StridedLayer, Tensor, Tensor], None] | None = None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """One forward: what the layers of the cuts decimate, by their names, and the logits.

        Args:
            views: what is run.
            wanted: the cuts.
            read: called with each of their layers, what it reads and what it decimates.
        """
        instrument = self._instrument
        places = {place.layer.name: place for cut in wanted for place in cut.places}

        def look(layer: StridedLayer, map_: Tensor) -> Tensor:
            dense = places[layer.name](map_)
            if read is not None:
                read(layer, map_, dense)
            return dense.clone() if dense is map_ else dense  # what comes later may write into it

        layers = [place.layer for place in places.values()]
        precisely = computing(instrument.precision, instrument.device)
        with tap(instrument.module, layers, read=look) as tapped, precisely:
            output = instrument.module(views)
        return dict(tapped.inputs), centred(output)

    def _continued(self, cut: Cut, handed_on: Sequence[Tensor], views: Tensor) -> Tensor:
        """The logits where the layers of a cut hand these on."""
        instrument, count = self._instrument, len(handed_on[0])
        with computing(instrument.precision, instrument.device):
            if count not in self._continuations:
                example = views[torch.arange(count) % len(views)]
                self._continuations[count] = Continuation(instrument.module, example, logits_of)
            return centred(self._continuations[count].of(cut, handed_on))

    def _of_cut(
        self, cut: Cut, maps: Sequence[Tensor], logits: Tensor, views: Tensor, dosed: int
    ) -> dict[str, Columns]:
        """Layer name → the columns of what happens there, (B,) each.

        Args:
            cut: which.
            maps: what each of its layers decimates, (views, B, C, H, W).
            logits: of all views, (views, B, K), their means removed.
            views: which they are of.
            dosed: the number of images, the first, that filters are tried on.
        """

        def go_on(handed_on: Sequence[Tensor]) -> Tensor:
            """Logits where the layers hand these on, (runs, B, …) each."""
            flat = [x.flatten(0, 1) for x in handed_on]
            return self._continued(cut, flat, views).unflatten(0, handed_on[0].shape[:2])

        pairs = [*zip(cut.places, maps, strict=True)]
        kept = [_over(place.handed_on, x) for place, x in pairs]
        swapped = [_swapped(*pair, x) for pair, x in zip(pairs, kept, strict=True)]
        unmoved = [x[:1].expand_as(y) for x, y in zip(kept, swapped, strict=True)]
        joint = _carried(go_on(swapped), logits)
        # A filter at a time: all of them at once would take a multiple of the memory.
        filtered = {
            dose: [_filtered(place, x[:, :dosed], dose) for place, x in pairs]
            for dose in (DOSES if dosed else ())
        }
        resting = [x[:, :dosed] for x in kept]
        doses = _left({dose: go_on(maps) for dose, maps in filtered.items()}, logits)
        found = {}
        for index, (place, x) in enumerate(pairs):
            own, own_doses = joint, doses
            if len(pairs) > 1:
                own = _carried(go_on(_only(index, swapped, unmoved)), logits)
                alone = {dose: go_on(_only(index, x, resting)) for dose, x in filtered.items()}
                own_doses = _left(alone, logits)
            columns = joint | doses | {f"{_OWN}{name}": y for name, y in (own | own_doses).items()}
            plain = kept[index] if place.hands_on_samples or place.chooses else None
            samples = _over(place.kept, x) if plain is None else plain
            found[place.layer.name] = columns | _equivariance(place, x, samples, dosed)
        return found


def centred(output: object) -> Float[Tensor, "batch classes"]:
    """Logits with their mean over classes removed."""
    logits = logits_of(output).float()
    return logits - logits.mean(-1, keepdim=True)


def _only(index: int, changed: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    """One of the maps changed, the rest as they are."""
    return [changed[i] if i == index else x for i, x in enumerate(others)]


def _over(function: Callable[[Tensor], Tensor], maps: Tensor) -> Tensor:
    """A function of maps (N, C, H, W), of maps (views, images, C, H, W)."""
    return function(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])


def _swapped(
    place: Decimation,
    maps: Float[Tensor, "views batch chan h w"],
    kept: Float[Tensor, "views batch *samples"],
) -> Float[Tensor, "swaps batch *samples"]:
    """What is handed on of L D0 + H D1 for each moved view, then of L D1 + H D0.

    L is linear and so is sampling at one phase, so that the low band is needed there alone.
    """
    change = maps[:1] - maps[1:]
    if place.hands_on_samples:
        low = _over(partial(_low, place), change)
        return torch.cat([kept[1:] + low, kept[:1] - low])
    low = _over(lambda x: band_limited(x, place.stride), change)
    return _over(place.handed_on, torch.cat([maps[1:] + low, maps[:1] - low]))


def _low(place: Decimation, maps: Tensor) -> Tensor:
    """The samples of L D."""
    _, rows, columns = place.layer.output_shape
    return band_limited(maps, place.stride, phase=place.phase, size=(rows, columns))


def _filtered(
    place: Decimation, maps: Float[Tensor, "views batch chan h w"], dose: str
) -> Float[Tensor, "views batch *samples"]:
    """What is handed on of the maps behind one of `DOSES`."""
    channels, taps = maps.shape[2], DOSES[dose]
    if not place.hands_on_samples:
        dense: Callable[[Tensor], Tensor] = partial(band_limited, stride=place.stride)
        if taps:
            dense = BlurPool(channels, 1, size=taps).to(maps.device)
        return _over(place.handed_on, _over(dense, maps))
    if not taps:
        return _over(partial(_low, place), maps)
    _, rows, columns = place.layer.output_shape
    pool = BlurPool(channels, place.stride, size=taps, phase=place.phase).to(maps.device)
    return _over(pool, maps)[..., :rows, :columns]


def _carried(
    swapped: Float[Tensor, "swaps batch classes"], logits: Float[Tensor, "views batch classes"]
) -> Columns:
    """`SWAPPED` of logits behind a swap; sums are over the shifts."""
    still, moved = logits[:1], logits[1:]
    change = moved - still
    alias, low = ((x - still) for x in swapped.chunk(2))
    whole = change.square().sum((0, 2))
    size = still.norm(dim=-1)
    return {
        "alias_carried": (alias * change).sum((0, 2)) / whole,
        "low_carried": (low * change).sum((0, 2)) / whole,
        "interaction": ((alias + low - change).square().sum((0, 2)) / whole).sqrt(),
        "alias_effect": (alias.norm(dim=-1) / size).mean(0),
        "low_effect": (low.norm(dim=-1) / size).mean(0),
    }


def _left(
    dosed: Mapping[str, Float[Tensor, "views some classes"]],
    logits: Float[Tensor, "views batch classes"],
) -> Columns:
    """Logit instability with a place filtered, a column a dose; NaN for images without."""
    unknown = logits.new_full((logits.shape[1],), torch.nan)
    found = dict.fromkeys(DOSES, unknown)
    for name, z in dosed.items():
        known = ((z[1:] - z[:1]).norm(dim=-1) / z[:1].norm(dim=-1)).mean(0)
        found[name] = torch.cat([known, unknown[len(known) :]])
    return found


def _equivariance(place: Decimation, maps: Tensor, kept: Tensor, dosed: int) -> Columns:
    """`EQUIVARIANCE` of one layer; the floors for as many images as filters are tried on."""
    behind = place.layer.cumulative_stride
    before = tuple(scale / stride for scale, stride in zip(behind, place.stride, strict=True))
    found = {}
    for where, x, scale in (("before", maps, before), ("behind", kept, behind)):
        seen = amplitude_spectrum(x)
        found[f"equivariance_{where}"] = _apart(seen[:1], seen[1:]).mean(0)
        floor = x.new_full((x.shape[1],), torch.nan, dtype=torch.float32)
        if dosed and min(x.shape[-2:]) > 2:
            some = x[0, :dosed]
            down, right = (
                [
                    amplitude_spectrum(some.narrow(axis, first, some.shape[axis] - 1))
                    for first in (0, 1)
                ]
                for axis in (-2, -1)
            )
            floor[:dosed] = (_apart(*down) / scale[0] + _apart(*right) / scale[1]) / 2
        found[f"floor_{where}"] = floor
    return found


def _apart(still: Tensor, moved: Tensor) -> Tensor:
    """How far amplitude spectra lie apart, as a share of the norm of the first."""
    return (moved - still).flatten(-3).norm(dim=-1) / still.flatten(-3).norm(dim=-1)
