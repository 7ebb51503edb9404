"""The devices of this machine, and the types that they multiply fast."""

import torch

from skllm4es._compat import has_avx512_bf16
from skllm4es._messages import warn

#: On a CPU, numbers of tokens are rounded up to multiples of this.
_MULTIPLE = 32


def device_here(device: str | None, *, fall_back: bool = False) -> str:
    """Return the device to run on: the one that is named, or a GPU if there is one.

    Parameters
    ----------
    device : str or None
        The device, as torch names it.
    fall_back : bool, default=False
        Whether to warn and return the CPU in place of a GPU that is missing, for what comes from another machine.

    Raises
    ------
    ValueError
        If the GPU is missing, and the CPU is not to take its place.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    wanted = torch.device(device)
    n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0  # A driver may be too old to use them.
    if wanted.type != "cuda" or (wanted.index or 0) < n_devices:
        return device
    if not fall_back:
        raise ValueError(
            f"device={device!r}: torch {torch.__version__} can use {n_devices} such devices on this machine. "
            "Set device='cpu' or None, or install a torch that was built for the GPU."
        )
    warn(f"There is no device {device!r} on this machine: the embedder runs on the CPU.")
    return "cpu"


def resolve_device(device: str | None, dtype: str) -> tuple[str, str]:
    """Return where a model runs, and the type of its weights there.

    Parameters
    ----------
    device : str or None
        The device; None is a GPU if there is one.
    dtype : str
        The name of the type; "auto" is bfloat16 where it is multiplied faster than float32.
    """
    device = device_here(device)
    fast = multiplies_bfloat16_fast(torch.device(device))
    return device, ("bfloat16" if fast else "float32") if dtype == "auto" else dtype


def multiplies_bfloat16_fast(device: torch.device) -> bool:
    """Return whether a device multiplies matrices of bfloat16 faster than of float32.

    So do GPUs of Nvidia's Ampere generation or later, and CPUs with AVX-512 BF16.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and has_avx512_bf16()


def rounded_up(n_tokens: int, device: torch.device) -> int:
    """Return the number of tokens with which a matrix is filled up before it is multiplied.

    On a CPU, oneDNN keeps code for every shape of a product of bfloat16: after 400 packs of a small model 970 MB, but
    120 MB where lengths are multiples of 32.
    """
    return -(-n_tokens // _MULTIPLE) * _MULTIPLE if device.type == "cpu" else n_tokens
