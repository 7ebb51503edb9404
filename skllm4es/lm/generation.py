"""Text generation with a causal language model, in padded batches: each prompt has its own seed and its own limit."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from skllm4es._compat import cache_of
from skllm4es.lm.architecture import FAILURES, FORWARD, found_once
from skllm4es.lm.attention import fast_decoding
from skllm4es.lm.loading import quietly
from skllm4es.lm.sampling import Sampling, seed_of_step
from skllm4es.lm.seeding import PROCESS_STATE

#: Which prompts may share a batch without a difference to any of them.
Sharing = Literal["all", "same length", "none"]


class Batching(NamedTuple):
    """Which prompts of a model may share a batch, and whether some of its texts can be continued without the others."""

    sharing: Sharing
    resumes: bool


class Prompt(NamedTuple):
    """The tokens of a prompt, the maximum number of tokens to generate, and the seed."""

    ids: list[int]
    max_new_tokens: int
    seed: int
    #: How many of the first tokens other prompts may have, too, so that it is worth while to read these once.
    n_shared: int = 0


class Completion(NamedTuple):
    """The generated tokens, without the one that ends the text, and whether the text ended within the limit."""

    ids: list[int]
    finished: bool


def generate(
    model: PreTrainedModel, prompts: Sequence[Prompt], sampling: Sampling, stop_ids: Sequence[int], batch_tokens: int
) -> Iterator[tuple[int, Completion]]:
    """Complete prompts in padded batches, the longest first; yield the position of each with its completion at once.

    Prompts, padding and completions of a batch have at most `batch_tokens` tokens, unless it is a single prompt. Any of
    the `stop_ids`, of which there must be at least one, ends a text. The model must have its head. Prompts share a
    batch only if that makes no difference to them: some models see the padding, RWKV even the other texts of a batch.
    A text that ends leaves its batch, unless the model cannot continue with the others alone.
    """
    batching = batching_of(model) if len(prompts) > 1 else Batching("none", resumes=False)
    for batch in _batches(prompts, batch_tokens, batching.sharing):
        completions = _generate_batch(model, [prompts[i] for i in batch], sampling, stop_ids, batching.resumes)
        yield from ((batch[row], completion) for row, completion in completions)


@found_once
def batching_of(model: PreTrainedModel) -> Batching:
    """Find out, by trying once, how a model completes prompts together."""
    with PROCESS_STATE, FORWARD:
        return _try_batching(model)


def _try_batching(model: PreTrainedModel) -> Batching:
    n_tokens, n_longer, n_new = 8, 13, 4
    ids = torch.arange(n_tokens + n_longer, device=model.device) % model.config.get_text_config().vocab_size
    tried, other, longer = ids[:n_tokens], ids[1 : n_tokens + 1].flip(0), ids[-n_longer:]
    n_padding = n_longer - n_tokens
    written = [int(token) for token in ids.flip(0)[:n_new]]

    def scores(*prompts: torch.Tensor, n_padding: int = 0, n_together: int = n_new) -> torch.Tensor:
        """Return the scores of the last prompt's next tokens, the last of them without the other prompts."""
        mask = torch.ones_like(torch.stack(prompts))
        mask[-1, :n_padding] = 0
        batch = _Batch(model, torch.stack(prompts), mask)
        found = [batch.proceed(n_together, _Forced(written[:n_together]), with_scores=True)[:, -1]]
        if n_together < n_new:
            batch.keep([len(prompts) - 1])
            found.append(batch.proceed(n_new - n_together, _Forced(written[n_together:]), with_scores=True)[:, -1])
        return torch.cat(found).float()

    alone = scores(tried)
    # Models with a difference differ by about the size of the scores, in whatever precision.
    tolerance = max(1e-4, 16 * torch.finfo(model.dtype).eps) * alone.abs().max()

    def agrees(found: torch.Tensor) -> bool:
        return bool((found - alone).abs().max() <= tolerance)

    if not agrees(scores(other, tried)):
        return Batching("none", resumes=False)
    padded = torch.cat([torch.zeros_like(tried[:n_padding]), tried])
    if not agrees(scores(longer, padded, n_padding=n_padding)):
        return Batching("same length", resumes=False)
    try:
        resumes = agrees(scores(longer, padded, n_padding=n_padding, n_together=n_new // 2))
    except FAILURES:
        resumes = False  # Its cache cannot be passed on, or its rows not selected.
    return Batching("all", resumes)


class _Forced(LogitsProcessor):
    """Makes a model write given tokens, whatever its scores: rounded scores may have several largest ones."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = iter(tokens)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        forced = torch.full_like(scores, float("-inf"))
        forced[:, next(self.tokens)] = 0
        return forced


def _batches(prompts: Sequence[Prompt], batch_tokens: int, sharing: Sharing) -> Iterator[list[int]]:
    """Group prompts of similar length; the longest come first, so that too little memory shows at once.

    Prompts without a shared beginning come last, in batches of their own: one of them would end the sharing of all.
    """
    batch: list[int] = []
    longest_prompt = most_new = 0
    shared = [prompt.n_shared > 0 for prompt in prompts]
    longest_first = sorted(
        range(len(prompts)), key=lambda i: (not shared[i], -len(prompts[i].ids), -prompts[i].max_new_tokens)
    )
    for position in longest_first:
        is_other = bool(batch) and shared[batch[0]] != shared[position]
        shorter = len(prompts[position].ids) < longest_prompt
        longest_prompt = max(longest_prompt, len(prompts[position].ids))
        most_new = max(most_new, prompts[position].max_new_tokens)
        is_full = (len(batch) + 1) * (longest_prompt + most_new) > batch_tokens
        if batch and (is_full or is_other or sharing == "none" or (sharing == "same length" and shorter)):
            yield batch
            batch, longest_prompt, most_new = [], len(prompts[position].ids), prompts[position].max_new_tokens
        batch.append(position)
    if batch:
        yield batch


def _generate_batch(
    model: PreTrainedModel, prompts: Sequence[Prompt], sampling: Sampling, stop_ids: Sequence[int], resumes: bool
) -> Iterator[tuple[int, Completion]]:
    """Complete the prompts of one batch; yield each completion with its row."""
    try:
        batch = _begin(model, prompts, stop_ids, share=resumes and all(prompt.n_shared for prompt in prompts))
    except torch.OutOfMemoryError as error:
        raise _too_large(model, prompts) from error
    width = batch.ids.shape[1]
    rows = list(range(len(prompts)))
    while rows:
        ends = _Ends(width, [prompts[row].max_new_tokens for row in rows], stop_ids, at_first=resumes)
        sampler = _Sampler(sampling, [prompts[row].seed for row in rows], width)
        try:
            batch.proceed(ends.limit(batch.ids), sampler, ends)
        except torch.OutOfMemoryError as error:
            raise _too_large(model, prompts) from error
        ended = ends.ended(batch.ids)
        for row, new_ids, has_ended in zip(rows, batch.ids[:, width:].tolist(), ended, strict=True):
            if has_ended:
                # The tokens after the end are padding.
                yield row, _completion(new_ids[: prompts[row].max_new_tokens], stop_ids)
        kept = [number for number, has_ended in enumerate(ended) if not has_ended]
        rows = [rows[number] for number in kept]
        if rows:
            batch.keep(kept)


def _begin(model: PreTrainedModel, prompts: Sequence[Prompt], stop_ids: Sequence[int], *, share: bool) -> _Batch:
    """Return a batch of prompts; if they `share` their first tokens, with these already read, each of them once."""
    if not share:
        return _Batch(model, *_padded([prompt.ids for prompt in prompts], model, stop_ids[0]), stop_ids)
    starts = [tuple(prompt.ids[: prompt.n_shared]) for prompt in prompts]
    distinct = list(dict.fromkeys(starts))
    batch = _Batch(model, *_padded(distinct, model, stop_ids[0]), stop_ids)
    width = batch.ids.shape[1]
    batch.proceed(1, _Forced([stop_ids[0]]))  # What is written is not read yet, and replaced.
    batch.ids, batch.mask = batch.ids[:, :width], batch.mask[:, :width]
    batch.keep([distinct.index(start) for start in starts])
    batch.append(*_padded([prompt.ids[prompt.n_shared :] for prompt in prompts], model, stop_ids[0]))
    return batch


def _padded(rows: Sequence[Sequence[int]], model: PreTrainedModel, padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of tokens with padding before them, and a mask of what is not padding."""
    width = max(map(len, rows))
    ids = [[padding] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=model.device), torch.tensor(mask, device=model.device)


def _too_large(model: PreTrainedModel, prompts: Sequence[Prompt]) -> MemoryError:
    width, most_new = max(len(prompt.ids) for prompt in prompts), max(prompt.max_new_tokens for prompt in prompts)
    return MemoryError(
        f"{len(prompts)} texts of up to {width} tokens, with answers of up to {most_new} each, do not fit into the "
        f"memory of {model.device}. Make the batches smaller, or the answers if a single text is too large."
    )


class _Batch:
    """Texts that a model writes side by side, step by step."""

    def __init__(
        self, model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, stop_ids: Sequence[int] = ()
    ) -> None:
        self.model = model
        self.ids = ids
        self.mask = mask
        self.stop_ids = list(stop_ids)
        self.cache: dict[str, Any] = {}

    def proceed(
        self,
        n_tokens: int,
        processor: LogitsProcessor,
        criterion: StoppingCriteria | None = None,
        *,
        with_scores: bool = False,
    ) -> torch.Tensor:
        """Write up to `n_tokens` more; return the scores of shape (n_written, n_texts, n_vocabulary) if wanted."""
        config = GenerationConfig(
            max_new_tokens=n_tokens,
            do_sample=False,  # The processor samples, by noise on the scores.
            eos_token_id=self.stop_ids or None,
            pad_token_id=self.stop_ids[0] if self.stop_ids else 0,
            return_dict_in_generate=True,
            output_logits=with_scores,
        )
        with torch.inference_mode(), quietly(), fast_decoding(self.model):
            output = _without_settings(self.model).generate(
                input_ids=self.ids,
                attention_mask=self.mask,
                generation_config=config,
                logits_processor=LogitsProcessorList([processor]),
                stopping_criteria=StoppingCriteriaList([criterion] if criterion else []),
                **self.cache,
            )
        n_written = output.sequences.shape[1] - self.ids.shape[1]
        self.ids = output.sequences
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), n_written)], dim=1)
        self.cache = cache_of(output)
        return torch.stack(output.logits) if with_scores else torch.empty(0)

    def append(self, ids: torch.Tensor, mask: torch.Tensor) -> None:
        """Add tokens to each row."""
        self.ids, self.mask = torch.cat([self.ids, ids], dim=1), torch.cat([self.mask, mask], dim=1)

    def keep(self, rows: list[int]) -> None:
        """Keep these rows, each as often as it is named, and drop all others."""
        kept = torch.tensor(rows, device=self.ids.device)
        self.ids, self.mask = self.ids[kept], self.mask[kept]
        with torch.inference_mode():
            for cache in self.cache.values():
                cache.batch_select_indices(kept)


class _Ends(StoppingCriteria):
    """Ends each text of a batch at its limit or a stop token; `at_first` pauses all when the first one ends."""

    def __init__(self, width: int, limits: Sequence[int], stop_ids: Sequence[int], *, at_first: bool) -> None:
        self.width = width
        self.limits = limits
        self.stop_ids = set(stop_ids)
        self.at_first = at_first

    def limit(self, ids: torch.Tensor) -> int:
        """Return how many more tokens the longest text may have."""
        return self.width + max(self.limits) - ids.shape[1]

    def ended(self, ids: torch.Tensor) -> list[bool]:
        """Return which texts have ended."""
        n_new = ids.shape[1] - self.width
        last = ids[:, -1].tolist()  # After the end of a text follow stop tokens, as padding.
        return [n_new >= limit or token in self.stop_ids for limit, token in zip(self.limits, last, strict=True)]

    def __call__(self, input_ids: torch.Tensor, scores: Any, **more: Any) -> torch.Tensor:
        ended = torch.tensor(self.ended(input_ids), device=input_ids.device)
        return ended.any().expand(len(ended)) if self.at_first else ended


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
