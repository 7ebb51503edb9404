"""The variants of each text: rewritten, rewritten again if necessary, and replaced if that does not help.

A variant is rewritten again, with another seed, if the rewriter failed on it, if it is unfaithful, or if it repeats an
earlier variant or the text itself. Every result depends on the text and the first seed alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from skllm4es.enrich._rewriting import Request, Rewriting, check
from skllm4es.formats import FORMATS
from skllm4es.rewriters import RewritingError, TemplateRewriter, available_formats
from skllm4es.rewriters._base import UnreadableTextError

#: How often to rewrite a text again that repeats another, if the rewriter is cheap.
MAX_CHEAP_RETRIES = 20

# More than the number of variants of any text, so that no two attempts share a seed.
_SEED_STEP = 1_000_003

_NOT_YET = Rewriting(RewritingError("not rewritten yet"), fault="failed")


@dataclass(eq=False)
class Variant:
    """One rewritten text of a user, and how it came about.

    `TextEnricher` lists the outcomes. If the text was replaced, the rewriting has the fault of the text before.
    """

    user: Hashable
    number: int
    original: str
    format: str
    #: How many earlier variants of the text have the same format.
    turn: int
    rewriting: Rewriting = _NOT_YET
    n_retries: int = 0
    outcome: str = ""

    @property
    def text(self) -> str:
        """The rewritten text."""
        assert isinstance(self.rewriting.text, str)
        return self.rewriting.text

    @property
    def failed(self) -> bool:
        """Whether there is no rewritten text."""
        return isinstance(self.rewriting.text, RewritingError)


@dataclass(frozen=True)
class Policy:
    """What `TextEnricher` requires of a variant, and what it does otherwise.

    `min_recall` is None if texts are not checked. `max_repeats` is how often to rewrite a text again that repeats
    another.
    """

    check: str | None
    min_recall: float | None
    max_retries: int
    max_repeats: int
    on_error: str

    def wants_retry(self, variant: Variant) -> bool:
        """Whether to try another seed because a variant failed or is unfaithful."""
        if variant.failed:
            return not isinstance(variant.rewriting.text, UnreadableTextError)
        return self.check == "retry" and variant.rewriting.fault == "unfaithful"


def make_variants(
    variants: Sequence[Variant],
    seed: int,
    policy: Policy,
    rewrite: Callable[[list[Request]], dict[Request, Rewriting]],
) -> None:
    """Rewrite each variant until it can be kept, and set its outcome.

    The variants of a text come in a row, in the order of their numbers. They are modified in place. `rewrite` maps a
    list of requests to their rewritings.
    """
    pending, attempt = list(variants), 0
    while pending:
        requests = [
            Request(variant.original, variant.format, seed + variant.turn + attempt * _SEED_STEP) for variant in pending
        ]
        rewritings = rewrite(requests)
        for variant, request in zip(pending, requests, strict=True):
            variant.n_retries = attempt
            if _is_no_worse(rewritings[request], variant.rewriting):
                variant.rewriting = rewritings[request]
        attempt += 1
        repeated = _repeated(variants) if attempt <= policy.max_repeats else set()
        pending = [
            variant
            for variant in variants
            if variant in repeated or (attempt <= policy.max_retries and policy.wants_retry(variant))
        ]
    _settle(variants, seed, policy)


def _is_no_worse(new: Rewriting, old: Rewriting) -> bool:
    """Whether to prefer a new rewriting; of several errors the first is kept."""
    if new.fault == "failed":
        return old is _NOT_YET
    return new.fault != "unfaithful" or old.fault in ("failed", "unfaithful")


def _repeated(variants: Sequence[Variant]) -> set[Variant]:
    """Return the variants that repeat the text itself, or an earlier variant of it."""
    seen: set[str] = set()
    repeated = set()
    for variant in variants:
        if variant.number == 0:
            seen = {variant.original}
        if variant.failed:
            continue
        if variant.text in seen:
            repeated.add(variant)
        seen.add(variant.text)
    return repeated


def _settle(variants: Sequence[Variant], seed: int, policy: Policy) -> None:
    """Replace the variants that cannot be kept, and set the outcome of each."""
    repeated = _repeated(variants)
    earlier: set[str] = set()
    for variant in variants:
        if variant.number == 0:
            earlier.clear()
        if variant in repeated and variant.rewriting.fault != "unfaithful":
            reason = "the raw text" if variant.text == variant.original else "an earlier variant"
            variant.rewriting = variant.rewriting._replace(fault="repeated", reason=reason)
        fault = variant.rewriting.fault
        variant.outcome = fault or ("retried" if variant.n_retries else "ok")
        if fault == "failed" and policy.on_error == "raw":
            _replace(variant, variant.original, "raw", policy)
        elif (fault == "failed" and policy.on_error == "template") or (
            fault == "unfaithful" and policy.check == "retry"
        ):
            _replace(variant, _write_template(variant, seed, earlier), "template", policy)
        if not variant.failed:
            earlier.add(variant.text)


def _replace(variant: Variant, text: str | RewritingError, outcome: str, policy: Policy) -> None:
    """Replace the text of a variant, unless the replacement failed too; the fault remains."""
    if isinstance(text, str):
        replacement = check(Request(variant.original, variant.format, 0), text, policy.min_recall)
        variant.rewriting = replacement._replace(fault=variant.rewriting.fault, reason=variant.rewriting.reason)
        variant.outcome = outcome
    elif variant.failed:
        variant.rewriting = variant.rewriting._replace(reason=str(text))


def _write_template(variant: Variant, seed: int, earlier: set[str]) -> str | RewritingError:
    """Write a template that repeats no earlier variant, in the variant's format if templates know it."""
    name = variant.format
    if name not in FORMATS:
        name = random.Random(f"{seed} {name} {variant.original}").choice(available_formats())
    for attempt in range(MAX_CHEAP_RETRIES):
        # Negative, so that no other variant has this seed.
        template_seed = -1 - seed - variant.turn - attempt * _SEED_STEP
        try:
            (text,) = TemplateRewriter().rewrite([variant.original], [name], [template_seed])
        except RewritingError as error:
            return error
        if text not in earlier:
            break
    return text
