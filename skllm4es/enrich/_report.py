"""What `TextEnricher` says about the variants it made: the report, one warning, or an error."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from skllm4es.enrich._faithfulness import compare
from skllm4es.enrich._variants import Policy, Variant
from skllm4es.rewriters import RewritingError
from skllm4es.rewriters._base import UnreadableTextError

# Parts of the warning, by the fault of a variant and its outcome.
_PROBLEMS = {
    ("unfaithful", "unfaithful"): "keep less than min_recall={0.min_recall} of the original, or are not in the "
    "requested format, and were not replaced; check='retry' rewrites such texts again",
    ("unfaithful", "template"): "kept less than min_recall={0.min_recall} of the original, or were not in the "
    "requested format, after max_retries={0.max_retries} retries, and were replaced by templates",
    ("failed", "template"): "could not be rewritten and were replaced by templates",
    ("failed", "raw"): "could not be rewritten and were left raw",
    ("repeated", "repeated"): "equal another variant of their text, or the text itself, even after retries; ask for "
    "more formats or fewer variants",
    ("unchecked", "unchecked"): "could not be checked; check=None skips the check",
}


def report_of(variants: Sequence[Variant]) -> pd.DataFrame:
    """Return the report, one row per variant."""
    rows = [
        (
            v.user,
            v.number,
            v.format,
            v.rewriting.recall,
            v.rewriting.precision,
            v.n_retries,
            v.outcome,
            v.rewriting.reason,
        )
        for v in variants
    ]
    columns = ["user", "variant", "format", "recall", "precision", "n_retries", "outcome", "reason"]
    return pd.DataFrame(rows, columns=columns)


def warning_of(variants: Sequence[Variant], policy: Policy) -> str:
    """Count each kind of problem and describe its first case; empty if there are no problems."""
    sentences = []
    for kind, problem in _PROBLEMS.items():
        concerned = [variant for variant in variants if (variant.rewriting.fault, variant.outcome) == kind]
        if concerned:
            texts = "texts" if kind[0] == "failed" else "rewritten texts"
            sentences.append(
                f"{len(concerned)} of {len(variants)} {texts} {problem.format(policy)}. The first is "
                f"{_describe(concerned[0])}."
            )
    return " ".join(sentences)


def error_of(variants: Sequence[Variant], policy: Policy) -> RewritingError | None:
    """Return the error that ends the run, if there is one."""
    failed = [variant for variant in variants if variant.outcome == "failed"]
    if failed:
        remedy = "Fix the cause, raise max_retries if another seed may help, or pass on_error='template' or 'raw'."
        if isinstance(failed[0].rewriting.text, UnreadableTextError):  # No template can write it either.
            remedy = "Pass texts as EventSerializer writes them, or on_error='raw'."
        return RewritingError(
            f"{len(failed)} of {len(variants)} texts could not be rewritten. The first is {_describe(failed[0])}. "
            f"The others are cached if memory is set. {remedy}"
        )
    unfaithful = [variant for variant in variants if variant.outcome == "unfaithful"]
    if unfaithful and policy.check == "raise":
        return RewritingError(
            f"{len(unfaithful)} of {len(variants)} rewritten texts keep less than min_recall={policy.min_recall} of "
            f"the original, or are not in the requested format. The first is {_describe(unfaithful[0])}"
            f"{_missing(unfaithful[0])}. Pass check='retry' to rewrite such texts again, or lower min_recall."
        )
    return None


def _describe(variant: Variant) -> str:
    return f"that of user {variant.user!r}, format {variant.format!r}: {variant.rewriting.reason.rstrip('.')}"


def _missing(variant: Variant) -> str:
    """Name missing values, if there are any."""
    if math.isnan(variant.rewriting.recall):
        return ""
    missing = compare(variant.original, variant.text).missing
    return f", {len(missing)} missing values: {missing[:5]}" if missing else ""
