import os

import hypothesis
import torch

# Two shared cores make single timings meaningless; no test asserts one.
hypothesis.settings.register_profile("aliascope", deadline=None, derandomize=True)
hypothesis.settings.load_profile("aliascope")
# Each of several workers has one core to itself.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
