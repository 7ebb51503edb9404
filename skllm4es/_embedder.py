"""LLMEmbedder: the last step of the flow, from texts to one vector per user."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skllm4es._texts import TEXT, read_texts

#: The paper's pooling depth.
_PAPER_DEPTH = 8

#: The paper's schedule for pretrained models, and what worked from scratch on 2 CPU cores.
_SCHEDULES: dict[bool, dict[str, Any]] = {
    True: {"epochs": 2, "learning_rate": 1e-5, "warmup": 0.1, "weight_decay": 1e-6},
    False: {"epochs": 1, "learning_rate": 1e-3, "warmup": 0.1, "weight_decay": 1e-2},
}


class LLMEmbedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    r"""Embed each user's text by a language model that is fine-tuned on the users' texts.

    `fit` trains a causal language model by next-token prediction; `transform` runs it over a text and takes the
    mean over tokens of the mean of the last `pooling_depth` hidden layers.

    Parameters
    ----------
    model : str, path or dict, default=None
        The language model: a name on the model hub or a local directory. By default a small Llama is trained from
        scratch, offline, with a tokenizer of its own; a dict replaces settings of its
        :class:`transformers.LlamaConfig`, for example ``{"num_hidden_layers": 2}``.
    pooling_depth : int or "auto", default="auto"
        How many of the last hidden layers are averaged. "auto" is 8, as in the paper, or all layers of a model that
        has fewer.
    finetune : {"full"} or None, default="full"
        "full" trains all weights. None leaves a pretrained model as it is.
    max_length : int or "auto", default="auto"
        The most tokens that the model sees at once. "auto" is 2048, or the number of positions of a model that has
        fewer.
    overflow : {"chunk", "truncate"}, default="chunk"
        What is embedded of a text with more than `max_length` tokens: all of it, in windows that are averaged by
        their number of tokens, or its header and latest events alone.
    epochs : float, default=None
        How often training sees each text: 2 for pretrained models and 1 from scratch by default.
    learning_rate : float, default=None
        The highest learning rate; 1e-5 for pretrained models and 1e-3 from scratch by default.
    device : str, default=None
        Where the model runs, as torch names it; a GPU where there is one by default.
    random_state : int, RandomState instance or None, default=None
        Determines initial weights and the order of training.
    verbose : int, default=0
        Whether to show progress bars.

    Attributes
    ----------
    model_ : transformers.PreTrainedModel
        The language model, fine-tuned.
    tokenizer_ : transformers.PreTrainedTokenizerBase
        Its tokenizer.
    pooling_depth_ : int
        The number of layers that are averaged.
    max_length_ : int
        The most tokens that the model sees at once.
    loss_curve_ : list of float
        Next-token loss in nats a token over the course of training; empty without fine-tuning.
    n_truncated_ : int
        How many texts of the latest `transform` were cut.
    device_ : str
        Where the model runs.

    See Also
    --------
    TextEnricher : The previous step, which adds texts to train on.

    Notes
    -----
    With token-wise hidden states :math:`H_l` of the L layers, the embedding is
    :math:`\mathrm{mean}_{tokens}(\frac{1}{k} \sum_{l=L-k+1}^{L} H_l)`, where :math:`H_l` is the output of layer l
    and :math:`H_L` is taken after the final norm, as in the `hidden_states` of transformers (LLM4ES, arXiv
    2508.05688, section 3.4).

    Examples
    --------
    >>> from skllm4es import LLMEmbedder
    >>> texts = ["title|rating\nHeat, 5\nAlien, 4", "title|rating\nBambi, 1"]
    >>> tiny = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    >>> LLMEmbedder(tiny, random_state=0).fit_transform(texts).shape
    (2, 8)
    """

    _parameter_constraints: dict[str, list[Any]] = {
        "model": [str, os.PathLike, Mapping, None],
        "pooling_depth": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "finetune": [StrOptions({"full"}), None],
        "max_length": [Interval(Integral, 8, None, closed="left"), StrOptions({"auto"})],
        "overflow": [StrOptions({"chunk", "truncate"})],
        "epochs": [Interval(Real, 0, None, closed="neither"), None],
        "learning_rate": [Interval(Real, 0, None, closed="neither"), None],
        "device": [str, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        model: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        *,
        pooling_depth: int | str = "auto",
        finetune: str | None = "full",
        max_length: int | str = "auto",
        overflow: str = "chunk",
        epochs: float | None = None,
        learning_rate: float | None = None,
        device: str | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.model = model
        self.pooling_depth = pooling_depth
        self.finetune = finetune
        self.max_length = max_length
        self.overflow = overflow
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Fine-tune the language model on texts.

        Parameters
        ----------
        X : dataframe, series, ndarray or list of str, of shape (n_users, n_columns) or (n_users,)
            The texts. Where there are columns besides ``text``, as `TextEnricher` gives them, these are trained on,
            and ``text`` is not.
        y : None
            Ignored.

        Returns
        -------
        self : LLMEmbedder
            The fitted embedder.
        """
        # torch and transformers take seconds to import, which only those who embed should wait for.
        import torch

        from skllm4es.lm.seeding import isolated_seed

        columns = read_texts(X, caller="LLMEmbedder")
        training = [text for name, texts in columns.items() if name != TEXT or len(columns) == 1 for text in texts]
        if not training:
            raise ValueError("LLMEmbedder: found 0 texts in X; a minimum of 1 is required.")
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        with isolated_seed(seed):
            model, tokenizer = self._new_or_loaded(training)
        config = model.config.get_text_config()
        depth = self._resolve_depth(config.num_hidden_layers)
        max_length = self._resolve_length(getattr(config, "max_position_embeddings", None))
        model.to(device)
        losses = [] if self.finetune is None else self._finetune(model, tokenizer, training, max_length, seed)
        # All at the end, so that a fit that fails leaves the embedder as it was.
        self.model_, self.tokenizer_, self.device_ = model.to(device), tokenizer, device
        self.pooling_depth_, self.max_length_, self.loss_curve_, self.n_truncated_ = depth, max_length, losses, 0
        return self

    def transform(self, X: Any) -> npt.NDArray[np.float32]:
        """Embed texts.

        Parameters
        ----------
        X : dataframe, series, ndarray or list of str, of shape (n_users, n_columns) or (n_users,)
            The texts. Where there are several columns, ``text`` is embedded.

        Returns
        -------
        embeddings : ndarray of shape (n_users, hidden_size), dtype float32
            One vector a user, in the order of `X`.
        """
        check_is_fitted(self, "model_")
        return self._embed(read_texts(X, caller="LLMEmbedder")[TEXT])

    @property
    def _n_features_out(self) -> int:
        return int(self.model_.config.get_text_config().hidden_size)

    def _new_or_loaded(self, texts: list[str]) -> tuple[Any, Any]:
        from skllm4es.lm.loading import load_model, new_model

        if self._is_pretrained:
            return load_model(self.model)  # type: ignore[arg-type]
        if self.finetune is None:
            raise ValueError(
                "finetune=None leaves the model as it is, but a model from scratch has random weights. Name a "
                "pretrained model (model='owner/name' or a directory), or set finetune='full'."
            )
        return new_model(texts, self.model)  # type: ignore[arg-type]

    @property
    def _is_pretrained(self) -> bool:
        return isinstance(self.model, str | os.PathLike)

    def _resolve_depth(self, n_layers: int) -> int:
        if self.pooling_depth == "auto":
            return min(_PAPER_DEPTH, n_layers)
        if self.pooling_depth > n_layers:  # type: ignore[operator]
            raise ValueError(
                f"pooling_depth={self.pooling_depth} is more than the {n_layers} layers of the language model. "
                f"Choose 1 to {n_layers}, or 'auto'."
            )
        return self.pooling_depth  # type: ignore[return-value]

    def _resolve_length(self, n_positions: int | None) -> int:
        limit = n_positions or np.inf
        if self.max_length == "auto":
            return int(min(2048, limit))
        if self.max_length > limit:  # type: ignore[operator]
            raise ValueError(
                f"max_length={self.max_length} is more than the {n_positions} positions of the language model. "
                f"Choose at most {n_positions}, or 'auto'."
            )
        return self.max_length  # type: ignore[return-value]

    def _finetune(self, model: Any, tokenizer: Any, texts: list[str], max_length: int, seed: int) -> list[float]:
        from skllm4es.lm.finetuning import finetune
        from skllm4es.lm.packing import split, tokenize

        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        room = max_length - len(end)
        sequences = [
            window + (end if window is windows[-1] else [])
            for tokens in tokenize(tokenizer, texts, room)
            for windows in [split(tokens, room)]
            for window in windows
        ]
        schedule = dict(_SCHEDULES[self._is_pretrained])
        given = {"epochs": self.epochs, "learning_rate": self.learning_rate}
        schedule |= {name: value for name, value in given.items() if value is not None}
        return finetune(model, sequences, max_length=max_length, seed=seed, progress=bool(self.verbose), **schedule)

    def _embed(self, texts: list[str]) -> npt.NDArray[np.float32]:
        from skllm4es.lm.packing import split, tokenize, truncate
        from skllm4es.lm.pooling import layer_means

        tokenized = tokenize(self.tokenizer_, texts, self.max_length_) if texts else []
        self.n_truncated_ = 0
        if self.overflow == "truncate":
            windows = [[truncate(tokens, self.max_length_)] for tokens in tokenized]
            self.n_truncated_ = sum(len(tokens.ids) > self.max_length_ for tokens in tokenized)
        else:
            windows = [split(tokens, self.max_length_) for tokens in tokenized]
        if self.n_truncated_:
            warnings.warn(
                f"{self.n_truncated_} of {len(texts)} texts have more than max_length={self.max_length_} tokens and "
                "were cut to their header and latest events. Raise max_length, embed all of them with "
                "overflow='chunk', or choose what is kept with EventSerializer(max_events=...).",
                UserWarning,
                stacklevel=3,
            )
        means = layer_means(self.model_, [window for each in windows for window in each], progress=bool(self.verbose))
        # Pooled before the windows are averaged: the means commute, and fewer numbers are held.
        return _average_windows(means[:, -self.pooling_depth_ :].mean(axis=1), windows)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []
        tags.non_deterministic = self.random_state is None
        return tags


def _average_windows(vectors: npt.NDArray[np.float32], windows: list[list[list[int]]]) -> npt.NDArray[np.float32]:
    """Average the windows of each text by their number of tokens."""
    if all(len(each) == 1 for each in windows):
        return vectors
    owners = np.repeat(np.arange(len(windows)), [len(each) for each in windows])
    n_tokens = np.array([len(window) for each in windows for window in each], dtype=np.float64)
    shares = n_tokens / np.bincount(owners, n_tokens)[owners]
    averages = np.zeros((len(windows), vectors.shape[1]))
    np.add.at(averages, owners, vectors * shares[:, None])
    return averages.astype(np.float32)
