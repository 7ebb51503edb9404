"""Language models that train in a moment, and texts to train them on."""

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
