"""What the machine at hand has, and what it does fast."""

import warnings

import torch


def device_here(device: str | None, *, fall_back: bool = False) -> str:
    """Give the device to run on: the one that is named, or a GPU where there is one.

    Parameters
    ----------
    device : str or None
        The device, as torch names it.
    fall_back : bool, default=False
        Whether to warn and give the CPU in the place of a GPU that is not there, for what comes from another machine.

    Returns
    -------
    str
        The device.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if fall_back and torch.device(device).type == "cuda" and not torch.cuda.is_available():
        warnings.warn(f"There is no device {device!r} here: the embedder runs on the CPU.", UserWarning, stacklevel=3)
        return "cpu"
    return device


def resolve_device(device: str | None, dtype: str) -> tuple[str, str]:
    """Choose where a model runs, and the type of its weights there.

    Parameters
    ----------
    device : str or None
        The device; None is a GPU if there is one.
    dtype : str
        The name of the type; "auto" is bfloat16 where that is multiplied faster than float32.

    Returns
    -------
    (str, str)
        Both.
    """
    device = device_here(device)
    fast = multiplies_bfloat16_fast(torch.device(device))
    return device, ("bfloat16" if fast else "float32") if dtype == "auto" else dtype


def multiplies_bfloat16_fast(device: torch.device) -> bool:
    """Tell whether a device multiplies matrices of bfloat16 faster than of float32.

    Parameters
    ----------
    device : torch.device
        The device.

    Returns
    -------
    bool
        True for a GPU of Nvidia's Ampere generation or later and for a CPU with AVX-512 BF16.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
