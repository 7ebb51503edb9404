"""The variants of each text: drawn, drawn anew where they must be, replaced where they cannot be kept.

A variant is drawn anew if there is none, if it repeats an earlier one of its text or the text itself, or if it is
unfaithful; the seed then moves on, so that everything depends on the text and the first seed alone.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from skllm4es.enrich._faithfulness import compare
from skllm4es.enrich._rewriting import Draw, Drawn, measure
from skllm4es.formats import FORMATS
from skllm4es.rewriters import RewritingError, TemplateRewriter, available_formats
from skllm4es.rewriters._template import UnreadableTextError

#: How often a text is drawn anew that repeats another, where that costs next to nothing.
FREE_REDRAWS = 20

# Far more than the variants of a text, so that no two seeds meet.
_NEXT_SEED = 1_000_003

_NOT_YET = Drawn(RewritingError("not drawn yet"))

# What is told of variants, by what was wrong with them and by how they ended.
_COMPLAINTS = {
    ("unfaithful", "unfaithful"): "tell less than min_recall={0.min_recall} of the original, or are not in the form "
    "asked for, and were kept; check='retry' draws such texts anew",
    ("unfaithful", "template"): "told less than min_recall={0.min_recall} of the original, or were not in the form "
    "asked for, after max_retries={0.max_retries} retries, and were replaced by templates",
    ("failed", "template"): "could not be rewritten and were replaced by templates",
    ("failed", "raw"): "could not be rewritten and were left raw",
    ("repeated", "repeated"): "equal another variant of their text, or the text itself, after drawing anew too; ask "
    "for more formats or fewer variants",
    ("unchecked", "unchecked"): "could not be checked; check=None leaves it out",
}


@dataclass
class Variant:
    """One rewriting of one text, and how it came about.

    Parameters
    ----------
    user : hashable
        The label of the text.
    number : int
        Which of its variants this is.
    original : str
        The raw text.
    format : str
        The format to write it in.
    drawn : Drawn
        The last rewriting.
    n_retries : int
        How often it was drawn anew.
    outcome : {"ok", "retried", "unfaithful", "repeated", "unchecked", "template", "raw", "failed"}
        How it ended.
    fault : {"", "unfaithful", "repeated", "unchecked", "failed"}
        What is wrong with it, or with what was replaced.
    reason : str
        The fault in words.
    """

    user: Hashable
    number: int
    original: str
    format: str
    drawn: Drawn = _NOT_YET
    n_retries: int = 0
    outcome: str = "ok"
    fault: str = ""
    reason: str = ""

    @property
    def text(self) -> str:
        """The rewritten text."""
        assert isinstance(self.drawn.text, str)
        return self.drawn.text

    @property
    def failed(self) -> bool:
        """Whether there is no rewritten text."""
        return isinstance(self.drawn.text, RewritingError)

    @property
    def complete(self) -> bool:
        """Whether its format is one that tells every value; formats of which nothing is known need not."""
        return self.format in FORMATS and FORMATS[self.format].complete


@dataclass(frozen=True)
class Policy:
    """What is asked of a variant, and what is done where it is not given.

    Parameters
    ----------
    check : {"warn", "retry", "raise"} or None
        What is done about an unfaithful text.
    min_recall : float
        The recall below which a text is unfaithful.
    max_retries : int
        How often a text is drawn anew that failed, or is unfaithful.
    max_redraws : int
        How often a text is drawn anew that repeats another variant.
    on_error : {"raise", "template", "raw"}
        What stands for a text that the rewriter failed on.
    """

    check: str | None
    min_recall: float
    max_retries: int
    max_redraws: int
    on_error: str

    def refuses(self, variant: Variant, drawn: Drawn) -> str:
        """Say why a rewriting of a variant is unfaithful; nothing if it is not."""
        if not variant.complete:
            return ""
        if not drawn.in_form:
            return f"not in the form of {variant.format}"
        return f"recall {drawn.recall:.2f}" if drawn.recall < self.min_recall else ""

    def asks_anew(self, variant: Variant) -> bool:
        """Tell whether another seed may do better. It does not for a text that nobody could read."""
        if variant.failed:
            return not isinstance(variant.drawn.text, UnreadableTextError)
        return self.check == "retry" and bool(self.refuses(variant, variant.drawn))

    def prefers(self, variant: Variant, drawn: Drawn) -> bool:
        """Tell whether a new rewriting is no worse than the one that a variant has."""
        if isinstance(drawn.text, RewritingError):
            return variant.drawn is _NOT_YET
        return variant.failed or bool(self.refuses(variant, variant.drawn)) or not self.refuses(variant, drawn)


def make_variants(
    variants: Sequence[Variant], seed: int, policy: Policy, draw: Callable[[list[Draw]], dict[Draw, Drawn]]
) -> None:
    """Draw each variant until it can be kept, and say how it ended.

    Parameters
    ----------
    variants : sequence of Variant
        What to make, the variants of a text one behind the other in the order of their numbers. They are changed.
    seed : int
        The first seed.
    policy : Policy
        When to draw anew, and what to do in the end.
    draw : callable of list of Draw to dict of Draw to Drawn
        Makes rewritings.
    """
    pending, attempt = list(variants), 0
    while pending:
        draws = [Draw(each.original, each.format, seed + each.number + attempt * _NEXT_SEED) for each in pending]
        drawn = draw(draws)
        for variant, key in zip(pending, draws, strict=True):
            variant.n_retries = attempt
            if policy.prefers(variant, drawn[key]):
                variant.drawn = drawn[key]
        attempt += 1
        retried = [each for each in variants if policy.asks_anew(each)] if attempt <= policy.max_retries else []
        repeated = _repeated(variants) if attempt <= policy.max_redraws else []
        chosen = {id(each) for each in (*retried, *repeated)}
        pending = [each for each in variants if id(each) in chosen]
    _settle(variants, seed, policy)


def complaints(variants: Sequence[Variant], policy: Policy) -> str:
    """Say in numbers what is not as it should be.

    Parameters
    ----------
    variants : sequence of Variant
        What was made.
    policy : Policy
        What was asked.

    Returns
    -------
    str
        Sentences; none if all is well.
    """
    told = []
    for (fault, outcome), what in _COMPLAINTS.items():
        concerned = [each for each in variants if (each.fault, each.outcome) == (fault, outcome)]
        if concerned:
            told.append(
                f"{len(concerned)} of {len(variants)} rewritten texts {what.format(policy)}. The first is that of "
                f"{_describe(concerned[0])}."
            )
    return " ".join(told)


def first_error(variants: Sequence[Variant], policy: Policy) -> RewritingError | None:
    """Make the error that ends the run, if there is one.

    Parameters
    ----------
    variants : sequence of Variant
        What was made.
    policy : Policy
        What was asked.

    Returns
    -------
    RewritingError or None
        It says how many texts are concerned, and what is wrong with the first.
    """
    failed = [each for each in variants if each.outcome == "failed"]
    if failed:
        return RewritingError(
            f"{len(failed)} of {len(variants)} texts could not be rewritten. The first is that of "
            f"{_describe(failed[0])} The others are kept in memory, if one is set. Mend what is wrong with it, or pass "
            "on_error='template' or 'raw'."
        )
    unfaithful = [each for each in variants if each.outcome == "unfaithful"]
    if unfaithful and policy.check == "raise":
        return RewritingError(
            f"{len(unfaithful)} of {len(variants)} rewritten texts tell less than min_recall={policy.min_recall} of "
            f"the original, or are not in the form asked for. The first is that of {_describe(unfaithful[0])}"
            f"{_missing(unfaithful[0])}. Pass check='retry' to draw such texts anew, or lower min_recall."
        )
    return None


def _describe(variant: Variant) -> str:
    return f"user {variant.user!r}, format {variant.format!r}: {variant.reason}"


def _missing(variant: Variant) -> str:
    """Name values that are missing, where any are."""
    if math.isnan(variant.drawn.recall):
        return ""
    missing = compare(variant.original, variant.text).missing
    return f", {len(missing)} missing values: {missing[:5]}" if missing else ""


def _repeated(variants: Sequence[Variant]) -> list[Variant]:
    """Give the variants that repeat the text itself, or an earlier variant of it."""
    seen: set[str] = set()
    repeated = []
    for variant in variants:
        if variant.number == 0:
            seen = {variant.original}
        if variant.failed:
            continue
        if variant.text in seen:
            repeated.append(variant)
        seen.add(variant.text)
    return repeated


def _settle(variants: Sequence[Variant], seed: int, policy: Policy) -> None:
    """Replace what cannot be kept, and name every outcome."""
    repeated = {id(each) for each in _repeated(variants)}
    earlier: set[str] = set()
    for variant in variants:
        if variant.number == 0:
            earlier.clear()
        variant.fault, variant.reason = _fault(variant, id(variant) in repeated, policy)
        variant.outcome = variant.fault or ("retried" if variant.n_retries else "ok")
        if variant.failed and policy.on_error == "raw":
            _replace(variant, variant.original, "raw", policy)
        elif (variant.fault == "unfaithful" and policy.check == "retry") or (
            variant.failed and policy.on_error == "template"
        ):
            _replace(variant, _write_template(variant, seed, earlier), "template", policy)
        if not variant.failed:
            earlier.add(variant.text)


def _fault(variant: Variant, repeated: bool, policy: Policy) -> tuple[str, str]:
    """Say what is wrong with a variant, in a word and in some more."""
    if variant.failed:
        return "failed", str(variant.drawn.text)
    if reason := policy.refuses(variant, variant.drawn):
        return "unfaithful", reason
    if repeated:
        return "repeated", "the raw text" if variant.text == variant.original else "an earlier variant"
    if policy.check and variant.complete and math.isnan(variant.drawn.recall):
        return "unchecked", "the raw text is not in the serialised form"
    return "", ""


def _replace(variant: Variant, text: str | RewritingError, outcome: str, policy: Policy) -> None:
    """Put a text in a variant's place; the variant stays where there is no such text."""
    if isinstance(text, str):
        variant.drawn = measure(Draw(variant.original, variant.format, 0), text, policy.check is not None)
        variant.outcome = outcome
    elif variant.failed:
        variant.reason = str(text)


def _write_template(variant: Variant, seed: int, earlier: set[str]) -> str | RewritingError:
    """Write a template that repeats no earlier variant, in the variant's format if there are templates of it."""
    name = variant.format
    if name not in FORMATS:
        name = random.Random(f"{seed} {variant.original}").choice(available_formats())
    for attempt in range(FREE_REDRAWS):
        # Negative seeds, which no other variant has.
        number = -1 - seed - variant.number - attempt * _NEXT_SEED
        try:
            (text,) = TemplateRewriter().rewrite([variant.original], [name], [number])
        except RewritingError as error:
            return error
        if text not in earlier:
            break
    return text
