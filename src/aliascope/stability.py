"""How far predictions move when the picture moves."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
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


def flip_risk(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, " batch"]:
    """Which pictures are likely to flip when they move by a pixel, told from the still ones alone.

    exp(z₂ − z₁) of the two largest logits: how probable the runner-up is beside the prediction, in
    [0, 1], where 1 is a tie. It orders pictures as the margin z₁ − z₂ does. Of 1000 photographs
    (EfficientNet-Lite0, crop shifts) it tells those that flip with an AUC of 0.96; ratios of
    aliasing, a movement that is predicted by a backward pass, and all of them together were not
    shown to tell more (docs/findings.md). What it means as a number differs between networks.

    Args:
        logits: of pictures without a shift.

    >>> import torch
    >>> flip_risk(torch.tensor([[3.0, 1.0, 0.0], [2.0, 2.0, 0.0]]))
    tensor([0.1353, 1.0000])
    """
    first, second = logits.float().topk(2, dim=-1).values.unbind(-1)
    return (second - first).exp()


def stability(
    logits: Float[Tensor, "views batch classes"], plan: Sequence[Shift] = ONE_PIXEL
) -> dict[str, Shaped[Tensor, " batch"]]:
    """Every per-image figure that a run stores, from the logits of all views.

    Args:
        logits: view 0 is the unshifted one, the others follow the plan.
        plan: the shifts.

    Returns:
        `prediction` (arg-max), `confidence` (its probability), `sis` and `sis_<direction>`,
        `sis_half` (SIS at confidence ½: all logits of an image divided by the temperature at which
        the unshifted ones give its prediction probability ½, so that two networks are compared
        equally sure, whatever scale each gives each image; NaN with two classes), `agreement`
        (share of the shifts with the same arg-max) and `logit_instability` (mean over d of
        ‖z − z_d‖ / ‖z‖, logits with their mean over classes removed). SIS falls with confidence
        alone; the other three do not follow it.

    >>> import torch
    >>> stability(torch.zeros(5, 1, 10))["confidence"]
    tensor([0.1000])
    """
    z = logits.float()
    moved = _moved(z)
    top = z.argmax(-1)
    z = z - z.mean(-1, keepdim=True)
    return {
        "prediction": top[0],
        "confidence": z[0].softmax(-1).amax(-1),
        "sis": moved.mean(0),
        "sis_half": _moved(_scaled(z, 0.5)).mean(0),
        **{f"sis_{shift.name}": row for shift, row in zip(plan, moved, strict=True)},
        # The arg-max of logits that are not finite is no prediction.
        "agreement": (top[1:] == top[0]).float().mean(0).where(moved.isfinite().all(0), torch.nan),
        "logit_instability": ((z[1:] - z[0]).norm(dim=-1) / z[0].norm(dim=-1)).mean(0),
    }


def _moved(logits: Float[Tensor, "views batch classes"]) -> Float[Tensor, "shifts batch"]:
    """1 − cos of the softmax outputs with those of view 0."""
    p = logits.softmax(-1)
    unit = p / p.norm(dim=-1, keepdim=True)
    # Half the squared distance of unit vectors is 1 - cos without its cancellation.
    return (unit[1:] - unit[0]).square().sum(-1) / 2


def _scaled(
    logits: Float[Tensor, "views batch classes"], confidence: float
) -> Float[Tensor, "views batch classes"]:
    """Logits divided, an image, by the temperature at which view 0 has that confidence.

    NaN where no temperature from e^-20 to e^20 gives it: at equal logits, or with as few as 1 /
    confidence classes.
    """
    z = logits[0].double()
    z = z - z.amax(-1, keepdim=True)
    low, high = (torch.full_like(z[:, :1], end) for end in (-20.0, 20.0))
    for _ in range(50):  # confidence rises with the inverse temperature: bisection on its logarithm
        middle = (low + high) / 2
        less = (z * middle.exp()).softmax(-1).amax(-1, keepdim=True) < confidence
        low, high = middle.where(less, low), high.where(less, middle)
    found = (low > -20) & (high < 20)
    return logits * high.exp().where(found, torch.nan).float()


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
