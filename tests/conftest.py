import hypothesis
import torch

# Two shared cores make single timings meaningless; no test asserts one.
hypothesis.settings.register_profile("aliascope", deadline=None, derandomize=True)
hypothesis.settings.load_profile("aliascope")
torch.set_num_threads(2)
