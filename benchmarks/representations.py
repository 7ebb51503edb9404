"""What turns users into vectors, for the rows of the tables: the baselines, and LLM4ES in its variants.

Each is a function that makes the unfitted transformer for a data set, a preset and a seed. It raises `NotHereError` if
something that it needs is not on this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from benchmarks.data import Data, load
from benchmarks.presets import (
    FROM_SCRATCH,
    LEARNING_RATES,
    LLAMA_3B,
    LLAMA_8B_INSTRUCT,
    MINILM,
    QWEN_1_7B,
    SMOLLM2,
    TEMPLATES,
    TINYSTORIES,
    Budget,
    Preset,
)
from benchmarks.recipes import PUBLISHED
from benchmarks.settings import make_embedder
from skllm4es import EventSerializer, LLMEmbedder, TextEnricher
from skllm4es.baselines import (
    BagOfEvents,
    CoLESEmbedder,
    CPCEmbedder,
    DeTPPEmbedder,
    EventAggregator,
    IFTPPEmbedder,
    LATTEEmbedder,
    NPPREmbedder,
    NSPEmbedder,
    RandomEmbedder,
    RTDEmbedder,
)
from skllm4es.datasets import get_data_home
from skllm4es.lm.language_model import LanguageModel
from skllm4es.lm.sources import source_of
from skllm4es.models import all_minilm_l6_v2, smollm2
from skllm4es.rewriters import HKFRRewriter, Rewriter, TransformersRewriter, TRSRRewriter

_NEED_A_GPU = (LLAMA_3B, QWEN_1_7B, LLAMA_8B_INSTRUCT)
_PIP_INSTALLS = {SMOLLM2: smollm2, MINILM: all_minilm_l6_v2}

#: What a small model is asked for in summaries, which may take a core hours even so.
_SHORT: dict[str, dict[str, Any]] = {
    "HKFR": {"n_words": 50, "themes": ["kinds of things and interests", "numbers and times"]},
    "LLM-TRSR": {"n_words": 50},
}


class NotHereError(Exception):
    """A row cannot run on this machine; the message says why."""


@dataclass(frozen=True)
class Context:
    """What a representation depends on, except for the users that it is fitted on."""

    data: Data
    preset: Preset
    budget: Budget
    seed: int
    data_home: str | None = None
    #: The folder that keeps long work.
    progress: Path | None = None


#: Makes the unfitted transformer from users to vectors.
Build = Callable[[Context], Any]


def has_unit_length(transformer: Any) -> bool:
    """Return whether vectors are made for a linear model, so that their dimensions need no common scale."""
    last = transformer[-1] if isinstance(transformer, Pipeline) else transformer
    return isinstance(last, BagOfEvents) or (isinstance(last, LLMEmbedder) and last.features == "auto")


def aggregates(context: Context) -> Any:
    return EventAggregator(**{**context.data.spec.fields, **context.data.spec.aggregates})


def bag(context: Context) -> Any:
    return BagOfEvents(random_state=context.seed, **{**context.data.spec.fields, **context.data.spec.bag})


def neural(name: str) -> Build:
    """Make one of the neural baselines, by its name in the tables."""
    cls, settings = NEURAL[name]

    def build(context: Context) -> Any:
        if cls is DeTPPEmbedder and find_spec("hotpp") is None:
            raise NotHereError("needs hotpp-benchmark, the extra tpp")
        preset = context.preset
        published = PUBLISHED.get((context.data.name, name), {}) if preset.published else {}
        embedder = cls(
            random_state=context.seed, **{**context.data.spec.fields, **settings, **preset.neural, **published}
        )
        if cls is LATTEEmbedder:
            embedder.set_params(model=_weights(SMOLLM2), labels=context.data.serializer.get("labels"))
        if cls is not RandomEmbedder:
            embedder.set_params(epochs=max(1, round(preset.epochs * embedder.epochs)))
        return embedder

    return build


NEURAL: dict[str, tuple[Any, dict[str, Any]]] = {
    "Random encoder": (RandomEmbedder, {}),
    "CoLES": (CoLESEmbedder, {}),
    "LATTE": (LATTEEmbedder, {}),
    "CPC": (CPCEmbedder, {}),
    "RTD": (RTDEmbedder, {}),
    "NSP": (NSPEmbedder, {}),
    "NPPR": (NPPREmbedder, {}),
    "DeTPP": (DeTPPEmbedder, {}),
    "IFTPP": (IFTPPEmbedder, {}),
    "IFTPP-T": (IFTPPEmbedder, {"encoder": "transformer", "epochs": 8, "learning_rate": 0.001}),
}


def llm(
    model: str,
    *,
    enrichment: dict[str, Any] | None = None,
    summaries: str | None = None,
    companion: bool = False,
    whole_events: bool = False,
    **settings: Any,
) -> Build:
    """Make LLM4ES or a variant of it.

    Parameters
    ----------
    model : str
        The language model.
    enrichment : dict, default=None
        Settings of `TextEnricher`; by default the model trains only on the serialised texts.
    summaries : {"HKFR", "LLM-TRSR"}, default=None
        Enrich with summaries instead of formats.
    companion : bool, default=False
        Also train on the enriched texts of a second data set.
    whole_events : bool, default=False
        Serialise all fields as `EventSerializer` does by default, not as short as the data set recommends.
    **settings
        Settings for `make_embedder`.
    """

    def build(context: Context) -> Pipeline:
        if model == FROM_SCRATCH and settings.get("finetune", "full") is None:
            raise NotHereError("a model from scratch has not been pre-trained")
        chosen = {**_training(context, model), **_language_model(context, model), **settings}
        written = partial(_written, context, enrichment=enrichment, summaries=summaries)
        steps = written(context.data)
        if whole_events:
            serializer = EventSerializer(
                max_events=context.budget.max_events, labels=context.data.serializer.get("labels")
            )
            steps[0] = ("serialize", serializer)
        texts = []
        if companion:
            other = _companion(context)
            writer = keep_rewrites(Pipeline(written(other)), context.progress)
            texts.append(writer.fit_transform(other.X).reset_index(drop=True))
            chosen["extra_texts"] = texts[0]
        embedder = make_embedder(random_state=context.seed, **chosen)
        if context.budget.n_tokens is not None and model != FROM_SCRATCH and embedder.finetune is not None:
            writer = keep_rewrites(clone(Pipeline(steps)), context.progress)
            texts.append(writer.fit_transform(context.data.X))
            embedder.set_params(finetune__epochs=context.budget.n_tokens / n_tokens_of(texts, embedder.model))
        return Pipeline([*steps, ("embed", embedder)])

    return build


def keep_rewrites(transformer: Any, folder: Path | None) -> Any:
    """Let a model that rewrites texts keep them in a folder, and show how far it is; return the same transformer."""
    if folder is not None and transformer.get_params().get("enrich__rewriter") is not None:
        transformer.set_params(enrich__memory=str(folder / "rewrites"), enrich__verbose=1)
    return transformer


def n_tokens_of(frames: Sequence[pd.DataFrame], model: str) -> int:
    """Return how many tokens an epoch has: those of each user's distinct texts to train on."""
    texts: list[str] = []
    for frame in frames:
        trained_on = frame.drop(columns="text") if len(frame.columns) > 1 else frame
        texts += [text for row in trained_on.to_numpy() for text in dict.fromkeys(row)]
    tokenizer = LanguageModel(source_of(model)).tokenizer
    return sum(map(len, tokenizer(texts)["input_ids"]))


