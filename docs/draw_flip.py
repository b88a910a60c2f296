"""Draw a photograph that moves, and what two networks say of it: docs/flip.gif.

    python docs/draw_flip.py [IMAGE_ID]

One of the embedded photographs, chosen because the original network flips on it; how often that
happens, and that it happens to the repaired one too, is in docs/results.md.
"""

import sys
from io import BytesIO
from pathlib import Path

import PIL.Image
import torch
from matplotlib.figure import Figure

from aliascope import load_model, open_images
from aliascope.measure.batch import prepare
from aliascope.measure.shiftmap import RADIUS, shift_by, shifted_logits
from aliascope.shifts import windows

IMAGE = "chelsea.png#0-0"
MODELS = {"EfficientNet-Lite0": "efficientnet_lite0", "repaired": "efficientnet_lite0_ideal"}
COLOURS = {"EfficientNet-Lite0": "#1b6ca8", "repaired": "#c8501e"}


def main(image_id=IMAGE):
    pixels = next(image.pixels for image in open_images("photos") if image.id == image_id)
    plan = [shift_by(0, columns) for columns in range(-RADIUS, RADIUS + 1)]
    answers = {}
    for title, spec in MODELS.items():
        instrument = prepare(load_model(spec), device="cpu")
        logits = torch.cat([z for _, z in shifted_logits(instrument, pixels, plan)])
        answers[title] = logits.softmax(-1)
        preprocessing, names = instrument.preprocessing, instrument.class_names
    wide = preprocessing.widened(RADIUS)(pixels)
    views = [*windows(wide, plan)][1:]
    frames = [frame(view, i, plan, answers, names) for i, view in enumerate(views)]
    frames += frames[-2:0:-1]  # and back
    first, *others = [f.quantize(40, dither=PIL.Image.Dither.NONE) for f in frames]
    file = Path(__file__).parent / "flip.gif"
    first.save(file, save_all=True, append_images=others, duration=450, loop=0, optimize=True)
    flips = {t: int((p.argmax(-1) != p[RADIUS].argmax()).sum()) for t, p in answers.items()}
    print(file, f"{file.stat().st_size:,} bytes; flips of {len(plan)} shifts: {flips}")


def frame(view, index, plan, answers, names):
    figure = Figure((6.4, 2.3), dpi=85, facecolor="white")
    picture, bars = figure.subplots(1, 2, width_ratios=(1, 1.7))
    picture.imshow(view.permute(1, 2, 0).numpy())
    picture.set_axis_off()
    picture.set_title(f"moved by {plan[index].columns:+d} px", fontsize=10)
    for row, (title, p) in enumerate(answers.items()):
        sure, answer = p[index].max(-1)
        steady = answer == p[RADIUS].argmax()
        bars.barh(row, float(sure), 0.38, color=COLOURS[title] if steady else "white",
                  edgecolor=COLOURS[title], hatch=None if steady else "////")  # fmt: skip
        said = f"{title}: {names[answer]} ({float(sure):.2f})"
        bars.text(0, row - 0.3, said, fontsize=11, weight="normal" if steady else "bold")
    bars.set(xlim=(0, 1), ylim=(1.4, -0.6), yticks=[], xlabel="confidence (hatched: it flipped)")
    bars.spines[["top", "right", "left"]].set_visible(False)
    figure.tight_layout()
    buffer = BytesIO()
    figure.savefig(buffer)
    return PIL.Image.open(buffer).convert("RGB")


if __name__ == "__main__":
    main(*sys.argv[1:])
