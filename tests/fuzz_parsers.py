"""A coverage-guided fuzzer for the parsers of texts: `parse_events` and the tests' own `format_readers`.

`python tests/fuzz_parsers.py -max_total_time=300` runs Atheris (``pip install 'skllm4es[fuzz]'``). It stops at the
first input that breaks a promise; further options are those of libFuzzer.
"""

import sys


def main() -> None:
    """Fuzz until interrupted, or until a promise is broken."""
    import atheris

    with atheris.instrument_imports(include=["skllm4es.serialize", "format_readers", "parser_promises"]):
        from parser_promises import check
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
