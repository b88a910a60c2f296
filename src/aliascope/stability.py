"""How far predictions move when the picture moves."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from scipy.optimize import root_scalar
from torch import Tensor, nn

from aliascope.errors import ModelError
from aliascope.shifts import ONE_PIXEL, Shift, shifted_views
from aliascope.taps import evaluating


def shift_instability(
    model: nn.Module, images: Float[Tensor, "batch chan h w"]
) -> Float[Tensor, " batch"]:
    """Shift instability score (SIS) under the four circular one-pixel shifts.

    SIS = mean over d ∈ {up, down, left, right} of 1 − cos(p, p_d), with p = softmax(M(x)) and
    p_d = softmax(M(x rolled by one pixel in direction d)). The model runs in eval mode and is left
    in the mode it was in.

    Args:
        model: a classifier, (B, C, H, W) → logits (B, K).
        images: normalised as the model expects them.

    Returns:
        One score an image, in [0, 1]; 0 means that no prediction moved.

    Raises:
        ModelError: the model's output is not a batch of logits.

    Source: the published aliasing study ("as published").

    >>> import torch
    >>> blind = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> shift_instability(blind, torch.rand(2, 3, 8, 8)) < 1e-9
    tensor([True, True])
    """
    return stability(circular_logits(model, images))["sis"]


def circular_logits(
    model: nn.Module, images: Float[Tensor, "batch chan h w"]
) -> Float[Tensor, "views batch classes"]:
    """What `stability` takes, from one forward over the images and their four circular shifts.

    Raises:
        ModelError: the model's output is not a batch of logits.

    >>> import torch
    >>> circular_logits(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), torch.rand(2, 1, 8, 8)).shape
    torch.Size([5, 2, 4])
    """
    with evaluating(model):
        logits = logits_of(model(shifted_views(images)))
    return logits.unflatten(0, (-1, len(images)))


def stability(
    logits: Float[Tensor, "views batch classes"], plan: Sequence[Shift] = ONE_PIXEL
) -> dict[str, Shaped[Tensor, " batch"]]:
    """Every per-image figure that a run stores, from the logits of all views.

    Args:
        logits: view 0 is the unshifted one, the others follow the plan.
        plan: the shifts.

    Returns:
        `prediction` (arg-max), `confidence` (its probability), `sis` and `sis_<direction>`,
        `agreement` (share of the shifts with the same arg-max) and `logit_instability` (mean over
        d of ‖z − z_d‖ / ‖z‖, logits with their mean over classes removed: unlike SIS it does not
        follow confidence).

    >>> import torch
    >>> stability(torch.zeros(5, 1, 10))["confidence"]
    tensor([0.1000])
    """
    z = logits.float()
    p = z.softmax(-1)
    unit = p / p.norm(dim=-1, keepdim=True)
    # Half the squared distance of unit vectors is 1 - cos without its cancellation.
    moved = (unit[1:] - unit[0]).square().sum(-1) / 2  # (S, B)
    top = z.argmax(-1)
    z = z - z.mean(-1, keepdim=True)
    return {
        "prediction": top[0],
        "confidence": p[0].amax(-1),
        "sis": moved.mean(0),
        **{f"sis_{shift.name}": row for shift, row in zip(plan, moved, strict=True)},
        # The arg-max of logits that are not finite is no prediction.
        "agreement": (top[1:] == top[0]).float().mean(0).where(moved.isfinite().all(0), torch.nan),
        "logit_instability": ((z[1:] - z[0]).norm(dim=-1) / z[0].norm(dim=-1)).mean(0),
    }


def matched_instability(
    logits: Float[Tensor, "views batch classes"], confidence: int | float
) -> tuple[Float[Tensor, " batch"], float]:
    """SIS as if the model were, in the mean, as sure as another one.

    SIS falls with confidence alone: a network that has become less sure looks steadier. Logits are
    divided by the one temperature T at which the mean over images of max softmax(z / T), unshifted,
    is the confidence asked for; neither arg-max nor logit instability depends on it.

    Args:
        logits: as for `stability`, of all images together.
        confidence: mean confidence to match, in (1/K, 1).

    Returns:
        SIS (B,) at that temperature, and T.

    Raises:
        ValueError: no temperature from 1/1000 to 1000 gives that confidence.

    >>> import torch
    >>> logits = torch.randn(5, 8, 10, generator=torch.Generator().manual_seed(0))
    >>> own = stability(logits)
    >>> sis, temperature = matched_instability(logits, own["confidence"].mean().item())
    >>> round(temperature, 3), bool(torch.allclose(sis, own["sis"], atol=1e-4))
    (1.0, True)
    """

    def mean_confidence(log_temperature: float) -> float:
        z = logits[0].double() / math.exp(log_temperature)
        return z.softmax(-1).amax(-1).mean().item() - confidence

    limit = math.log(1000)
    if not mean_confidence(limit) < 0 < mean_confidence(-limit):
        raise ValueError(f"no temperature gives a mean confidence of {confidence:g}")
    found = root_scalar(mean_confidence, bracket=(-limit, limit), xtol=1e-9)
    temperature = math.exp(found.root)
    return stability(logits / temperature)["sis"], temperature


def logits_of(output: object) -> Float[Tensor, "batch classes"]:
    """The logits in a model's output: a (B, K) tensor, or one under the name `logits`.

    Raises:
        ModelError: there are none, so that shifts cannot be compared.
    """
    found = getattr(output, "logits", output)
    if isinstance(found, Tensor) and found.ndim == 2 and found.shape[1] >= 2:
        return found
    shape = tuple(found.shape) if isinstance(found, Tensor) else type(output).__name__
    raise ModelError(
        f"shift stability needs a classifier that returns (batch, classes) logits, "
        f"but the model returned {shape}; aliasing can still be measured"
    )
