"""Every estimator of the package, small enough to be fitted in a moment."""

from importlib.util import find_spec

import pytest

from skllm4es import EventSerializer, FineTuning, FromScratch, LLMEmbedder, LoRA, TextEnricher
from skllm4es.baselines import (
    BagOfEvents,
    CoLESEmbedder,
    CPCEmbedder,
    DeTPPEmbedder,
    EventAggregator,
    IFTPPEmbedder,
    NPPREmbedder,
    NSPEmbedder,
    RandomEmbedder,
    RTDEmbedder,
)
from skllm4es.rewriters import HKFRRewriter, OpenAIRewriter, TemplateRewriter, TransformersRewriter, TRSRRewriter

TINY_MODEL = {
    "vocab_size": 300,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}

SMALL = {"hidden_size": 8, "random_state": 0}
TRAINED = {
    "coles": CoLESEmbedder(epochs=1, n_slices=2, **SMALL),
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

#: What takes one row a user, with the user's events.
OF_EVENTS = {
    "serializer": EventSerializer(),
    "serializer-compact": EventSerializer(compact=True, max_events=5),
    **BASELINES,
}
#: What takes texts.
OF_TEXTS = {
    "enricher": TextEnricher(n_variants=2, random_state=0),
    "embedder": LLMEmbedder(
        FromScratch(config=TINY_MODEL),
        features=["hidden", "scores"],
        dtype="float32",
        random_state=0,
        finetune=FineTuning(epochs=1, batch_tokens=4096),
    ),
}
#: What has nothing but parameters, and is a parameter of an estimator.
PARAMETERS = {
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
IMPORTS_HOTPP = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # It uses it when it is imported.
NEEDS_HOTPP = [pytest.mark.skipif(not HAS_HOTPP, reason="needs hotpp-benchmark: the extra tpp"), IMPORTS_HOTPP]


def each_of(estimators, argument="estimator"):
    """Run a test once for each estimator of a dict, where its library is installed."""
    marks = {"detpp": NEEDS_HOTPP}
    return pytest.mark.parametrize(
        argument, [pytest.param(each, id=name, marks=marks.get(name, ())) for name, each in estimators.items()]
    )


def installed(estimators):
    """Give those of a dict of estimators whose library is installed."""
    return {name: each for name, each in estimators.items() if name != "detpp" or HAS_HOTPP}
