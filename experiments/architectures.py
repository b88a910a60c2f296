"""How the depth profile of what aliasing carries differs between architectures and settings.

    python experiments/architectures.py PHOTOS [--limit 6] [--out FOLDER]

Families of networks with random weights: what the architecture alone does. Then EfficientNet-Lite0
with its ImageNet weights at several resolutions, and with other paddings in all its convolutions.
Per depth: share that the aliasing band carries, interaction, step of the equivariance error.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd
from torch import nn

from aliascope import AliascopeError, Preprocessing, attribute, load_model

FAMILIES = (
    *("timm:resnet18", "timm:resnet34", "timm:resnet50", "timm:wide_resnet50_2"),
    *("timm:mobilenetv3_large_100", "timm:mobilenetv4_conv_small", "timm:regnety_002"),
    *("timm:densenet121", "timm:vgg11_bn", "timm:convnext_atto", "timm:vit_tiny_patch16_224"),
    *("timm:swin_tiny_patch4_window7_224", "timm:mobilevit_xxs", "timm:tf_efficientnet_lite0"),
)
SIDES = (128, 224, 320)
PADDINGS = ("zeros", "reflect", "replicate", "circular")
TRAINED = "efficientnet_lite0"


def profile(found, **known):
    """A row a depth."""
    layers = found.layers.assign(
        jump=found.layers["equivariance_behind"] - found.layers["equivariance_before"]
    )
    jump = layers.groupby("stride", sort=False)["jump"].max()
    table = found.depths[["stride", "layers", "alias_carried", "low_carried", "interaction"]]
    table = table.join(jump, on="stride").assign(instability=found.instability.value, n=found.n)
    return table.assign(**known)[[*known, *table]]


def padded(mode):
    """The trained network with that padding in all convolutions that pad."""
    model = load_model(TRAINED)
    for module in model.module.modules():
        if isinstance(module, nn.Conv2d) and any(module.padding) and mode != "zeros":
            module.padding_mode = mode
            sides = [side for side in reversed(module.padding) for _ in range(2)]
            module._reversed_padding_repeated_twice = sides
    return replace(model, spec=f"{TRAINED}, {mode}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos")
    parser.add_argument("--limit", type=int, default=6)
    parser.add_argument("--out", type=Path, help="write architectures.csv there")
    given = parser.parse_args()
    options = {"limit": given.limit, "doses": 0, "device": "cpu"}
    rows = []
    for spec in FAMILIES:
        try:
            found = attribute(spec, given.photos, weights="random", **options)
        except AliascopeError as error:
            print(f"{spec}: {error}")
            continue
        rows.append(profile(found, model=spec, setting="random weights"))
        print(rows[-1].to_string(index=False, header=False, float_format="{:.3f}".format))
    for side in SIDES:
        transform = Preprocessing(
            resize=(round(side / 0.875),), crop=(side, side), interpolation="bicubic",
            mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
        )  # fmt: skip
        found = attribute(TRAINED, given.photos, preprocess=transform, **options)
        rows.append(profile(found, model=TRAINED, setting=f"{side} pixels"))
        print(rows[-1].to_string(index=False, header=False, float_format="{:.3f}".format))
    for mode in PADDINGS:
        found = attribute(padded(mode), given.photos, **options)
        rows.append(profile(found, model=TRAINED, setting=f"padding: {mode}"))
        print(rows[-1].to_string(index=False, header=False, float_format="{:.3f}".format))
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        pd.concat(rows).to_csv(given.out / "architectures.csv", index=False)


if __name__ == "__main__":
    main()
