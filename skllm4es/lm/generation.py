"""Text generation with a causal language model, in padded batches: each prompt has its own seed and its own limit."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from skllm4es.lm.architecture import FORWARD
from skllm4es.lm.loading import quietly
from skllm4es.lm.sampling import Sampling, seed_of_step

#: Which prompts may share a batch without a difference to any of them.
Sharing = Literal["all", "same length", "none"]

#: What was found out by trying models once.
_SHARING: weakref.WeakKeyDictionary[PreTrainedModel, Sharing] = weakref.WeakKeyDictionary()


class Prompt(NamedTuple):
    """The tokens of a prompt, the maximum number of tokens to generate, and the seed."""

    ids: list[int]
    max_new_tokens: int
    seed: int


class Completion(NamedTuple):
    """The generated tokens, without the one that ends the text, and whether the text ended within the limit."""

    ids: list[int]
    finished: bool


def generate(
    model: PreTrainedModel, prompts: Sequence[Prompt], sampling: Sampling, stop_ids: Sequence[int], batch_tokens: int
) -> Iterator[tuple[int, Completion]]:
    """Complete prompts in padded batches, the longest first; yield the position of each with its completion.

    Prompts, padding and completions of a batch have at most `batch_tokens` tokens, unless it is a single prompt. Any of
    the `stop_ids`, of which there must be at least one, ends a text. The model must have its head. Prompts share a
    batch only if that makes no difference to them: some models see the padding, RWKV even the other texts of a batch.
    """
    sharing = sharing_of(model) if len(prompts) > 1 else "none"
    for batch in _batches(prompts, batch_tokens, sharing):
        yield from zip(batch, _generate_batch(model, [prompts[i] for i in batch], sampling, stop_ids), strict=True)


def sharing_of(model: PreTrainedModel) -> Sharing:
    """Find out, by trying once, which prompts of a model may share a batch."""
    if model not in _SHARING:
        _SHARING[model] = _try_sharing(model)
    return _SHARING[model]


def _try_sharing(model: PreTrainedModel) -> Sharing:
    n_tokens, n_longer = 8, 13
    ids = torch.arange(n_tokens + n_longer, device=model.device) % model.config.get_text_config().vocab_size
    tried, other, longer = ids[:n_tokens], ids[1 : n_tokens + 1].flip(0), ids[-n_longer:]
    padding = torch.zeros_like(ids[: n_longer - n_tokens])
    config = GenerationConfig(
        max_new_tokens=3, do_sample=False, output_logits=True, return_dict_in_generate=True, pad_token_id=0
    )

    def scores(*prompts: torch.Tensor, n_padding: int = 0) -> torch.Tensor:
        """Return the scores of the first prompt's next tokens."""
        mask = torch.ones_like(torch.stack(prompts))
        mask[0, :n_padding] = 0
        output = _without_settings(model).generate(
            input_ids=torch.stack(prompts), attention_mask=mask, generation_config=config
        )
        return torch.stack(output.logits)[:, 0].float()

    with FORWARD, torch.inference_mode(), quietly():
        alone = scores(tried)
        # Models with a difference differ by about the size of the scores, in whatever precision.
        tolerance = max(1e-4, 16 * torch.finfo(model.dtype).eps) * alone.abs().max()
        if (scores(tried, other) - alone).abs().max() > tolerance:
            return "none"
        padded = scores(torch.cat([padding, tried]), longer, n_padding=len(padding))
        return "same length" if (padded - alone).abs().max() > tolerance else "all"


def _batches(prompts: Sequence[Prompt], batch_tokens: int, sharing: Sharing) -> Iterator[list[int]]:
    """Group prompts of similar length; the longest come first, so that too little memory shows at once."""
    batch: list[int] = []
    longest_prompt = most_new = 0
    for position in sorted(range(len(prompts)), key=lambda i: (-len(prompts[i].ids), -prompts[i].max_new_tokens)):
        shorter = len(prompts[position].ids) < longest_prompt
        longest_prompt = max(longest_prompt, len(prompts[position].ids))
        most_new = max(most_new, prompts[position].max_new_tokens)
        is_full = (len(batch) + 1) * (longest_prompt + most_new) > batch_tokens
        if batch and (is_full or sharing == "none" or (sharing == "same length" and shorter)):
            yield batch
            batch, longest_prompt, most_new = [], len(prompts[position].ids), prompts[position].max_new_tokens
        batch.append(position)
    if batch:
        yield batch


def _generate_batch(
    model: PreTrainedModel, prompts: Sequence[Prompt], sampling: Sampling, stop_ids: Sequence[int]
) -> Iterator[Completion]:
    width = max(len(prompt.ids) for prompt in prompts)
    padding = [width - len(prompt.ids) for prompt in prompts]
    pairs = list(zip(padding, prompts, strict=True))
    config = GenerationConfig(
        max_new_tokens=max(prompt.max_new_tokens for prompt in prompts),
        do_sample=False,  # The processor samples, by noise on the scores.
        eos_token_id=list(stop_ids),
        pad_token_id=stop_ids[0],
    )
    try:
        with torch.inference_mode(), quietly():
            output = _without_settings(model).generate(
                input_ids=torch.tensor([[stop_ids[0]] * n + prompt.ids for n, prompt in pairs], device=model.device),
                attention_mask=torch.tensor([[0] * n + [1] * (width - n) for n in padding], device=model.device),
                generation_config=config,
                logits_processor=LogitsProcessorList([_Sampler(sampling, [prompt.seed for prompt in prompts], width)]),
            )
    except torch.OutOfMemoryError as error:
        raise MemoryError(
            f"{len(prompts)} texts of up to {width} tokens, with answers of up to {config.max_new_tokens} each, do not "
            f"fit into the memory of {model.device}. Make the batches smaller, or the answers if a single text is too "
            "large."
        ) from error
    for prompt, ids in zip(prompts, output[:, width:].tolist(), strict=True):
        # A batch runs until its last text ends or reaches the highest limit; each text has its own limit.
        yield _completion(ids[: prompt.max_new_tokens], stop_ids)


class _Sampler(LogitsProcessor):
    """Samples the tokens of a padded batch, each text with its own seed."""

    def __init__(self, sampling: Sampling, seeds: Sequence[int], width: int) -> None:
        self.sampling = sampling
        self.seeds = seeds
        self.width = width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = input_ids.shape[1] - self.width
        seeds = torch.tensor([seed_of_step(seed, step) for seed in self.seeds], device=scores.device)
        return self.sampling.perturb(scores, seeds)


def _without_settings(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model, with the same weights, without its own generation settings.

    `generate` falls back to these. Beam search conflicts with our own sampling, penalties would distort a text of many
    similar events, and a time limit would cut it off.
    """
    bare = copy.copy(model)
    bare.generation_config = GenerationConfig()
    return bare


def _completion(ids: Sequence[int], stop_ids: Sequence[int]) -> Completion:
    end = next((position for position, token in enumerate(ids) if token in stop_ids), None)
    return Completion(list(ids[:end]), end is not None)
