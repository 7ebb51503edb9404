"""A coverage-guided fuzzer of what reads texts: `parse_events` and the parsers of the formats.

`python tests/fuzz_parsers.py -max_total_time=300` runs it by Atheris (``pip install 'skllm4es[fuzz]'``), and ends with
the input that broke a promise, if it finds one; the other options are those of libFuzzer.
"""

import sys


def main() -> None:
    """Fuzz until told to end."""
    import atheris

    with atheris.instrument_imports(include=["skllm4es.formats", "parser_promises"]):
        from parser_promises import check
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
