"""A parser returns a table or raises a ValueError, whatever the text: `fuzz_parsers` searches for longer."""

import pytest
from format_readers import LOSSLESS, read
from hypothesis import example, given
from hypothesis import strategies as st
from parser_promises import check

FRAGMENTS = [*"{}[](),:|-+~\n \"'", "null", "1", "<td>", "</td>", "<history>", "</history>", "rows", "columns", "#1"]
PIECES = st.lists(st.sampled_from(FRAGMENTS)).map("".join).map(str.encode)


@given(st.binary(min_size=3, max_size=3), st.binary() | PIECES)
@example(b"\x00\x00\x00", b"")
def test_a_parser_keeps_its_promises_on_any_text(beginning, text):
    check(beginning + text)


@pytest.mark.parametrize("name", LOSSLESS)
def test_the_error_for_a_text_of_another_form_names_the_format(name):
    texts = ["{}", "[1]", '{"a": []}', "a\n- b", "<a", "<td></td>", "?", "&undefined;", "[" * 9999, "| a |\n|"]
    rejected = []
    for text in texts:
        try:
            read(name, text)
        except ValueError as error:
            rejected.append(str(error))
    assert len(rejected) > len(texts) / 3
    assert all(f"was not written in the format {name!r}" in message for message in rejected)


def test_a_document_that_grows_when_it_is_parsed_is_rejected():
    """XML and YAML bombs, the billion laughs."""
    entities = "".join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(12))
    with pytest.raises(ValueError, match="was not written in the format 'xml'"):
        read("xml", f'<!DOCTYPE h [<!ENTITY e0 "ha">{entities}]><history><event a="&e12;"/></history>')
    aliases = "\n".join(["a0: &a0 [ha]", *(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]" for i in range(12))])
    with pytest.raises(ValueError, match="was not written in the format 'yaml'"):
        read("yaml", aliases)
