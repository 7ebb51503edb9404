"""The rows of each table, for the language models of a preset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.presets import FROM_SCRATCH, LLAMA_3B, MINILM, QWEN_1_7B, SMOLLM2, TINYSTORIES, Budget, Preset
from benchmarks.protocol import HEADS
from benchmarks.representations import Build, aggregates, bag, llm, neural

Models = tuple[str, ...]

_LABELS = {
    FROM_SCRATCH: "from scratch",
    TINYSTORIES: "TinyStories 0.7M",
    SMOLLM2: "SmolLM2 135M",
    MINILM: "MiniLM 23M",
    QWEN_1_7B: "Qwen 3 1.7B",
    LLAMA_3B: "LLaMA 3.2 3B",
}
_MIXED = {"n_variants": 1}
_TRAININGS: dict[str, dict[str, Any]] = {"serialised": {}, "enriched": {"enrichment": _MIXED}}


@dataclass(frozen=True)
class Row:
    """A row: its name, the representations to put side by side, and the paper's name for it."""

    name: str
    parts: tuple[Build, ...]
    paper: str


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Parameters
    ----------
    title : str
        The heading.
    rows : callable
        Returns the rows for the language models of a preset.
    many_models : bool
        Whether each row trains a language model; these tables have a smaller budget per model.
    is_curve : bool
        Whether the rows are also scored with few labelled users.
    """

    title: str
    rows: Callable[[Models], list[Row]]
    many_models: bool = False
    is_curve: bool = False

    def budget(self, preset: Preset) -> Budget:
        """Return what the preset lets this table spend."""
        return preset.many if self.many_models else preset.few


def heads_of(table: Table) -> tuple[str, ...]:
    """Return the heads that a table scores; with few labels LightGBM predicts the same for everyone."""
    return ("linear",) if table.is_curve else HEADS


def label(model: str) -> str:
    """Return the name of a language model in a row."""
    return _LABELS.get(model, Path(model).name)


def _main(models: Models) -> list[Row]:
    names = ("Random encoder", "CPC", "RTD", "CoLES", "LATTE", "NSP", "NPPR", "DeTPP", "IFTPP", "IFTPP-T")
    return [_AGG, _BAG, *map(_neural, names), *map(_llm4es, models), _join(_AGG, _llm4es(models[0]))]


def _ensembles(models: Models) -> list[Row]:
    coles, embedded = _neural("CoLES"), _llm4es(models[0])
    beside_coles = [_AGG, _neural("IFTPP"), _neural("IFTPP-T"), embedded]
    return [coles, *[_join(coles, row) for row in beside_coles], _join(_AGG, embedded), _join(_BAG, embedded)]


def _domains(models: Models) -> list[Row]:
    return [_neural("CPC"), _neural("CoLES"), *map(_llm4es, models)]


def _components(models: Models) -> list[Row]:
    return [row for model in models for row in _components_of(model)]


def _components_of(model: str) -> list[Row]:
    ways: dict[str, dict[str, Any]] = {
        "pre-trained": {"finetune": None},
        "fine-tuned, serialised": {},
        "fine-tuned, enriched": {"enrichment": _MIXED},
        "fine-tuned, enriched, both data sets": {"enrichment": _MIXED, "companion": True},
    }
    return [Row(f"{label(model)}, {way}", (llm(model, **settings),), way) for way, settings in ways.items()]


def _strategies(models: Models) -> list[Row]:
    ways: dict[str, dict[str, Any]] = {
        "raw serialisation (TALLRec), 1x": {},
        "single format, HTML, 1x": {"enrichment": {"formats": "html"}},
        "single format, JSON, 1x": {"enrichment": {"formats": "json"}},
        "mixed formats, 1x": {"enrichment": _MIXED},
        "mixed formats, 7x": {"enrichment": {"n_variants": 7}},
        "mixed + raw, 8x": {"enrichment": {"n_variants": 7, "include_raw": True}},
        "LLM-TRSR, 1x": {"enrichment": {"enrich": "always"}, "summaries": "LLM-TRSR"},
        "HKFR, 1x": {"enrichment": {"enrich": "always"}, "summaries": "HKFR"},
        "LLM-TRSR, only train, 1x": {"enrichment": {}, "summaries": "LLM-TRSR"},
        "HKFR, only train, 1x": {"enrichment": {}, "summaries": "HKFR"},
    }
    return [Row(way, (llm(models[0], **settings),), way) for way, settings in ways.items()]


def _base_llms(models: Models) -> list[Row]:
    rows = []
    for model in models:
        ways: dict[str, dict[str, Any]] = {"frozen": {"finetune": None}} | _TRAININGS
        if model == FROM_SCRATCH:
            del ways["frozen"]
        if model == MINILM:  # A sentence encoder has no next-token loss, and its last layer is what it is used for.
            ways = {"frozen": {"finetune": None, "pooling_depth": 1}}
        rows += [
            Row(f"{label(model)}, {way}", (llm(model, **settings),), f"{label(model)}, {way}")
            for way, settings in ways.items()
        ]
    return rows


def _data_efficiency(models: Models) -> list[Row]:
    embedded = _llm4es(models[0])
    return [_AGG, _BAG, _neural("CoLES"), embedded, _join(_AGG, embedded)]


def _neural(name: str) -> Row:
    return Row(name, (neural(name),), name)


def _llm4es(model: str) -> Row:
    """Return what is recommended for a model that two cores can run, and the paper's way for those of the paper."""
    if model == SMOLLM2:
        return Row(f"LLM4ES ({label(model)}, frozen)", (llm(model, finetune=None, whole_events=True),), "LLM4ES")
    return Row(f"LLM4ES ({label(model)})", (llm(model, enrichment=_MIXED),), "LLM4ES")


def _join(*rows: Row) -> Row:
    return Row(
        " + ".join(row.name for row in rows),
        tuple(part for row in rows for part in row.parts),
        " + ".join(row.paper for row in rows),
    )


_AGG = Row("Agg", (aggregates,), "Agg")
_BAG = Row("Bag of events", (bag,), "Bag of events")

TABLES: dict[str, Table] = {
    "main": Table("Main results", _main),
    "ensembles": Table("Ensembles", _ensembles),
    "domains": Table("Other domains", _domains),
    "components": Table("Components", _components, many_models=True),
    "strategies": Table("Enrichment strategies", _strategies, many_models=True),
    "base-llms": Table("Base language models", _base_llms, many_models=True),
    "data-efficiency": Table("Data efficiency", _data_efficiency, is_curve=True),
}
