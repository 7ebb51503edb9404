"""What the machine at hand has, and does fast."""

import torch


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
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
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
