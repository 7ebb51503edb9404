"""Language models that train in a moment, and texts to train them on."""

import atexit
import shutil
import tempfile
from functools import cache

from skllm4es import FromScratch

TINY_CONFIG = {
    "vocab_size": 300,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}
TEXTS = [f"day|title|rating\n{day}, Heat, 5\n{day + 1}, Alien, {day % 5}" for day in range(12)]
#: Texts from which nothing can be learned about each other: the loss of the held-out ones soon rises.
NOISE = ["".join(chr(97 + (i * j * j) % 26) for j in range(1, 60)) for i in range(1, 13)]


def tiny(**settings):
    """Return a tiny model from scratch, with some settings changed."""
    return FromScratch(config={**TINY_CONFIG, **settings})


TINY = tiny()
#: Large enough for its weights to outweigh everything else in a file.
SMALL = tiny(hidden_size=64, intermediate_size=128)


def save_model(embedder, directory):
    """Write the language model of an embedder and its tokenizer to a directory, as a pretrained model."""
    for part in embedder.load_model():
        part.save_pretrained(directory)


@cache
def frozen_model(seed=0):
    """Return the directory of a model with random weights, which is left as it is; made on first use."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from skllm4es.lm.from_scratch import train_tokenizer

    directory = tempfile.mkdtemp(prefix="frozen-model-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    words = [f"{name} {number}%" for name in ("events", "usually", "low", "film", "POS", "ATM") for number in range(50)]
    tokenizer = train_tokenizer([" ".join(words)] * 5, 500)
    config = LlamaConfig(**{**TINY_CONFIG, "vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 1})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