def _written(
    context: Context, data: Data, *, enrichment: dict[str, Any] | None, summaries: str | None
) -> list[tuple[str, Any]]:
    """Make the steps that write texts."""
    steps: list[tuple[str, Any]] = [
        ("serialize", EventSerializer(max_events=context.budget.max_events, **data.serializer))
    ]
    if enrichment is not None:
        rewriter = _rewriter(context.preset, summaries)
        # A small model repeats itself until its limit in some summaries, however often it is asked.
        failing = {"on_error": "template", "max_retries": 1} if rewriter and context.preset.summariser else {}
        steps.append(("enrich", TextEnricher(rewriter, random_state=context.seed, **failing, **enrichment)))
    return steps


def _companion(context: Context) -> Data:
    """Load the second data set, but do not download it unasked."""
    name = context.data.spec.companion
    try:
        return load(name, context.preset.n_users, context.data_home, download=False)
    except OSError as error:
        raise NotHereError(f"the second data set, {name}, is not here") from error


def _rewriter(preset: Preset, summaries: str | None) -> Rewriter | None:
    if summaries is None:
        return None if preset.rewriter == TEMPLATES else TransformersRewriter(_weights(preset.rewriter))
    name = preset.summariser or preset.rewriter
    if name == TEMPLATES:
        raise NotHereError("its summaries need an instruct model: --rewriter MODEL")
    model = TransformersRewriter(_weights(name))
    settings = _SHORT[summaries] if name == SMOLLM2 else {}
    return {"HKFR": HKFRRewriter, "LLM-TRSR": TRSRRewriter}[summaries](model, **settings)


def _language_model(context: Context, model: str) -> dict[str, Any]:
    if model == FROM_SCRATCH:
        return {}
    if model == TINYSTORIES:
        folder = get_data_home(context.data_home) / TINYSTORIES
        if not folder.is_dir():
            raise NotHereError(f"there is no {TINYSTORIES} in the data home")
        weights = str(folder)
    else:
        weights = _weights(model)
    return {"model": weights} | ({"learning_rate": LEARNING_RATES[model]} if model in LEARNING_RATES else {})


def _training(context: Context, model: str) -> dict[str, Any]:
    """Return the budget's settings for the language model."""
    if model == FROM_SCRATCH:
        return dict(context.budget.scratch)
    epochs = {"epochs": context.data.spec.paper_epochs} if context.preset.published else {}
    return {**context.budget.pretrained, **epochs}


def _weights(name: str) -> str:
    """Return the name or path of a pretrained model if its weights are here and it can run here."""
    if name in _PIP_INSTALLS:
        if find_spec("gguf") is None:
            raise NotHereError("needs the extra gguf")
        try:
            return _PIP_INSTALLS[name]()
        except OSError as error:
            raise NotHereError(str(error)) from error
    import torch
    from huggingface_hub import try_to_load_from_cache

    reasons = []
    if not Path(name).expanduser().is_dir() and not isinstance(try_to_load_from_cache(name, "config.json"), str):
        reasons.append(f"the weights of {name} are not on this machine (hf download {name})")
    if name in _NEED_A_GPU and not torch.cuda.is_available():
        reasons.append("there is no GPU")
    if reasons:
        raise NotHereError(" and ".join(reasons))
    return name
