"""Every causal type of transformers that can be built small: packed as apart, alone as in a batch, layers, scores."""

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from skllm4es.lm.architecture import decoder_of, is_causal
from skllm4es.lm.language_model import LanguageModel
from skllm4es.lm.packing import can_pack, collate, packed_attention
from skllm4es.lm.pooling import LayerPooler
from skllm4es.lm.scores import can_score
from skllm4es.lm.sources import MemorySource
from skllm4es.lm.windows import Window

TYPES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)

#: By whatever name a configuration knows them.
SIZES = {
    **dict.fromkeys(["hidden_size", "n_embd", "d_model"], 32),
    **dict.fromkeys(["num_hidden_layers", "n_layer", "num_layers", "decoder_layers"], 2),
    **dict.fromkeys(["num_attention_heads", "n_head", "num_heads", "decoder_attention_heads"], 4),
    **dict.fromkeys(["intermediate_size", "n_inner", "d_ff", "ffn_dim", "decoder_ffn_dim"], 48),
    **dict.fromkeys(["max_position_embeddings", "n_positions"], 128),
    **dict.fromkeys(["num_experts", "num_local_experts", "n_routed_experts"], 4),
    **dict.fromkeys(["moe_intermediate_size", "shared_expert_intermediate_size"], 16),
    **dict.fromkeys(["q_lora_rank", "kv_lora_rank", "head_dim", "v_head_dim", "qk_rope_head_dim"], 8),
    **dict.fromkeys(["qk_nope_head_dim", "rotary_dim"], 4),
    **dict.fromkeys(["num_key_value_heads", "num_experts_per_tok", "eos_token_id"], 2),
    **dict.fromkeys(["n_group", "topk_group", "n_shared_experts", "first_k_dense_replace", "bos_token_id"], 1),
    # As large as they are by default, one text takes seconds.
    **{"mamba_d_state": 16, "mamba_chunk_size": 32, "linear_head_dim": 8, "linear_num_heads": 4},
    "vocab_size": 99,
    "pad_token_id": 0,
    "tie_word_embeddings": True,  # Scores are read off no others.
}
#: Types whose hidden states cannot be pooled, because their layers do not hand on one hidden state per token.
NO_LAYERS = "cannot be pooled: it has no list of"
#: Weights above which a type is not small.
MOST_WEIGHTS = 5_000_000


def build(model_type):
    """Build a small model of a type; skip where transformers cannot."""
    model, reason = _try_to_build(model_type)
    if model is None:
        pytest.skip(f"{model_type} {reason}")
    return model


#: Types that must be built and read: a change that breaks one of these is no reason to skip it.
COMMON = {"llama", "qwen2", "qwen3", "gemma3_text", "gpt2", "mistral", "phi3", "mamba"}
#: Types of these that are trained on several texts at once.
PACKED = {"llama", "qwen2", "qwen3", "gpt2", "phi3"}


def test_common_types_are_among_those_tested():
    assert set(TYPES) >= COMMON


def _try_to_build(model_type):
    """Return the model, or None and why there is none."""
    try:
        config = CONFIG_MAPPING[model_type](**SIZES)
        if config.get_text_config() is not config:
            config = CONFIG_MAPPING[model_type](text_config=SIZES)
        with torch.device("meta"):
            n_weights = sum(weights.numel() for weights in AutoModelForCausalLM.from_config(config).parameters())
        if n_weights > MOST_WEIGHTS:
            return None, f"has {n_weights:,} weights with the sizes of this test"
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.inference_mode():
            model(input_ids=torch.arange(8)[None], use_cache=False)
    except Exception as error:  # Whatever a configuration or a model raises at these sizes.
        if model_type in COMMON:
            raise
        return None, f"cannot be built with the sizes of this test: {type(error).__name__}: {error!s:.100}"
    # Random weights near zero hide differences.
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.dim() > 1 and "norm" not in name:
                weights.mul_(5)
    return model, ""


def texts_of(lengths, vocab_size=99):
    generator = np.random.default_rng(0)
    return [generator.integers(3, vocab_size, size=length).tolist() for length in lengths]


def pooler_of(model, **params):
    """Build a pooler, or return None where the refusal is the right one."""
    try:
        return LayerPooler(model, "mean", **params)
    except ValueError as error:
        if NO_LAYERS not in str(error) or model.config.model_type in COMMON:
            raise
        return None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", TYPES)
def test_what_is_packed_pooled_and_scored_is_what_transformers_computes(model_type):
    model = build(model_type)
    assert can_pack(model) or model_type not in PACKED
    if can_pack(model):
        check_that_texts_in_a_pack_do_not_see_each_other(model)
    if pooler := pooler_of(model):
        check_that_a_text_alone_has_the_layers_that_it_has_in_a_batch_and_in_transformers(model, pooler, model_type)
    scored = pooler is not None and is_causal(model) and can_score(LanguageModel(MemorySource(model, None)))
    assert scored or model_type not in COMMON
    if scored:
        check_that_scores_are_counts_less_the_softmax_of_the_logits(model)


def check_that_texts_in_a_pack_do_not_see_each_other(model):
    texts = texts_of([7, 30, 2, 21])
    with torch.inference_mode():
        apart = torch.cat([model(input_ids=torch.tensor([ids])).logits[0] for ids in texts])
        with packed_attention(model):
            packed = model(**collate([Window(ids, 0) for ids in texts])).logits[0]
    torch.testing.assert_close(packed, apart, rtol=1e-3, atol=1e-3 * float(apart.abs().max()))


def check_that_a_text_alone_has_the_layers_that_it_has_in_a_batch_and_in_transformers(model, pooler, model_type):
    texts = texts_of([40, 7, 19])
    pooled = {position: layers for positions, each, _ in pooler.pool([[Window(ids, 0)] for ids in texts])
              for position, layers in zip(positions, each, strict=True)}  # fmt: skip
    for position, ids in enumerate(texts):
        ((_, alone, _),) = pooler.pool([[Window(ids, 0)]])
        scale = np.abs(alone).max()
        np.testing.assert_allclose(pooled[position], alone[0], rtol=1e-3, atol=1e-4 * scale)
        with torch.inference_mode():
            output = decoder_of(model)(input_ids=torch.tensor([ids]), use_cache=False, output_hidden_states=True)
        states = [state.float().mean(dim=1)[0].numpy() for state in output.hidden_states or ()]
        if len(states) == len(alone[0]):
            # State space models leave out the embedded tokens, and have the last layer before its norm as well.
            shift = 0 if model_type not in ("mamba", "falcon_mamba", "rwkv") else 1
            np.testing.assert_allclose(alone[0][shift:-1], states[: -1 - shift], rtol=1e-3, atol=1e-4 * scale)
        np.testing.assert_allclose(alone[0][-1], output.last_hidden_state.mean(dim=1)[0], rtol=1e-3, atol=1e-4 * scale)


def check_that_scores_are_counts_less_the_softmax_of_the_logits(model):
    (ids,) = texts_of([25])
    tokens = np.arange(99)
    ((_, _, scores),) = pooler_of(model, scored=tokens).pool([[Window(ids, 0)]])
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits
    expected = -logits[0, :-1].double().softmax(-1).sum(dim=0)
    for token in ids[1:]:
        expected[token] += 1
    np.testing.assert_allclose(scores[0], expected, atol=1e-3)
