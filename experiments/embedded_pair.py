"""Make the network that aliascope ships, or one that may take its place, or their control.

    python experiments/embedded_pair.py IMAGENET PHOTOS [--repair ideal] [--base efficientnet_lite1]

EfficientNet-Lite0 converted by the plan of that name, folded kernels fitted, distilled. IMAGENET is
a folder of labelled ImageNet photographs, every fourth of which is held out; PHOTOS is one of
photographs without labels, every fifteenth of which is never used. Writes model.safetensors, with
the recipe in it, and finetune.json into --out. A killed run goes on where it was.
"""

import argparse
import copy
import json
import time
from dataclasses import replace
from pathlib import Path

import torch

from aliascope import FinetuneSettings, Plan, load_model, open_images, save_model
from aliascope.finetune import finetune
from aliascope.finetune.recalibration import spread
from aliascope.images import ImageSource
from aliascope.repair.search import built, pixels_of
from aliascope.runtime import chosen_device, environment

BASE = "efficientnet_lite0"
STEM, BEHIND = "conv_stem", [f"blocks.{i}" for i in (1, 2, 3, 5)]
PLANS = {
    "ideal": dict.fromkeys(BEHIND, "ideal"),
    "quality": dict.fromkeys([STEM, BEHIND[0]], "folded:3") | dict.fromkeys(BEHIND[1:], "ideal"),
    "free": dict.fromkeys(BEHIND, "folded:3"),
    "steady": dict.fromkeys([STEM, *BEHIND], "folded:3"),
    "fitted": dict.fromkeys(BEHIND, "folded:1"),
    "augmented": dict.fromkeys([STEM, *BEHIND], "folded:1"),
}
"""Where which filter goes. "fitted" has none: it is the network itself, with other weights; nor has
"augmented", the control, which is not fitted, and trained as the others are."""


def parted(imagenet, photos):
    """What is trained on, and what is held out."""
    labelled, unlabelled = open_images(imagenet), open_images(photos)
    known = list(labelled.entries())
    training = [entry for i, entry in enumerate(known) if i % 4]
    training += [entry for i, entry in enumerate(unlabelled.entries()) if i % 15 != 14]
    return source(training, None, "training"), source(known[::4], labelled.classes, "held out")


def source(entries, classes, spec):
    """Chosen pictures of a source, as a source."""
    return ImageSource(lambda: iter(entries), classes, [entry.id for entry in entries], spec)


def weighted(model, spec):
    """The model, with the weights of another one of the same structure but for its filters."""
    if not spec:
        return model
    module = copy.deepcopy(model.module)
    module.load_state_dict(load_model(spec).module.state_dict())
    return replace(model, module=module)


def converted(model, plan, images, given):
    """As planned, and fitted, but for the control."""
    if given.repair == "augmented":
        return built(model, plan)
    pixels = pixels_of(model, spread(list(images.entries()), given.fitted_on))
    return built(model, plan, pixels, steps=given.fit_steps, device=given.device)


def between(original, other, share):
    """The other network, with weights on the line to it from those of the original.

    Source: Wortsman et al. 2022 (arXiv 2109.01903), section 3.
    """
    start, end = original.state_dict(), other.state_dict()
    mixed = {
        name: torch.lerp(start[name], x, share) for name, x in end.items() if x.is_floating_point()
    }
    made = copy.deepcopy(other)
    made.load_state_dict(end | mixed)
    return made


def main():
    """Convert, fit, fine-tune, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("imagenet")
    parser.add_argument("photos")
    parser.add_argument("--base", default=BASE)
    parser.add_argument("--repair", default="ideal", choices=PLANS)
    parser.add_argument("--frame", type=int, help="side that it sees the original's pictures at")
    parser.add_argument("--weights", help="of a densely filtered network, to convert and fit to")
    parser.add_argument("--start", type=Path, help="go on from a file, of the same plan")
    parser.add_argument("--frozen", action="append", default=[], help="module that does not learn")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--consistency", type=float, default=3.0)
    parser.add_argument("--logit-consistency", type=float, default=0.0)
    parser.add_argument("--resolution", type=float, default=1.0)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--device")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--evaluate-every", type=int, default=250)
    parser.add_argument("--holdout", type=int, help="judge on so many, not on the held-out fourth")
    parser.add_argument("--share", type=float, default=1, help="of the way from the base's weights")
    parser.add_argument("--fitted-on", type=int, default=128)
    parser.add_argument("--fit-steps", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("embedded-pair"))
    given = parser.parse_args()
    images, held_out = parted(given.imagenet, given.photos)
    teacher = load_model(given.base)
    plan = Plan(given.base, PLANS[given.repair])
    started = time.monotonic()
    fitted = given.start or given.out / "fitted.safetensors"
    if not given.start and not fitted.exists():
        given.out.mkdir(parents=True, exist_ok=True)
        save_model(converted(weighted(teacher, given.weights), plan, images, given), fitted)
    inner = student = replace(load_model(str(fitted)), spec=plan.spec)
    if given.frame:
        smaller = load_model(f"{fitted}@frame:{given.frame}")
        student = replace(smaller, spec=f"{plan.spec}@frame:{given.frame}")
    print(f"{plan.spec}: fitted after {time.monotonic() - started:.0f} s", flush=True)
    settings = FinetuneSettings(
        steps=given.steps,
        batch_size=given.batch_size,
        learning_rate=given.rate,
        consistency=given.consistency,
        logit_consistency=given.logit_consistency,
        resolution=given.resolution,
        frozen=given.frozen,
        precision=given.precision,
        recalibration=0,
        evaluate_every=given.evaluate_every,
    )
    tuned = finetune(
        student,
        images,
        teacher,
        settings=settings,
        holdout=held_out if given.holdout is None else given.holdout,
        preprocess=teacher.preprocessing,
        device=given.device,
        cache_bytes=8e9,
        threads=given.threads,
        out=given.out / "training",
        progress=lambda step, steps, _: print(f"step {step} of {steps}", end="\r", flush=True),
    )
    module = tuned.model.get_submodule("model") if given.frame else tuned.model
    module = between(teacher.module, module, given.share)
    save_model(replace(inner, module=module), given.out / "model.safetensors", half=True)
    seconds = round(time.monotonic() - started)
    hardware = environment(chosen_device(given.device))["hardware"]
    record = tuned.to_dict() | {"repair": given.repair, "share": given.share}
    record |= {"seconds": seconds, "hardware": hardware}
    (given.out / "finetune.json").write_text(json.dumps(record, indent=1) + "\n")
    print(tuned, f"{seconds} s, {hardware}", sep="\n")


if __name__ == "__main__":
    main()
