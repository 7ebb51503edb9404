"""Tiny GGUF files: models with random weights, written as llama.cpp's converter writes them."""

import json
from types import SimpleNamespace

import gguf
import numpy as np
import torch
from tiny_models import TEXTS
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
#: For each architecture its name in GGUF files, and the settings of a tiny model.
ARCHITECTURES = {
    "llama": ("llama", LlamaConfig, {**_SIZES, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    "mistral": ("llama", LlamaConfig, {**_SIZES, "num_key_value_heads": 2, "head_dim": 32}),
    "qwen2": ("qwen2", Qwen2Config, {**_SIZES, "num_key_value_heads": 2}),
    "qwen3": ("qwen3", Qwen3Config, {**_SIZES, "num_key_value_heads": 2, "head_dim": 128}),
    "gemma2": ("gemma2", Gemma2Config, {**_SIZES, "num_key_value_heads": 2, "head_dim": 16}),
    "gemma3": ("gemma3", Gemma3TextConfig, {**_SIZES, "num_key_value_heads": 2, "head_dim": 16}),
    "phi3": ("phi3", Phi3Config, {**_SIZES, "num_key_value_heads": 2, "pad_token_id": 0}),
    "gpt2": ("gpt2", GPT2Config, {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 1024}),
}
_TRANSPOSED = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


def bpe():
    """Return the vocabulary and merges of a byte-level tokenizer that knows a few words of `TEXTS`."""
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([*TEXTS, "1234567890"], vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return tokens, [" ".join(merge) for merge in model["merges"]]


def make_model(name, tokens, **settings):
    """Return a model with random weights."""
    torch.manual_seed(0)
    _, kind, sizes = ARCHITECTURES[name]
    config = kind(**{"vocab_size": len(tokens), "bos_token_id": 1, "eos_token_id": 2, **sizes, **settings})
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():  # The biases and norms of a new model are zeros and ones, which any mistake leaves alone.
        for weights in model.parameters():
            weights.add_(torch.randn_like(weights) * 0.1)
    return model


def write_gguf(path, name="llama", *, kind="default", quantise=None, metadata=(), tensors=(), **settings):
    """Write a tiny model to a file.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    name : str, default="llama"
        One of `ARCHITECTURES`.
    kind : str or None, default="default"
        Kind of the tokenizer (``tokenizer.ggml.pre``).
    quantise : gguf.GGMLQuantizationType, default=None
        Type of the matrices.
    metadata : dict, default=()
        Further metadata, replacing that of the model; None leaves a key out.
    tensors : dict, default=()
        Further tensors.
    **settings
        Settings of the configuration.

    Returns
    -------
    SimpleNamespace
        `path`; `model`, which the file holds, up to quantisation; and `tokens`.
    """
    tokens, merges = bpe()
    model = make_model(name, tokens, **settings)
    architecture = ARCHITECTURES[name][0]
    values = {**_settings(architecture, model.config), **_tokenizer(tokens, merges, kind), **dict(metadata)}
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in values.items():
        _add(writer, key, value)
    for weights_name, weights in {**_weights(architecture, model), **dict(tensors)}.items():
        if quantise is not None and weights.ndim == 2 and weights.shape[-1] % 32 == 0:
            writer.add_tensor(weights_name, gguf.quantize(weights, quantise), raw_dtype=quantise)
        else:
            writer.add_tensor(weights_name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return SimpleNamespace(path=path, model=model, tokens=tokens)


def save_directory(written, directory):
    """Save the model of a file as transformers would, with a tokenizer that splits as GPT-2's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokens, merges = bpe()
    vocabulary = {token: number for number, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in merges]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=SPECIAL[1], eos_token=SPECIAL[2])
    written.model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def _settings(architecture, config):
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if architecture == "gpt2":
        settings = {"attention.layer_norm_epsilon": config.layer_norm_epsilon, "feed_forward_length": 4 * config.n_embd}
    else:
        rope = config.rope_parameters
        settings = {
            "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
            "feed_forward_length": config.intermediate_size,
            "attention.head_count_kv": config.num_key_value_heads,
            "rope.freq_base": float(rope.get("full_attention", rope)["rope_theta"]),
            "rope.dimension_count": head_dim,
            "attention.key_length": head_dim,
        }
    if architecture in ("gemma2", "gemma3"):
        settings["attention.sliding_window"] = config.sliding_window
    settings |= {
        "context_length": config.max_position_embeddings,
        "block_count": config.num_hidden_layers,
        "embedding_length": config.hidden_size,
        "attention.head_count": config.num_attention_heads,
    }
    return {"general.name": "tiny", **{f"{architecture}.{key}": value for key, value in settings.items()}}


def _tokenizer(tokens, merges, kind):
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": kind,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": [3 if token in SPECIAL else 1 for token in tokens],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def _add(writer, key, value):
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif value is not None:
        writer.add_array(key, value)


def _weights(architecture, model):
    """Name and arrange the weights as llama.cpp's converter does."""
    config = model.config
    arch = next(number for number, known in gguf.MODEL_ARCH_NAMES.items() if known == architecture)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    weights = {}
    for full_name, parameter in model.named_parameters():
        name, _, part = full_name.rpartition(".")
        array = parameter.detach().numpy()
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            n_heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            array = array.reshape(n_heads, 2, -1, array.shape[-1]).swapaxes(1, 2).reshape(array.shape)
        if architecture in ("gemma2", "gemma3") and "norm" in name:
            array = array + 1
        if architecture == "gpt2" and name.endswith(_TRANSPOSED) and array.ndim == 2:
            array = array.T
        weights[f"{names.get_name(name)}.{part}"] = np.ascontiguousarray(array)
    return weights
