"""The variants of each text: drawn, drawn anew where they must be, replaced where they cannot be kept.

A variant is drawn anew if it repeats an earlier one of its text, or loses too much of the original; the seed then moves
on, so that everything depends on the text and the first seed alone.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from skllm4es._faithfulness import compare
from skllm4es._rewriting import Draw, Drawn, measure
from skllm4es.formats import FORMATS
from skllm4es.rewriters import RewritingError, TemplateRewriter, available_formats

#: How often a text is drawn anew that repeats another, where that costs next to nothing.
FREE_REDRAWS = 20

# Far more than the variants of a text, so that no two seeds meet.
_NEXT_SEED = 1_000_003

_NOT_YET = Drawn(RewritingError("not drawn yet"))

_COMPLAINTS = {
    "unfaithful": "tell less than min_recall={0.min_recall} of the original and were kept; check='retry' draws such "
    "texts anew",
    "template": "could not be rewritten, or told less than min_recall={0.min_recall} after max_retries={0.max_retries} "
    "retries, and were replaced by templates",
    "raw": "could not be rewritten and were left raw",
    "repeated": "equal another variant of their text, after drawing anew too; ask for more formats or fewer variants",
    "unchecked": "could not be checked, because the original is not in the serialised form; check=None leaves it out",
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
    """

    user: Hashable
    number: int
    original: str
    format: str
    drawn: Drawn = _NOT_YET
    n_retries: int = 0
    outcome: str = "ok"

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
        How often an unfaithful text is drawn anew.
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

    def refuses(self, variant: Variant) -> bool:
        """Tell whether a variant is unfaithful."""
        return variant.complete and variant.drawn.recall < self.min_recall


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
            if attempt == 0 or not isinstance(drawn[key].text, RewritingError):
                variant.drawn = drawn[key]
        attempt += 1
        retried = [
            each
            for each in variants
            if policy.check == "retry" and policy.refuses(each) and attempt <= policy.max_retries
        ]
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
    counts = Counter(each.outcome for each in variants)
    return " ".join(
        f"{counts[outcome]} of {len(variants)} rewritten texts {what.format(policy)}."
        for outcome, what in _COMPLAINTS.items()
        if counts[outcome]
    )


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
        first = failed[0]
        return RewritingError(
            f"{len(failed)} of {len(variants)} texts could not be rewritten. The first is that of user {first.user!r}, "
            f"format {first.format!r}: {first.drawn.text} The others are kept in memory, if one is set. Mend what is "
            "wrong with it, or pass on_error='template' or 'raw'."
        )
    unfaithful = [each for each in variants if each.outcome == "unfaithful"]
    if unfaithful and policy.check == "raise":
        first = unfaithful[0]
        missing = compare(first.original, first.text).missing
        return RewritingError(
            f"{len(unfaithful)} of {len(variants)} rewritten texts tell less than min_recall={policy.min_recall} of "
            f"the original. The first is that of user {first.user!r}, format {first.format!r}: recall "
            f"{first.drawn.recall:.2f}, {len(missing)} missing values: {missing[:5]}. Pass check='retry' to draw such "
            "texts anew, or lower min_recall."
        )
    return None


def _repeated(variants: Sequence[Variant]) -> list[Variant]:
    """Give the variants that repeat an earlier one of the same text."""
    seen: set[tuple[int, str]] = set()
    repeated = []
    row = 0
    for variant in variants:
        row += variant.number == 0
        if variant.failed:
            continue
        if (row, variant.text) in seen:
            repeated.append(variant)
        seen.add((row, variant.text))
    return repeated


def _settle(variants: Sequence[Variant], seed: int, policy: Policy) -> None:
    """Replace what cannot be kept, and name every outcome."""
    repeated = {id(each) for each in _repeated(variants)}
    earlier: set[str] = set()
    for variant in variants:
        if variant.number == 0:
            earlier.clear()
        unfaithful = policy.check == "retry" and policy.refuses(variant)
        if variant.failed and policy.on_error == "raw":
            _replace(variant, variant.original, "raw", policy)
        elif unfaithful or (variant.failed and policy.on_error == "template"):
            _replace(variant, _write_template(variant, seed, earlier), "template", policy)
        else:
            variant.outcome = _outcome(variant, id(variant) in repeated, policy)
        if not variant.failed:
            earlier.add(variant.text)


def _outcome(variant: Variant, repeated: bool, policy: Policy) -> str:
    """Name the outcome of a variant that is not replaced."""
    if variant.failed:
        return "failed"
    if policy.refuses(variant):
        return "unfaithful"
    if repeated:
        return "repeated"
    if policy.check and variant.complete and math.isnan(variant.drawn.recall):
        return "unchecked"
    return "retried" if variant.n_retries else "ok"


def _replace(variant: Variant, text: str | RewritingError, outcome: str, policy: Policy) -> None:
    variant.drawn = measure(variant.original, text, policy.check is not None)
    variant.outcome = "failed" if variant.failed else outcome


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
