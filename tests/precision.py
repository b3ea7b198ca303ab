"""What torch allows its products in this process: less exact ones than their rows, unless it is told otherwise."""

import torch

SETTINGS = (
    (torch.backends.cuda.matmul, "fp32_precision"),
    (torch.backends.mkldnn.matmul, "fp32_precision"),
    (torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction"),
)
STRICT = ("ieee", "ieee", False)


def permissions():
    return tuple(getattr(owner, name) for owner, name in SETTINGS)


def permit(values):
    for (owner, name), value in zip(SETTINGS, values, strict=True):
        setattr(owner, name, value)


def the_old_way(value):
    """One setting for the process, from before each kind of product had its own."""
    return lambda: torch.set_float32_matmul_precision(value)


WAYS = {
    "nothing said": lambda: None,
    "medium": the_old_way("medium"),
    "high": the_old_way("high"),
    "TF32 for CUDA": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    "bfloat16 for oneDNN": lambda: setattr(torch.backends.mkldnn.matmul, "fp32_precision", "bf16"),
}
"""How a process may have allowed more."""
