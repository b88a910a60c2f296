"""What a study is laid beside: the published figures, and ImageNet's classes of STL-10's labels."""

from typing import Any

# The ten labels of STL-10 in its own order, and the classes of ImageNet-1k that belong to each. The
# predictions are those of the 1000-class network: whatever lies in no set is wrong. ImageNet-1k has
# no deer (its three antelopes stand in) and one horse; apes are no monkeys; pickups count as cars.
_STL10 = {
    "airplane": {404, 895},
    "bird": {*range(7, 25), *range(80, 101), *range(127, 147)},
    "car": {407, 436, 468, 511, 609, 627, 656, 661, 717, 734, 751, 817},
    "cat": set(range(281, 286)),
    "deer": {351, 352, 353},
    "dog": set(range(151, 269)),
    "horse": {339},
    "monkey": set(range(370, 383)),
    "ship": {403, 472, 484, 510, 554, 576, 625, 628, 724, 780, 814, 871, 914},
    "truck": {555, 569, 675, 864, 867},
}
CLASS_MAPS: dict[str, dict[str, set[int]]] = {"stl10": _STL10}
"""Name → label name, in the order of the labels → indices of ImageNet-1k."""

PUBLISHED: dict[str, Any] = {
    "mean_sis": {"baseline": 0.0229, "antialiased": 0.0138},
    "change_of_sis": -0.398,
    "latency_ms": {"baseline": 2.352, "antialiased": 2.798},
    "change_of_latency": 0.189,
    "predictions_kept": 0.654,
    "layers": {
        "conv1": ((0.0036, 0.0024), (0.0036, 0.0024), 0.00, 0.093),
        "layer2.0.conv2": ((0.3119, 0.0420), (0.3974, 0.0420), -45.47, 0.116),
        "layer2.0.downsample.0": ((0.0542, 0.0117), (0.1589, 0.0321), -96.91, 0.060),
        "layer3.0.conv2": ((0.3875, 0.0297), (0.3605, 0.0351), 18.50, 0.090),
        "layer3.0.downsample.0": ((0.1328, 0.0195), (0.3409, 0.0345), -166.06, 0.038),
        "layer4.0.conv2": ((0.3407, 0.0332), (0.3258, 0.0285), 10.70, 0.084),
        "layer4.0.downsample.0": ((0.1710, 0.0195), (0.4100, 0.0265), -229.48, 0.005),
    },
}
"""The published study: of each layer AVR mean and deviation of both models, two-sample t of
baseline − antialiased, and Pearson's r of AVR and SIS in the baseline. Latency: RTX 4050 laptop."""
