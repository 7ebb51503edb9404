"""FromScratch: a small language model that is made from the texts alone, offline."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any

from sklearn.base import BaseEstimator

from skllm4es._compat import Interval, StrOptions, validate_parameter_constraints
from skllm4es._messages import did_you_mean
from skllm4es.embed._settings import plain

if TYPE_CHECKING:
    from skllm4es.lm.training import Scratch


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
    LLMEmbedder : The embedder whose model it is.

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
        validate_parameter_constraints(self._parameter_constraints, self.get_params(deep=False), type(self).__name__)
        from transformers import LlamaConfig

        from skllm4es.lm.training import Scratch

        config = plain(self.config or {})
        known = LlamaConfig().to_dict()
        unknown = [name for name in config if name not in known]
        if unknown:
            hint = did_you_mean(unknown, known) or " See its documentation for their names."
            raise ValueError(f"config names {unknown}, which are not settings of transformers.LlamaConfig.{hint}")
        return Scratch(self.n_params if self.n_params == "auto" else int(self.n_params), config)
