"""LLMEmbedder: the last step of the flow, from texts to one vector per user."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import joblib
import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skllm4es._texts import TEXT, read_texts

if TYPE_CHECKING:
    from skllm4es.lm.cache import Cache, CacheInfo
    from skllm4es.lm.language_model import LanguageModel

#: The paper's pooling depth.
_PAPER_DEPTH = 8

#: The paper's schedule for pretrained models, and what worked from scratch on 2 CPU cores.
_SCHEDULES: dict[bool, dict[str, Any]] = {
    True: {"epochs": 2, "learning_rate": 1e-5, "warmup": 0.1, "weight_decay": 1e-6},
    False: {"epochs": 1, "learning_rate": 1e-3, "warmup": 0.1, "weight_decay": 1e-2},
}


#: What `save_pretrained` writes of the fitted state, beside the model.
_SAVED = ("layers_", "max_length_", "loss_curve_", "n_truncated_", "dtype_")


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
    layers : sequence of int, default=None
        Pool these hidden layers instead of the last `pooling_depth`: 0 is the input of the first layer (the embedded
        tokens), l the output of layer l, -1 that of the last layer.
    layer_pooling : {"mean", "concat"}, default="mean"
        Whether the layers are averaged or put side by side, lowest first.
    token_pooling : {"mean", "last", "max", "events", "recency"}, default="mean"
        How the tokens of a text are pooled: their mean, the last one, the maximum of each dimension, the mean without
        instruction and header line, or a mean in which the weight of a token halves every `half_life` tokens before the
        end.
    half_life : float, default=256
        In tokens, for ``token_pooling="recency"``.
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
    dtype : {"auto", "float32", "bfloat16", "float16"}, default="auto"
        The type of the weights with which `transform` runs. "auto" is bfloat16 on a device that multiplies it faster
        than float32. Fine-tuning has float32 weights. What `fit` resolves (`layers_`, `max_length_`, `device_`,
        `dtype_`) stays until the next `fit`; the other parameters of pooling act on the next `transform`.
    memory : str, path or joblib.Memory, default=None
        Directory that keeps fine-tuned models and each text's pooled layers, so that neither is computed twice: a
        search over `pooling_depth` costs one fine-tuning a fold and one pass over each text. Several processes may
        share it, on a local disk; a text that two of them need at the same time is embedded by both. With
        ``random_state=None`` the model that is found is the one of the first `fit`.
    memory_limit : int, default=None
        Size in bytes above which `memory` drops what was used least recently; no limit by default. Models that were
        used within the last hour stay.
    random_state : int, RandomState instance or None, default=None
        Determines initial weights and the order of training.
    verbose : int, default=0
        Whether to show progress bars.

    Attributes
    ----------
    layers_ : list of int
        The hidden layers that are pooled, from 0 for the embedded tokens.
    max_length_ : int
        The most tokens that the model sees at once.
    loss_curve_ : list of float
        Next-token loss in nats a token over the course of training; empty without fine-tuning.
    n_truncated_ : int
        How many texts of the latest `transform` were cut.
    device_ : str
        Where the model runs.
    dtype_ : str
        The type of the weights with which `transform` runs.
    n_features_out_ : int
        The length of an embedding.

    See Also
    --------
    TextEnricher : The previous step, which adds texts to train on.

    Notes
    -----
    With token-wise hidden states :math:`H_l` of the L layers, the embedding is
    :math:`\mathrm{mean}_{tokens}(\frac{1}{k} \sum_{l=L-k+1}^{L} H_l)`, where :math:`H_l` is the output of layer l
    and :math:`H_L` is taken after the final norm, as in the `hidden_states` of transformers (LLM4ES, arXiv
    2508.05688, section 3.4). Special tokens that the tokenizer puts before a text, such as ``<s>``, count as tokens.

    Each distinct text is embedded once. A vector does not depend on the other texts, but for rounding: by 1e-6 in
    float32 and 1e-2 in bfloat16, relative to its length.

    Pickled, an embedder takes along the weights that it trained, but only the name or directory of a model that it
    left as it was, or that `from_pretrained` read.

    With "events", the tokens that a tokenizer puts at the end of a text, as those of encoders do, count as events.

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
        "layers": ["array-like", None],
        "layer_pooling": [StrOptions({"mean", "concat"})],
        "token_pooling": [StrOptions({"mean", "last", "max", "events", "recency"})],
        "half_life": [Interval(Real, 0, None, closed="neither")],
        "finetune": [StrOptions({"full"}), None],
        "max_length": [Interval(Integral, 8, None, closed="left"), StrOptions({"auto"})],
        "overflow": [StrOptions({"chunk", "truncate"})],
        "epochs": [Interval(Real, 0, None, closed="neither"), None],
        "learning_rate": [Interval(Real, 0, None, closed="neither"), None],
        "device": [str, None],
        "dtype": [StrOptions({"auto", "float32", "bfloat16", "float16"})],
        "memory": [str, os.PathLike, HasMethods(["cache"]), None],
        "memory_limit": [Interval(Integral, 1, None, closed="left"), None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        model: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        *,
        pooling_depth: int | str = "auto",
        layers: Sequence[int] | None = None,
        layer_pooling: str = "mean",
        token_pooling: str = "mean",
        half_life: float = 256,
        finetune: str | None = "full",
        max_length: int | str = "auto",
        overflow: str = "chunk",
        epochs: float | None = None,
        learning_rate: float | None = None,
        device: str | None = None,
        dtype: str = "auto",
        memory: str | os.PathLike[str] | joblib.Memory | None = None,
        memory_limit: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.model = model
        self.pooling_depth = pooling_depth
        self.layers = layers
        self.layer_pooling = layer_pooling
        self.token_pooling = token_pooling
        self.half_life = half_life
        self.finetune = finetune
        self.max_length = max_length
        self.overflow = overflow
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.device = device
        self.dtype = dtype
        self.memory = memory
        self.memory_limit = memory_limit
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
        columns = read_texts(X, caller="LLMEmbedder")
        training = [text for name, texts in columns.items() if name != TEXT or len(columns) == 1 for text in texts]
        if not training:
            raise ValueError("LLMEmbedder: found 0 texts in X; a minimum of 1 is required.")
        language_model, losses = self._language_model(training)
        layers = self._resolve_layers(language_model.n_layers)
        max_length = self._resolve_length(language_model.n_positions)
        # All at the end, so that a fit that fails leaves the embedder as it was.
        self._language_model_, self.layers_, self.max_length_ = language_model, layers, max_length
        self.loss_curve_, self.n_truncated_ = losses, 0
        self.device_, self.dtype_ = self._resolve_device()
        return self

    def transform(self, X: Any) -> npt.NDArray[np.float32]:
        """Embed texts.

        Parameters
        ----------
        X : dataframe, series, ndarray or list of str, of shape (n_users, n_columns) or (n_users,)
            The texts. Where there are several columns, ``text`` is embedded.

        Returns
        -------
        embeddings : ndarray of shape (n_users, n_features_out_), dtype float32
            One vector a user, in the order of `X`.
        """
        check_is_fitted(self)
        texts = read_texts(X, caller="LLMEmbedder")[TEXT]
        embeddings = np.empty((len(texts), self.n_features_out_), dtype=np.float32)
        for rows, layers in self._embedded(texts):
            chosen = layers[self.layers_]
            embeddings[rows] = chosen.ravel() if self.layer_pooling == "concat" else chosen.mean(axis=0)
        return embeddings

    def transform_layers(self, X: Any) -> npt.NDArray[np.float32]:
        """Give the pooled hidden states of every layer, for analysis.

        Parameters
        ----------
        X : dataframe, series, ndarray or list of str, of shape (n_users, n_columns) or (n_users,)
            The texts, as for `transform`.

        Returns
        -------
        layers : ndarray of shape (n_users, n_layers + 1, hidden_size), dtype float32
            Entry 0 pools the input of the first layer (the embedded tokens), entry l the output of layer l; the last
            one is taken after the final norm.
        """
        check_is_fitted(self)
        texts = read_texts(X, caller="LLMEmbedder")[TEXT]
        shape = (len(texts), self._language_model_.n_layers + 1, self._language_model_.hidden_size)
        pooled = np.empty(shape, dtype=np.float32)
        for rows, layers in self._embedded(texts):
            pooled[rows] = layers
        return pooled

    def cache_info(self) -> CacheInfo:
        """Tell what `memory` holds, and how often this process found there what it looked for.

        Returns
        -------
        CacheInfo
            A named tuple of hits, misses, n_vectors, n_models, n_bytes and limit.
        """
        cache = self._cache()
        if cache is None:
            raise ValueError("There is no cache: set memory=DIR.")
        return cache.info()

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write the fitted embedder to a directory, without pickle: weights as safetensors, the rest as JSON.

        Parameters
        ----------
        directory : str or path
            A directory that does not exist yet, or is empty.

        Raises
        ------
        FileExistsError
            If there is something in the directory.
        TypeError
            If a parameter cannot be written as JSON: a RandomState, which an int can replace.
        """
        check_is_fitted(self)
        from skllm4es.lm.saving import save_embedder

        parameters = {name: _as_json(name, value) for name, value in self.get_params(deep=False).items()}
        parameters |= {"memory": None, "memory_limit": None}  # Those of this machine.
        settings = {"parameters": parameters, "fitted": {name: getattr(self, name) for name in _SAVED}}
        model, tokenizer = self.load_model()
        save_embedder(Path(directory), model, tokenizer, settings)

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str], *, device: str | None = None) -> Self:
        """Read an embedder that `save_pretrained` wrote.

        Parameters
        ----------
        directory : str or path
            The directory.
        device : str, default=None
            Where the model shall run, if not where the embedder's parameter `device` says.

        Returns
        -------
        LLMEmbedder
            The fitted embedder. It has no `memory`.

        Raises
        ------
        OSError
            If there is no embedder in the directory, or one of another version.
        """
        from skllm4es.lm.devices import device_here
        from skllm4es.lm.language_model import LanguageModel
        from skllm4es.lm.saving import read_settings

        folder = Path(directory).expanduser().absolute()
        settings = read_settings(folder)
        embedder = cls(**settings["parameters"])
        if device is not None:
            embedder.set_params(device=device)
        for name, value in settings["fitted"].items():
            setattr(embedder, name, value)
        embedder._language_model_ = LanguageModel(str(folder))
        embedder.device_ = device_here(embedder.device, fall_back=True)
        return embedder

    def load_model(self) -> tuple[Any, Any]:
        """Give the language model and its tokenizer, as `transform` runs them.

        Returns
        -------
        model : transformers.PreTrainedModel
            The model. Its head is there only if this embedder has just trained it. It may be shared by the embedders of
            the process: do not change it.
        tokenizer : transformers.PreTrainedTokenizerBase
            Its tokenizer.
        """
        check_is_fitted(self)
        import torch

        model = self._language_model_.load(getattr(torch, self.dtype_), self.device_)
        return model, self._language_model_.tokenizer

    @property
    def n_features_out_(self) -> int:
        """The length of an embedding."""
        n_layers = len(self.layers_) if self.layer_pooling == "concat" else 1
        return self._language_model_.hidden_size * n_layers

    @property
    def _n_features_out(self) -> int:
        return self.n_features_out_

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_language_model_")

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.__sklearn_is_fitted__():
            from skllm4es.lm.devices import device_here

            self.device_ = device_here(self.device, fall_back=True)

    def _resolve_device(self) -> tuple[str, str]:
        """Give the device that there is here, and the type for the weights on it."""
        # torch and transformers take seconds to import, which only those who embed should wait for.
        import torch

        from skllm4es.lm.devices import device_here, multiplies_bfloat16_fast

        device = device_here(self.device)
        fast = multiplies_bfloat16_fast(torch.device(device))
        return device, ("bfloat16" if fast else "float32") if self.dtype == "auto" else self.dtype

    def _language_model(self, training: list[str]) -> tuple[LanguageModel, list[float]]:
        """Give the model, fine-tuned if it shall be, and the loss over the course of that."""
        from skllm4es.lm.language_model import LanguageModel

        source = os.path.expanduser(self.model) if isinstance(self.model, str | os.PathLike) else None
        if self.finetune is None:
            if source is None:
                raise ValueError(
                    "finetune=None leaves the model as it is, but a model from scratch has random weights. Name a "
                    "pretrained model (model='owner/name' or a directory), or set finetune='full'."
                )
            return LanguageModel(source), []
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        cache = self._cache()
        if cache is None:
            model, tokenizer, losses = self._finetune(training, source, seed)
            return LanguageModel(model=model, tokenizer=tokenizer), losses
        from skllm4es.lm.saving import read_losses, save_trained

        key = self._training_key(training, source, None if self.random_state is None else seed)
        with cache.lock_model(key):
            if folder := cache.find_model(key):
                return LanguageModel(str(folder), kept=True), read_losses(folder)
            model, tokenizer, losses = self._finetune(training, source, seed)
            folder = cache.store_model(key, lambda draft: save_trained(draft, model, tokenizer, losses))
            language_model = LanguageModel(str(folder), kept=True, model=model, tokenizer=tokenizer)
        cache.evict()
        return language_model, losses

    def _training_key(self, training: list[str], source: str | None, seed: int | None) -> bytes:
        """Hash all that makes the fine-tuned model."""
        from skllm4es import __version__
        from skllm4es.lm.cache import hash_of
        from skllm4es.lm.language_model import LanguageModel

        base: Any = self.model if source is None else LanguageModel(source).fingerprint
        length = self.max_length if self.max_length == "auto" else int(self.max_length)
        settings = [__version__, base, seed, length, self.finetune, self._schedule(source is not None)]
        return hash_of(json.dumps(settings, sort_keys=True, default=str), *training)

    def _schedule(self, pretrained: bool) -> dict[str, Any]:
        given = {"epochs": self.epochs, "learning_rate": self.learning_rate}
        return _SCHEDULES[pretrained] | {name: value for name, value in given.items() if value is not None}

    def _finetune(self, texts: list[str], source: str | None, seed: int) -> tuple[Any, Any, list[float]]:
        from skllm4es.lm.finetuning import finetune
        from skllm4es.lm.loading import load_causal_model, load_tokenizer, new_model
        from skllm4es.lm.packing import split, tokenize
        from skllm4es.lm.seeding import isolated_seed

        if source is None:
            with isolated_seed(seed):
                model, tokenizer = new_model(texts, self.model)  # type: ignore[arg-type]
        else:
            model, tokenizer = load_causal_model(source), load_tokenizer(source)
        config = model.config.get_text_config()
        self._resolve_layers(config.num_hidden_layers)
        max_length = self._resolve_length(getattr(config, "max_position_embeddings", None))
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        room = max_length - len(end)
        sequences = [
            window.ids + (end if window is windows[-1] else [])
            for tokens in tokenize(tokenizer, texts, room)
            for windows in [split(tokens, room)]
            for window in windows
        ]
        model.to(self._resolve_device()[0])
        schedule = self._schedule(source is not None)
        losses = finetune(model, sequences, max_length=max_length, seed=seed, progress=bool(self.verbose), **schedule)
        return model, tokenizer, losses

    def _resolve_layers(self, n_layers: int) -> list[int]:
        """Give the layers to pool, from 0 for the embedded tokens."""
        if self.layers is not None:
            chosen = [int(layer) for layer in self.layers]
            beyond = [layer for layer in chosen if not -n_layers - 1 <= layer <= n_layers]
            resolved = sorted({layer % (n_layers + 1) for layer in chosen})
            if beyond or len(resolved) < len(chosen) or not chosen:
                raise ValueError(
                    f"layers={list(self.layers)} must name at least one layer and none twice, of the {n_layers} layers "
                    f"of the language model: 0 (the embedded tokens) to {n_layers}, or -{n_layers + 1} to -1."
                )
            return resolved
        if self.pooling_depth != "auto" and self.pooling_depth > n_layers:  # type: ignore[operator]
            raise ValueError(
                f"pooling_depth={self.pooling_depth} is more than the {n_layers} layers of the language model. "
                f"Choose 1 to {n_layers}, or 'auto'."
            )
        depth = min(_PAPER_DEPTH, n_layers) if self.pooling_depth == "auto" else int(self.pooling_depth)
        return list(range(n_layers + 1 - depth, n_layers + 1))

    def _resolve_length(self, n_positions: int | None) -> int:
        limit = n_positions or np.inf
        if self.max_length == "auto":
            return int(min(2048, limit))
        if self.max_length > limit:  # type: ignore[operator]
            raise ValueError(
                f"max_length={self.max_length} is more than the {n_positions} positions of the language model. "
                f"Choose at most {n_positions}, or 'auto'."
            )
        return int(self.max_length)

    def _cache(self) -> Cache | None:
        from skllm4es.lm.cache import Cache

        location: Any = getattr(self.memory, "location", self.memory)  # Of a joblib.Memory.
        return None if location is None else Cache(location, self.memory_limit)

    def _embedded(self, texts: list[str]) -> Iterator[tuple[list[int], npt.NDArray[np.float32]]]:
        """Give the pooled layers of each distinct text, and the rows that have it; tell of those that were cut."""
        import torch

        from skllm4es.lm.embedding import TextEmbedder
        from skllm4es.lm.pooling import TokenPooling

        rows: dict[str, list[int]] = {}
        for row, text in enumerate(texts):
            rows.setdefault(text, []).append(row)
        embedder = TextEmbedder(
            self._language_model_,
            getattr(torch, self.dtype_),
            self.device_,
            self.max_length_,
            self.overflow,
            TokenPooling(self.token_pooling, float(self.half_life)),  # type: ignore[arg-type]
            progress=bool(self.verbose),
        )
        self.n_truncated_ = 0
        for text, layers, truncated in embedder.embed(texts, self._cache()):
            self.n_truncated_ += truncated * len(rows[text])
            yield rows[text], layers
        if self.n_truncated_:
            warnings.warn(
                f"{self.n_truncated_} of {len(texts)} texts have more than max_length={self.max_length_} tokens and "
                "were cut to their header and latest events. Raise max_length, embed all of them with "
                "overflow='chunk', or choose what is kept with EventSerializer(max_events=...).",
                UserWarning,
                stacklevel=4,
            )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []
        tags.non_deterministic = self.random_state is None
        return tags


def _as_json(name: str, value: Any) -> Any:
    """Give a parameter as JSON can hold it."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if name == "memory" and value is not None and not isinstance(value, str):
        return str(value.location)
    try:
        json.dumps(value)
    except TypeError as error:
        raise TypeError(
            f"The parameter {name}={value!r} cannot be written as JSON. Replace it before saving, for example with "
            f"set_params({name}=None): a fitted embedder does not need it."
        ) from error
    return value
