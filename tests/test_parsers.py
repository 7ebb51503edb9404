"""What reads texts gives a table or a ValueError, whatever the text: `fuzz_parsers` looks for exceptions for longer."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from parser_promises import PARSERS, check

from skllm4es.formats import FORMATS

FRAGMENTS = [*"{}[](),:|-+~\n \"'", "null", "1", "<td>", "</td>", "<history>", "</history>", "rows", "columns", "#1"]
PIECES = st.lists(st.sampled_from(FRAGMENTS)).map("".join).map(str.encode)


@given(st.binary(min_size=3, max_size=3), st.binary() | PIECES)
@example(b"\x00\x00\x00", b"")
def test_a_parser_keeps_its_promises_on_any_text(beginning, text):
    check(beginning + text)


@pytest.mark.parametrize("name", sorted(PARSERS.keys() - {"events"}))
def test_a_text_of_another_form_is_refused_by_name(name):
    texts = ["{}", "[1]", '{"a": []}', "a\n- b", "<a", "<td></td>", "?", "&undefined;", "[" * 9999, "| a |\n|"]
    refused = []
    for text in texts:
        try:
            FORMATS[name].parse(text)
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > len(texts) / 3
    assert all(f"was not written in the format {name!r}" in message for message in refused)


def test_a_document_that_grows_when_it_is_read_is_refused():
    """The billion laughs: XML and YAML that a parser would blow up."""
    entities = "".join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(12))
    with pytest.raises(ValueError, match="was not written in the format 'xml'"):
        FORMATS["xml"].parse(f'<!DOCTYPE h [<!ENTITY e0 "ha">{entities}]><history><event a="&e12;"/></history>')
    aliases = "\n".join(["a0: &a0 [ha]", *(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]" for i in range(12))])
    with pytest.raises(ValueError, match="was not written in the format 'yaml'"):
        FORMATS["yaml"].parse(aliases)
