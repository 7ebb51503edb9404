"""What the machine at hand does fast."""

import torch


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
