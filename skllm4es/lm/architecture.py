"""What a model of transformers is and can do, found by looking at it or by trying it once."""

from __future__ import annotations

import threading
import weakref

import torch
from transformers import PreTrainedModel

from skllm4es._compat import supports_own_attention

#: Held during a forward pass: embedders share models, and a hook is called for every forward pass of its model.
FORWARD = threading.Lock()
_CAUSAL: weakref.WeakKeyDictionary[PreTrainedModel, bool] = weakref.WeakKeyDictionary()


def decoder_layers(decoder: torch.nn.Module) -> torch.nn.ModuleList:
    """Find the list of a decoder's layers, first to last, whatever the architecture calls it.

    Parameters
    ----------
    decoder : torch.nn.Module
        A model of transformers without its head.

    Raises
    ------
    ValueError
        If there is none.
    """
    n_layers = decoder.config.get_text_config().num_hidden_layers  # type: ignore[union-attr,operator]
    for module in decoder.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == n_layers:
            return module
    raise ValueError(f"{type(decoder).__name__} has no list of {n_layers} layers: its hidden states cannot be read.")


def is_causal(model: PreTrainedModel) -> bool:
    """Find out, by trying once, whether no token of a model sees what follows it.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model, in evaluation mode.

    Returns
    -------
    bool
        False for bidirectional encoders.
    """
    if model not in _CAUSAL:
        _CAUSAL[model] = _try_causality(model)
    return _CAUSAL[model]


@torch.inference_mode()
def _try_causality(model: PreTrainedModel) -> bool:
    n_same, n_other = 4, 12
    ids = torch.arange(n_same + 2 * n_other) % model.config.get_text_config().vocab_size
    same, one, other = ids.to(model.device).split([n_same, n_other, n_other])
    texts = torch.stack([torch.cat([same, one]), torch.cat([same, other])])
    with FORWARD:
        hidden = model.base_model(input_ids=texts).last_hidden_state[:, :n_same].float()
    return bool((hidden[0] - hidden[1]).abs().max() <= 1e-5 * hidden.abs().max())


def can_pack(model: PreTrainedModel) -> bool:
    """Return whether a model can keep texts apart that lie end to end: it has full attention in every layer."""
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    only_full = layers == {"full_attention"} and not getattr(config, "sliding_window", None)
    return supports_own_attention(model) and only_full


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that memory ran out, on whatever device."""
    messages = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(message in str(error) for message in messages)
