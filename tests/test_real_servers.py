"""OpenAIRewriter with SmolLM2-135M-Instruct behind real servers: llama.cpp's and `transformers serve`.

llama.cpp's is the package ``llama-cpp-python[server]``, which pip compiles (15 minutes on one busy core). It may lie in
an environment of its own, whose interpreter SKLLM4ES_LLAMA_PYTHON names.
"""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from model_servers import run_server
from sklearn.base import clone

from skllm4es import TextEnricher, models
from skllm4es.rewriters import OpenAIRewriter, RewritingError

pytest.importorskip("openai", reason="needs openai")

pytestmark = [pytest.mark.slow, pytest.mark.real_model]

TEXTS = [f"date|merchant|amount\n2020-03-0{day}, Bakery, 1{day}.50\n2020-03-0{day}, Fuel, 40" for day in range(1, 5)]


@pytest.fixture(scope="module")
def file():
    try:
        return models.smollm2()
    except OSError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def llama(file, tmp_path_factory):
    """The GGUF file behind llama.cpp's server."""
    python = os.environ.get("SKLLM4ES_LLAMA_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import llama_cpp.server"], capture_output=True).returncode:
        pytest.skip("needs llama-cpp-python[server], or SKLLM4ES_LLAMA_PYTHON, an interpreter that has it")
    command = [python, "-m", "llama_cpp.server", "--model", file, "--model_alias", "smollm2", "--n_ctx", "2048"]
    log = tmp_path_factory.mktemp("log") / "llama.log"
    with run_server([*command, "--n_threads", "1", "--n_threads_batch", "1"], log, health="v1/models") as url:
        yield OpenAIRewriter("smollm2", url, context_length=2048, max_new_tokens=20, max_concurrency=3)


@pytest.fixture(scope="module")
def served(file, tmp_path_factory):
    """The same model behind `transformers serve`, from a directory."""
    pytest.importorskip("fastapi", reason="needs fastapi, for transformers serve")
    pytest.importorskip("uvicorn", reason="needs uvicorn, for transformers serve")
    import torch

    from skllm4es.lm.language_model import LanguageModel
    from skllm4es.lm.sources import source_of

    language_model = LanguageModel(source_of(file))
    directory = tmp_path_factory.mktemp("smollm2")
    language_model.load_with_head(torch.float32, "cpu").save_pretrained(directory)
    language_model.tokenizer.save_pretrained(directory)
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(directory), "--device", "cpu"]
    with run_server(command, tmp_path_factory.mktemp("log") / "serve.log") as url:
        yield OpenAIRewriter(str(directory), url, context_length=2048, max_new_tokens=20, max_concurrency=2)


@pytest.fixture(params=["llama", "served"])
def rewriter(request):
    return clone(request.getfixturevalue(request.param))


def results_of(rewriter, texts=TEXTS):
    return dict(rewriter.iter_rewrites(texts, ["narrative"] * len(texts), [0] * len(texts)))


def test_every_text_gets_an_answer_of_its_own_or_an_error(rewriter):
    results = results_of(rewriter)
    assert sorted(results) == [0, 1, 2, 3]
    for result in results.values():
        # A model of this size does not always find an end.
        assert result.strip() if isinstance(result, str) else "cut off" in str(result)
    assert rewriter.n_tokens > 4 * 150


def test_tokens_are_estimated_rather_too_high(rewriter):
    before = rewriter.n_tokens
    results_of(rewriter.set_params(max_new_tokens=1), TEXTS[:1])
    with rewriter._open() as session:
        from skllm4es.rewriters._prompts import compose

        assert 0.8 * (rewriter.n_tokens - before) <= session.count_message(compose("narrative", TEXTS[0]))


def test_an_answer_that_was_cut_off_is_an_error(rewriter):
    (error,) = results_of(rewriter.set_params(max_new_tokens=3), TEXTS[:1]).values()
    assert isinstance(error, RewritingError)
    assert "its limit of 3 tokens" in str(error)


def test_a_text_that_is_too_long_for_the_server_fails_alone(rewriter):
    long = "date|merchant|amount\n" + "\n".join(f"2020-03-05, Shop number {n}, 1.5" for n in range(100))
    results = results_of(rewriter.set_params(context_length=100_000), [long, TEXTS[0]])
    assert sorted(results) == [0, 1]


def test_text_enricher_falls_back_to_templates(rewriter, tmp_path):
    enricher = TextEnricher(
        rewriter.set_params(temperature=0.2),
        formats=["json", "narrative"],
        check="retry",
        max_retries=0,
        on_error="template",
        memory=tmp_path,
        random_state=0,
    )
    with warnings.catch_warnings():  # A model of this size may fail on each text.
        warnings.simplefilter("ignore", UserWarning)
        enricher.fit_transform(TEXTS)
    assert (enricher.report_["recall"] >= 0.85).all()
    assert set(enricher.report_["outcome"]) <= {"ok", "template"}
