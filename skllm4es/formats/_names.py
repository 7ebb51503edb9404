"""The names of the fields: ways to spell each of them without ever confusing two fields.

A name is split into words, some words have synonyms, and the words are joined in one of `STYLES`. Spellings that two
fields could share are left out, so the names in a rewritten text always identify the fields of the header.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import islice, product

#: The name of the column that numbers the events if a layout changes their order.
NUMBER = "#"

_ACRONYMS = {"mcc", "id", "atm", "pos", "url", "sku", "icd"}
_MAX_PHRASES = 8

_SYNONYMS = {
    "amount": ("sum", "value"),
    "category": ("class", "kind"),
    "channel": ("medium",),
    "city": ("town",),
    "currency": ("currency code", "money unit"),
    "date": ("day",),
    "datetime": ("date and time", "timestamp"),
    "description": ("details",),
    "event": ("action",),
    "genre": ("film genre",),
    "genres": ("film genres",),
    "group": ("segment",),
    "item": ("product", "article"),
    "mcc": ("merchant category", "merchant type"),
    "merchant": ("shop", "seller"),
    "price": ("cost",),
    "product": ("item",),
    "quantity": ("number of units",),
    "rating": ("score", "grade"),
    "score": ("rating",),
    "time": ("moment",),
    "timestamp": ("date and time",),
    "title": ("name",),
    "trans": ("transaction", "operation"),
    "transaction": ("operation",),
    "trdatetime": ("transaction time", "operation date"),
    "trx": ("transaction", "operation"),
    "type": ("kind",),
    "value": ("amount",),
}

_JOIN: dict[str, Callable[[list[str]], str]] = {
    "snake": "_".join,
    "camel": lambda words: words[0] + "".join(map(str.capitalize, words[1:])),
    "title": lambda words: " ".join(word.upper() if word in _ACRONYMS else word.capitalize() for word in words),
    "words": lambda words: " ".join(word.upper() if word in _ACRONYMS else word for word in words),
}
IDENTIFIERS = ("original", "snake", "camel")
STYLES = ("original", *_JOIN)


def spell_names(header: Sequence[str], rng: random.Random, styles: Sequence[str]) -> list[str]:
    """Choose a spelling for each field, all in one of the given styles.

    They differ in more than case. In the style "original" the names stay as they are, unless one is empty or repeated.
    """
    style = rng.choice(styles)
    return [rng.choice(field[style] or field["original"]) for field in spellings(tuple(header))]


@lru_cache(maxsize=256)
def spellings(header: tuple[str, ...]) -> list[dict[str, list[str]]]:
    """Return all spellings of each field by style; each spelling belongs to one field only.

    Examples
    --------
    >>> from skllm4es.formats._names import spellings
    >>> spellings(("event_amount", "sum"))[0]["camel"]
    ['eventAmount', 'eventSum', 'eventValue', 'actionAmount', 'actionSum', 'actionValue']
    >>> spellings(("amount", "sum"))[0]["camel"]
    ['amount', 'value']
    """
    variants = [_variants(name) for name in header]
    claims = Counter(key for styles in variants for key in {name.casefold() for name in _all_names(styles)})
    free = [
        {style: [name for name in names if claims[name.casefold()] == 1] for style, names in styles.items()}
        for styles in variants
    ]
    for field, name in zip(free, _distinct_names(header, claims), strict=True):
        field["original"] = [name]
    return free


def split_words(name: str) -> list[str]:
    """Split the name of a field, in any style, into its words in lower case.

    Examples
    --------
    >>> from skllm4es.formats._names import split_words
    >>> split_words("MCCGroup_2"), split_words("amount(rubles)")
    (['mcc', 'group', '2'], ['amount', 'rubles'])
    """
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name)]


def _variants(name: str) -> dict[str, list[str]]:
    words = split_words(name) if name.isascii() else []
    phrases = _phrases(words) if words else []
    return {"original": [name]} | {style: [join(phrase) for phrase in phrases] for style, join in _JOIN.items()}


def _phrases(words: list[str]) -> list[list[str]]:
    options = product(*[(word, *_SYNONYMS.get(word, ())) for word in words])
    return [" ".join(option).split() for option in islice(options, _MAX_PHRASES)]


def _all_names(styles: dict[str, list[str]]) -> list[str]:
    return [name for names in styles.values() for name in names]


def _distinct_names(header: Sequence[str], claims: Counter[str]) -> list[str]:
    """Keep the names, but number those that are empty, reserved or not unique."""
    owners = Counter(name.casefold() for name in header)
    return [
        name if name not in ("", NUMBER) and owners[name.casefold()] == 1 else _numbered(name, position, claims)
        for position, name in enumerate(header, start=1)
    ]


def _numbered(name: str, position: int, claims: Counter[str]) -> str:
    name = f"{name or 'field'}_{position}"
    while name.casefold() in claims:
        name += "_"
    return name
