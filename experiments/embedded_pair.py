"""Make the network that aliascope ships: EfficientNet-Lite0, anti-aliased and fine-tuned.

    python experiments/embedded_pair.py IMAGENET PHOTOS

IMAGENET is a folder of labelled ImageNet photographs, every fourth of which is held out; PHOTOS is
one of photographs without labels, every fifteenth of which is never used. Writes the weights into
the package and the history into docs/studies/pair. A killed run goes on where it was.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

from aliascope import load_model, open_images, save_model
from aliascope.finetune import finetune
from aliascope.images import ImageSource
from aliascope.models.catalogues import REPAIRED

BASE = "efficientnet_lite0"
STUDENT = f"{BASE}@ideal"
RECORD = Path(__file__).parents[1] / "docs" / "studies" / "pair" / "finetune.json"


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


def main():
    """Convert, recalibrate, fine-tune, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("imagenet")
    parser.add_argument("photos")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--evaluate-every", type=int, default=250)
    parser.add_argument("--training", type=Path, default=Path("embedded-pair"))
    parser.add_argument("--out", type=Path, default=REPAIRED["efficientnet_lite0_blurpool"])
    given = parser.parse_args()
    images, held_out = parted(given.imagenet, given.photos)
    teacher, student = load_model(BASE), load_model(STUDENT)
    started = time.monotonic()
    tuned = finetune(
        student,
        images,
        teacher,
        steps=given.steps,
        learning_rate=1e-4,
        consistency=3.0,
        mixup=0.5,
        recalibration=0,
        teacher_precision="bf16",
        holdout=held_out,
        evaluate_every=given.evaluate_every,
        out=given.training,
        progress=lambda step, steps: print(f"step {step} of {steps}", end="\r", flush=True),
    )
    save_model(replace(student, module=tuned.model), given.out, half=True)
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(json.dumps(tuned.to_dict(), indent=1) + "\n")
    print(tuned)
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
