"""FromScratch: a small language model that is made from the texts alone, offline."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any

from sklearn.base import BaseEstimator

from skllm4es._compat import Interval, StrOptions, check_parameters
from skllm4es.embed._settings import check_names, plain

if TYPE_CHECKING:
    from skllm4es.lm.training import Scratch

#: Settings that the tokenizer decides.
_OF_THE_TOKENIZER = ("bos_token_id", "eos_token_id", "pad_token_id")


class FromScratch(BaseEstimator):
    """A small Llama that is trained from scratch, for the parameter `model` of `LLMEmbedder`.

    Its tokenizer is trained on the same texts, and writes common field values as one token each.

    Parameters
    ----------
    n_params : int or "auto", default="auto"
        About how many weights the model has. "auto" is one for each token of text that training sees.
    config : dict, default=None
        Settings of :class:`transformers.LlamaConfig` that replace ours, for example ``{"num_hidden_layers": 2}``.

    See Also
    --------
    LLMEmbedder : The embedder that uses this object.

    Examples
    --------
    >>> from skllm4es import FromScratch, LLMEmbedder
    >>> embedder = LLMEmbedder(FromScratch(n_params=100_000))
    >>> embedder.get_params()["model__n_params"]
    100000
    """

    _parameter_constraints: dict[str, list[Any]] = {
        "n_params": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "config": [Mapping, None],
    }

    def __init__(self, n_params: int | str = "auto", *, config: Mapping[str, Any] | None = None) -> None:
        self.n_params = n_params
        self.config = config

    def _resolve(self) -> Scratch:
        """Check the parameters, and return what `skllm4es.lm` makes the model from."""
        check_parameters(self)
        from transformers import LlamaConfig

        from skllm4es.lm.training import Scratch

        config = plain(self.config or {})
        check_names("config", config, set(LlamaConfig().to_dict()), "transformers.LlamaConfig")
        reserved = [name for name in config if name in _OF_THE_TOKENIZER]
        if reserved:
            raise ValueError(f"config cannot take {reserved}, which come from the tokenizer. Leave them out.")
        if self.n_params != "auto" and "hidden_size" in config:
            raise ValueError(
                f"n_params={self.n_params} chooses the size of the model, which config sets too "
                f"(hidden_size={config['hidden_size']}). Pass one of them."
            )
        return Scratch(self.n_params if self.n_params == "auto" else int(self.n_params), config)
