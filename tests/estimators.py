"""Every estimator of the package, small enough to fit in a moment."""

from importlib.util import find_spec

import pytest
from tiny_models import frozen_model, tiny

from skllm4es import EventSerializer, FineTuning, FromScratch, LLMEmbedder, LoRA, TextEnricher
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
from skllm4es.rewriters import HKFRRewriter, OpenAIRewriter, TemplateRewriter, TransformersRewriter, TRSRRewriter

SMALL = {"hidden_size": 8, "random_state": 0}
TRAINED = {
    "coles": CoLESEmbedder(epochs=1, n_slices=2, **SMALL),
    "latte": LATTEEmbedder(epochs=1, model=frozen_model(), **SMALL),
    "cpc": CPCEmbedder(epochs=1, n_negatives=4, n_steps=2, **SMALL),
    "rtd": RTDEmbedder(epochs=1, **SMALL),
    "nsp": NSPEmbedder(epochs=1, n_slices=1, head_size=8, **SMALL),
    "nppr": NPPREmbedder(epochs=1, n_past=2, **SMALL),
    "iftpp": IFTPPEmbedder(epochs=1, **SMALL),
    "iftpp-lstm": IFTPPEmbedder(epochs=1, encoder="lstm", **SMALL),
    "iftpp-t": IFTPPEmbedder(epochs=1, encoder="transformer", **SMALL),
    "detpp": DeTPPEmbedder(epochs=1, n_candidates=4, **SMALL),
}
NEURAL = {"random": RandomEmbedder(**SMALL), **TRAINED}
COUNTING = {"aggregates": EventAggregator(), "bag": BagOfEvents(n_components=6, random_state=0)}
BASELINES = {**COUNTING, **NEURAL}

#: Estimators whose `X` has one row per user, with the user's events.
ON_EVENTS = {
    "serializer": EventSerializer(),
    "serializer-compact": EventSerializer(compact=True, max_events=5),
    **BASELINES,
}
#: Estimators whose `X` holds texts.
ON_TEXTS = {
    "enricher": TextEnricher(n_variants=2, random_state=0),
    "embedder": LLMEmbedder(
        tiny(num_hidden_layers=1),
        features=["hidden", "scores"],
        dtype="float32",
        random_state=0,
        finetune=FineTuning(epochs=1, batch_tokens=4096),
    ),
}
#: Objects without `fit` that are parameters of an estimator.
PARAMETER_OBJECTS = {
    "fine-tuning": FineTuning(epochs=2),
    "lora": LoRA(r=4),
    "from-scratch": FromScratch(n_params=1000),
    "template": TemplateRewriter(),
    "transformers": TransformersRewriter("no/model"),
    "openai": OpenAIRewriter("no/model", "http://localhost:1/v1"),
    "hkfr": HKFRRewriter(TransformersRewriter("no/model")),
    "trsr": TRSRRewriter(TransformersRewriter("no/model")),
}

HAS_HOTPP = find_spec("hotpp") is not None
IMPORTS_HOTPP = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # hotpp uses it on import.
NEEDS_HOTPP = [pytest.mark.skipif(not HAS_HOTPP, reason="needs hotpp-benchmark: the extra tpp"), IMPORTS_HOTPP]


def each_of(estimators, argument="estimator"):
    """Run a test once for each estimator of a dict whose library is installed."""
    marks = {"detpp": NEEDS_HOTPP}
    return pytest.mark.parametrize(
        argument, [pytest.param(value, id=name, marks=marks.get(name, ())) for name, value in estimators.items()]
    )


def installed(estimators):
    """Return the estimators of a dict whose library is installed."""
    return {name: estimator for name, estimator in estimators.items() if name != "detpp" or HAS_HOTPP}
