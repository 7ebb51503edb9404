"""Writing with a causal language model: many prompts at once, each with its own seed and its own limit.

Padded batches run everywhere. Continuous batching, where a text that is finished makes room for the next at once, is
what transformers offers for GPUs; it runs on a CPU too, but slowly.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from skllm4es.lm.loading import quietly
from skllm4es.lm.sampling import Sampling, seed_of_step

#: Tokens of a padded batch, where no number is given.
_BATCH_TOKENS = 16_384
#: Tokens of a page of continuous batching, as transformers has it.
_PAGE = 256


class Job(NamedTuple):
    """One text to write.

    Parameters
    ----------
    ids : list of int
        The tokens of the prompt.
    max_new_tokens : int
        The most tokens to write.
    seed : int
        What the draws hang on.
    """

    ids: list[int]
    max_new_tokens: int
    seed: int


class Written(NamedTuple):
    """What was written.

    Parameters
    ----------
    ids : list of int
        The tokens, without the one that ends the text.
    finished : bool
        Whether the text came to its end within the limit.
    """

    ids: list[int]
    finished: bool


def write_in_batches(
    model: PreTrainedModel, jobs: Sequence[Job], sampling: Sampling, ends: Sequence[int], batch_tokens: int | None
) -> Iterator[tuple[int, Written]]:
    """Write texts in padded batches, the longest first.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model, with its head.
    jobs : sequence of Job
        What to write.
    sampling : Sampling
        How tokens are drawn.
    ends : sequence of int
        The tokens that end a text, at least one.
    batch_tokens : int or None
        The most tokens of a batch, prompts, padding and answers together; 16,384 by default. One text may have more.

    Yields
    ------
    (int, Written)
        The position of a job, and what was written.
    """
    for batch in _batches(jobs, batch_tokens or _BATCH_TOKENS):
        yield from zip(batch, _write(model, [jobs[i] for i in batch], sampling, ends), strict=True)


def write_continuously(
    model: PreTrainedModel, jobs: Sequence[Job], sampling: Sampling, ends: Sequence[int], batch_tokens: int | None
) -> Iterator[tuple[int, Written]]:
    """Write texts by the continuous batching of transformers.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model, with its head.
    jobs : sequence of Job
        What to write.
    sampling : Sampling
        How tokens are drawn.
    ends : sequence of int
        The tokens that end a text, at least one.
    batch_tokens : int or None
        The tokens for which there is room at once; by default as many as the device holds.

    Yields
    ------
    (int, Written)
        The position of a job, and what was written.
    """
    with _manager(model, jobs, sampling, ends, batch_tokens) as manager:
        for position, job in enumerate(jobs):
            manager.add_request(
                job.ids, str(position), max_new_tokens=job.max_new_tokens, eos_token_id=list(ends), seed=job.seed
            )
        n_left = len(jobs)
        while n_left:
            result = manager.get_result(timeout=1)
            if result is None:
                if not manager.is_running() or manager.background_thread_status.fatal_error is not None:
                    reason = manager.background_thread_status.fatal_error or "its thread ended"
                    raise _failure(reason) from None
                continue
            if not result.is_finished():
                continue
            if result.error is not None:
                raise _failure(result.error)
            n_left -= 1
            yield int(result.request_id), _until_end(result.generated_tokens, ends)


def _batches(jobs: Sequence[Job], batch_tokens: int) -> Iterator[list[int]]:
    """Gather jobs of like length; the longest come first, so that too little memory shows at once."""
    batch: list[int] = []
    longest_prompt = most_new = 0
    for position in sorted(range(len(jobs)), key=lambda i: (-len(jobs[i].ids), -jobs[i].max_new_tokens)):
        longest_prompt = max(longest_prompt, len(jobs[position].ids))
        most_new = max(most_new, jobs[position].max_new_tokens)
        if batch and (len(batch) + 1) * (longest_prompt + most_new) > batch_tokens:
            yield batch
            batch, longest_prompt, most_new = [], len(jobs[position].ids), jobs[position].max_new_tokens
        batch.append(position)
    if batch:
        yield batch


def _write(model: PreTrainedModel, jobs: Sequence[Job], sampling: Sampling, ends: Sequence[int]) -> Iterator[Written]:
    width = max(len(job.ids) for job in jobs)
    ids = torch.tensor([[ends[0]] * (width - len(job.ids)) + job.ids for job in jobs], device=model.device)
    mask = torch.tensor([[0] * (width - len(job.ids)) + [1] * len(job.ids) for job in jobs], device=model.device)
    config = _generation_config(ends, max(job.max_new_tokens for job in jobs))
    processor = _Draw(sampling, [job.seed for job in jobs], width)
    try:
        with torch.inference_mode(), quietly():
            output = _without_settings(model).generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=config,
                logits_processor=LogitsProcessorList([processor]),
            )
    except torch.OutOfMemoryError as error:
        raise MemoryError(
            f"{len(jobs)} texts of up to {width} tokens, and as many answers of up to {config.max_new_tokens}, do not "
            f"fit into the memory of {model.device}. Lower batch_tokens, or max_new_tokens if one text is too many."
        ) from error
    for job, written in zip(jobs, output[:, width:].tolist(), strict=True):
        # A batch runs until its last text ends or reaches the highest limit; each text has its own.
        yield _until_end(written[: job.max_new_tokens], ends)


class _Draw(LogitsProcessor):
    """Draws the tokens of a padded batch."""

    def __init__(self, sampling: Sampling, seeds: Sequence[int], width: int) -> None:
        self.sampling = sampling
        self.seeds = seeds
        self.width = width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = input_ids.shape[1] - self.width
        seeds = torch.tensor([seed_of_step(seed, step) for seed in self.seeds], device=scores.device)
        return self.sampling.choose(scores, seeds)


@contextmanager
def _manager(
    model: PreTrainedModel, jobs: Sequence[Job], sampling: Sampling, ends: Sequence[int], batch_tokens: int | None
) -> Iterator[Any]:
    """Start the continuous batching of transformers, and stop it whatever happens."""
    try:
        from transformers import ContinuousBatchingConfig
        from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessor
    except ImportError as error:
        raise ImportError(
            "This version of transformers has no continuous batching with a seed for each text. Update it "
            "(pip install -U transformers), or set batching='padded'."
        ) from error

    class Draw(_DrawContinuously, ContinuousBatchingLogitsProcessor):
        """The same, known to transformers as one that takes an argument of each text."""

    longest = max(len(job.ids) + job.max_new_tokens for job in jobs)
    room = {} if batch_tokens is None else {"num_blocks": math.ceil(max(batch_tokens, longest + _PAGE) / _PAGE)}
    config = ContinuousBatchingConfig(
        page_size=_PAGE,
        # Another attention would have to be downloaded, and would change the texts.
        auto_switch_to_flash=False,
        **room,
    )
    with quietly():
        manager = model.init_continuous_batching(
            generation_config=_generation_config(ends, max(job.max_new_tokens for job in jobs)),
            continuous_batching_config=config,
        )
    processors = manager.logit_processor
    processors.logits_processor.append(Draw(sampling))
    processors.tensors_required += 1
    processors.do_processing = True
    processors.supported_keys = {**processors.supported_keys, **Draw.supported_kwargs}
    with torch.inference_mode():
        manager.start()
    try:
        yield manager
    finally:
        manager.stop(block=True, timeout=60, hard_stop=True)
        manager.destroy()


class _DrawContinuously:
    """Draws the tokens of texts that come and go: the seed of each step travels as 32 bits beside its text."""

    supported_kwargs = {"seed": int}
    ignored_kwargs = ()

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self.n_drawn: Counter[str] = Counter()

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: Sequence[Any]) -> torch.Tensor:
        seeds = []
        for request in requests_with_new_token:
            name = request.state.request_id
            seeds.append(seed_of_step(request.state.logit_processor_kwargs.get("seed", 0), self.n_drawn[name]))
            self.n_drawn[name] += 1
        return torch.tensor(seeds, dtype=torch.int64).to(torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        return self.sampling.choose(scores, tensor_arg[: scores.shape[0]].long() & 0xFFFFFFFF)


def _without_settings(model: PreTrainedModel) -> PreTrainedModel:
    """Give the model, with the same weights, without the settings of generation that it came with.

    `generate` fills what a call leaves open from them. Beams do not go with draws of our own, penalties would let a
    text of many like events come out wrong, and a limit of time would cut it.
    """
    bare = copy.copy(model)
    bare.generation_config = GenerationConfig()
    return bare


def _generation_config(ends: Sequence[int], max_new_tokens: int) -> GenerationConfig:
    # The draws are made by the processors above, so that for transformers the most likely token is taken.
    return GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=list(ends), pad_token_id=ends[0]
    )


def _until_end(ids: Sequence[int], ends: Sequence[int]) -> Written:
    end = next((position for position, token in enumerate(ids) if token in ends), None)
    return Written(list(ids[:end]), end is not None)


def _failure(reason: object) -> RuntimeError:
    return RuntimeError(
        f"The continuous batching of transformers failed: {reason}. Lower batch_tokens if memory is short, or set "
        "batching='padded'."
    )
