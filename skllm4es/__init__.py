"""User embeddings from event sequences with large language models, as scikit-learn transformers."""

from skllm4es._drift import report_drift
from skllm4es._pipeline import event_pipeline
from skllm4es.embed._embedder import LLMEmbedder
from skllm4es.embed._finetuning import FineTuning, LoRA
from skllm4es.embed._from_scratch import FromScratch
from skllm4es.enrich._enricher import TextEnricher
from skllm4es.events._nesting import nest_events, unnest_events
from skllm4es.serialize._serializer import EventSerializer

__version__ = "0.3.0.dev0"

__all__ = [
    "EventSerializer",
    "FineTuning",
    "FromScratch",
    "LLMEmbedder",
    "LoRA",
    "TextEnricher",
    "event_pipeline",
    "nest_events",
    "report_drift",
    "unnest_events",
]
