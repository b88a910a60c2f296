"""Findings in words: what a table says, how sure that is, and nothing else.

Every number here is one of the table's, rounded to two digits; a difference whose interval holds
zero is called one that is not shown.
"""

import math
from typing import NamedTuple

FEW = 30
"""Photographs below which each of them weighs in the intervals."""


class Change(NamedTuple):
    """How much more something is, with its interval: −0.3 is 30 % or 0.3 less, as the unit says."""

    value: int | float
    low: int | float
    high: int | float
    unit: str = "%"
    """%: the figures are shares, said in hundredths; "points" likewise; "": said as they are."""

    def amount(self, less: str = "less", more: str = "more", same: str = "as much") -> str:
        """The size in words.

        >>> Change(-0.37, -0.44, -0.29).amount(), Change(0.01, -0.1, 0.2, "points").amount("fewer")
        ('37 % less', '1.0 point more')
        """
        if self.value == 0:
            return same
        size = digits(abs(self._scaled[0]))
        unit = "point" if size == "1.0" and self.unit == "points" else self.unit
        return " ".join(filter(None, [size, unit, more if self.value > 0 else less]))

    def certainty(self, level: float = 0.95) -> str:
        """The interval, in the direction of the change, and what it does not show.

        >>> Change(-0.37, -0.44, -0.29).certainty()
        '95 % interval 29 to 44 %'
        >>> Change(0.01, -0.1, 0.2, "points").certainty()
        '95 % interval −10 to +20 points: no difference shown'
        """
        value, low, high = self._scaled
        if value == 0 and not (low < 0 < high):
            return "no difference"
        if math.isnan(low) or math.isnan(high):
            return "no interval known"
        if low <= 0 <= high:
            return f"{_within(_signed(low), _signed(high), self.unit, level)}: no difference shown"
        near, far = sorted(map(abs, (low, high)))
        return _within(digits(near), digits(far), self.unit, level)

    @property
    def _scaled(self) -> tuple[float, float, float]:
        scale = 100 if self.unit else 1
        return scale * self.value, scale * self.low, scale * self.high


def moves(
    other: str,
    shifts: str,
    change: Change,
    level: float = 0.95,
    figure: str = "logit instability",
) -> str:
    """How much further answers move than another network's.

    >>> print(moves("net", "crop", Change(0.5, 0.1, 0.9)))
    moves 50 % more than net under one-pixel crop shifts (logit instability, 95 % interval 10 to 90 %)
    """  # noqa: E501  (a doctest has no line breaks)
    amount = change.amount(same="as far")
    return (
        f"moves {amount} {'than' if change.value else 'as'} {other} "
        f"{under(shifts)} ({figure}, {change.certainty(level)})"
    )


def under(shifts: str) -> str:
    """Which shifts: "crop", "" where that is not known, "circular → crop" where A's are others.

    >>> under("crop"), under("half"), under(""), under("circular → crop")
    ('under one-pixel crop shifts', 'under half-pixel shifts', 'under one-pixel shifts', 'under one-pixel shifts, circular → crop')
    """  # noqa: E501
    if shifts == "half":
        return "under half-pixel shifts"
    if "→" in shifts:
        return f"under one-pixel shifts, {shifts}"
    return " ".join(filter(None, ["under one-pixel", shifts, "shifts"]))


def share(
    value: int | float, low: int | float, high: int | float, of: str, level: float = 0.95
) -> str:
    """A share with its interval.

    >>> share(0.05, 0.02, 0.09, "the images"), share(0.05, float("nan"), float("nan"), "them")
    ('5.0 % of the images (95 % interval 2.0 to 9.0 %)', '5.0 % of them')
    """
    known = not (math.isnan(low) or math.isnan(high))
    ends = _within(digits(100 * low), digits(100 * high), "%", level) if known else ""
    return f"{digits(100 * value)} % of {of}" + (f" ({ends})" if ends else "")


def sample(images: int, photographs: int) -> str:
    """How much was looked at, and whether that is little.

    >>> sample(300, 300), sample(53, 17)
    ('300 photographs.', '53 images of 17 photographs: fewer than 30, so that each of them weighs.')
    """
    counted = f"{photographs} photograph{'s' * (photographs != 1)}"
    head = counted if images == photographs else f"{images} images of {counted}"
    few = f": fewer than {FEW}, so that each of them weighs" if photographs < FEW else ""
    return f"{head}{few}."


def listed(names: list[str]) -> str:
    """Names in a sentence.

    >>> listed(["aps", "ideal", "lps"])
    'aps, ideal and lps'
    """
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def digits(x: int | float) -> str:
    """A number to two digits, so that none but zero reads as zero.

    >>> [digits(x) for x in (129.6, 37.4, 9.96, 0.0123, -0.5, 0)]
    ['130', '37', '10', '0.012', '−0.50', '0']
    """
    decimals = max(0, 1 - int(f"{x:.1e}".partition("e")[2])) if x else 0
    return f"{x:.{decimals}f}".replace("-", "−")


def _signed(x: int | float) -> str:
    return f"+{digits(x)}" if x > 0 else digits(x)


def _within(low: str, high: str, unit: str, level: int | float) -> str:
    ends = f"{low} to {high} {unit}".rstrip()
    return f"{100 * level:g} % interval {ends}"
