"""Private names of other libraries that this package uses, each with the versions that it is known to work with.

Public names are imported where they are used. What a new release may rename or move is here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

# scikit-learn 1.8 and 1.9
from sklearn.base import _fit_context as fit_context
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    StrOptions,
    validate_params,
)
from sklearn.utils._set_output import _get_output_config

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stand in for the class of scikit-learn 1.9: before it, there are no callbacks to call."""


__all__ = [
    "CallbackSupportMixin",
    "HasMethods",
    "Interval",
    "StrOptions",
    "attention_of",
    "cache_of",
    "callback_context",
    "check_parameters",
    "disable_word_cache",
    "fit_context",
    "gguf_read_once",
    "gguf_splits",
    "has_avx512_bf16",
    "output_library",
    "set_output_library",
    "supports_own_attention",
    "use_one_gpu",
    "validate_params",
]


def output_library(transformer: Any) -> str:
    """Return "default", "pandas" or "polars", as `set_output` or scikit-learn's configuration says."""
    library: str = _get_output_config("transform", transformer)["dense"]
    return library


def set_output_library(transformer: Any, library: str) -> None:
    """Do what scikit-learn's `set_output` does, for a transformer that builds its output itself."""
    transformer._sklearn_output_config = {"transform": library}


def check_parameters(estimator: Any) -> None:
    """Check the parameters of an estimator or of its settings against its `_parameter_constraints`."""
    estimator._validate_params()


def callback_context(estimator: Any) -> Any:
    """Return the context in which scikit-learn 1.9 calls an estimator's callbacks, or None where none are set."""
    if not getattr(estimator, "_skl_callbacks", None):
        return None
    return estimator._init_callback_context(max_subtasks=1)


def use_one_gpu(arguments: Any) -> None:
    """Keep the Trainer of transformers 5 from wrapping the model in DataParallel, whatever GPUs there are."""
    arguments._n_gpu = min(1, arguments.n_gpu)


def gguf_splits() -> frozenset[str]:
    """Return the kinds of tokenizers in GGUF files whose way of splitting text transformers 5.23 knows."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    return frozenset(GGUF_PRE_TOKENIZER_SPLITS)


@contextmanager
def gguf_read_once() -> Iterator[None]:
    """Let transformers 5.23 read a GGUF file once, without a progress bar.

    It reads the file for every question, and lists the names of all weights for every module of the model: half a
    minute for a small model, of which this saves half.
    """
    import gguf
    from transformers import modeling_gguf_pytorch_utils

    changed = [
        (gguf, "GGUFReader", cache(gguf.GGUFReader)),
        (gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map)),
        (modeling_gguf_pytorch_utils, "tqdm", partial(modeling_gguf_pytorch_utils.tqdm, disable=True)),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in changed]
    for module, name, value in changed:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def attention_of(model: Any) -> str:
    """Return the name of the attention that a model of transformers 5 runs."""
    name: str = model.config._attn_implementation
    return name


def cache_of(output: Any) -> dict[str, Any]:
    """Return the cache of what `generate` returned, as an argument for the next call.

    transformers calls it ``cache``, before 5.24 ``past_key_values``. Some models have neither.
    """
    name = "cache" if "cache" in output else "past_key_values"
    return {name: output[name]} if name in output else {}


def supports_own_attention(model: Any) -> bool:
    """Return whether the attention of a model of transformers 5 can be replaced by a registered function."""
    return bool(getattr(model, "_supports_attention_backend", False))


def has_avx512_bf16() -> bool:
    """Return whether the CPU multiplies bfloat16 in hardware, as torch 2.13 finds it."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported())


def disable_word_cache(tokenizer: Any) -> None:
    """Turn off the cache of words of tokenizers 0.22 and 0.23, which is never freed: a hundred kilobytes a fit.

    Tokenising takes a quarter more time without it.
    """
    tokenizer.backend_tokenizer.model._resize_cache(0)
