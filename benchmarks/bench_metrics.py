"""What it costs to measure aliasing on every 50th step of a training, as a ratio to a bare step.

    python benchmarks/bench_metrics.py [--batch-size 32] [--images 16] [--rounds 5] [--every 50]

ResNet-18, random weights, 224 × 224, SGD with momentum, random pictures. The contenders take turns
within one process, and what counts is the ratio of their times within a round:

    step      forward, backward, optimiser: nothing measured
    tapped    the same step, `AliasViolationRatio` of all eight strided layers fed by a tap in its
              own forward
    layers    a step, then alias share and AVR of all layers of IMAGES fixed images in eval mode
    answers   a step, then the same with the four shifts, as the callbacks do it

Averaged is the ratio when every EVERY-th step is one like that and the others are bare.
"""

import argparse
import statistics
import time

import timm
import torch
import torch.nn.functional as F

import aliascope
from aliascope.metrics import Aliasing, AliasViolationRatio
from aliascope.runtime import environment, keep_memory


class Training:
    """A network, its optimiser and one batch."""

    def __init__(self, batch_size, images):
        torch.manual_seed(0)
        self.model = timm.create_model("resnet18").train()
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.x = torch.randn(batch_size, 3, 224, 224)
        self.labels = torch.randint(1000, (batch_size,))
        self.fixed = torch.randn(images, 3, 224, 224)
        self.layers = aliascope.strided_layers(self.model, self.x[:1])
        self.ratios = {layer.name: AliasViolationRatio(layer.stride) for layer in self.layers}
        self.alone = Aliasing(self.model, self.fixed, shifts=None)
        self.whole = Aliasing(self.model, self.fixed)

    def step(self):
        """Nothing is measured."""
        loss = F.cross_entropy(self.model(self.x), self.labels)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()

    def tapped(self):
        """AVR of the batch itself, in its own forward."""

        def read(layer, map_):
            self.ratios[layer.name].update(map_)

        with aliascope.tap(self.model, self.layers, read=read):
            self.step()
        for metric in self.ratios.values():
            metric.compute()

    def measured(self, metric):
        """A step, then the fixed images."""
        self.step()
        metric.reset()
        metric.update(self.model, self.fixed)
        metric.compute()

    def contenders(self):
        """Name → what is timed."""
        return {
            "step": self.step,
            "tapped": self.tapped,
            "layers": lambda: self.measured(self.alone),
            "answers": lambda: self.measured(self.whole),
        }


def seconds_of(function):
    start = time.process_time()
    function()
    return time.process_time() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--every", type=int, default=50)
    options = parser.parse_args()
    keep_memory()
    training = Training(options.batch_size, options.images)
    contenders = training.contenders()
    for function in contenders.values():
        function()  # warm-up
    times = {name: [] for name in contenders}
    for number in range(options.rounds):
        for name, function in contenders.items():
            times[name].append(seconds_of(function))
        print(f"round {number + 1}:", *(f"{name} {t[-1]:.2f} s" for name, t in times.items()))
    machine = environment(torch.device("cpu"))
    print(
        f"\n{machine['hardware']}, {machine['threads']} threads, torch {torch.__version__}, "
        f"batches of {options.batch_size}, {options.images} fixed images"
    )
    for name in list(times)[1:]:
        ratios = [mine / bare for mine, bare in zip(times[name], times["step"], strict=True)]
        ratio = statistics.median(ratios)
        averaged = 1 + (ratio - 1) / options.every
        print(
            f"{name:8} / step: {ratio:.3f}, rounds {min(ratios):.3f} to {max(ratios):.3f}; "
            f"averaged over {options.every} steps {averaged:.4f}"
        )


if __name__ == "__main__":
    main()
