"""Token sampling that depends on nothing but a text's own seed.

A token is sampled by adding Gumbel noise to the log-probabilities and taking the largest sum. The noise is a hash of
seed, step and token, so a text gets the same noise on any device and in any batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

_MASK = 0xFFFFFFFF
#: Multiplier of the hash, and the distance between the seeds of two steps: odd, and small enough for 64-bit products.
_MULTIPLIER = 0x45D9F3B
_STEP = 0x9E3779B1
#: Among how many tokens the most likely ones are looked for first.
_N_LIKELY = 64


@dataclass(frozen=True)
class Sampling:
    """How to sample a token from a model's scores.

    A temperature of 0 takes the most likely token. Otherwise tokens are sampled from the most likely ones that together
    have the probability `top_p`.
    """

    temperature: float
    top_p: float

    def perturb(self, scores: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
        """Add noise to scores of shape (n_texts, n_tokens), so that the largest belongs to the sampled token.

        `seeds` has one int64 per text, from `seed_of_step`.
        """
        if self.temperature == 0:
            return scores
        scores = scores.float() / self.temperature
        if self.top_p == 1:
            tokens = torch.arange(scores.shape[1], device=scores.device)
            return scores + gumbel_noise(seeds, tokens[None])
        likely, tokens = _most_likely(scores, self.top_p)
        noisy = likely + gumbel_noise(seeds, tokens)
        return torch.full_like(scores, float("-inf")).scatter(1, tokens, noisy)


def _most_likely(scores: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scores and numbers of the fewest tokens of each text that together have the probability `top_p`.

    The likeliest come first; the score of a token that is not needed is minus infinity. Sorting the whole vocabulary at
    each token would take as long as the model: of 49,152 tokens, a few have nearly all of the probability.
    """
    n_tokens = _N_LIKELY
    total = scores.logsumexp(1, keepdim=True)
    while True:
        likely, tokens = scores.topk(min(n_tokens, scores.shape[1]), dim=1)
        probabilities = (likely - total).exp()
        before = probabilities.cumsum(1) - probabilities
        if n_tokens >= scores.shape[1] or bool((before[:, -1] >= top_p).all()):
            needed = before < top_p
            needed[:, 0] = True
            return likely.masked_fill(~needed, float("-inf")), tokens
        n_tokens *= 8


def seed_of_step(seed: int, step: int) -> int:
    """Return the seed of one token of a text, of 32 bits; `step` is the number of tokens before it."""
    return (seed + step * _STEP) & _MASK


def gumbel_noise(seeds: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return independent Gumbel noise for tokens of shape (n_texts or 1, n_tokens), from int64 seeds of 32 bits.

    It is float32 of shape (n_texts, n_tokens). A token has the same noise whatever other tokens are there.
    """
    hashed = _hash(_hash(seeds)[:, None] ^ _hash(tokens + 1))
    # 23 bits plus a half: float32 holds these exactly, and neither 0 nor 1 is among them.
    uniform = ((hashed >> 9).float() + 0.5) * 2.0**-23
    return -torch.log(-torch.log(uniform))


def _hash(numbers: torch.Tensor) -> torch.Tensor:
    for _ in range(2):
        numbers = (((numbers >> 16) ^ numbers) * _MULTIPLIER) & _MASK
    return (numbers >> 16) ^ numbers
