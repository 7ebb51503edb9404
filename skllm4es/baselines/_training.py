"""The loop that trains the encoder of every neural baseline."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm

from skllm4es.baselines._encoder import EventEncoder
from skllm4es.baselines._features import Integers
from skllm4es.baselines._sequences import SequenceData, Slices
from skllm4es.baselines.objectives._base import Objective

#: The norm to which the gradient of a step is clipped.
MAX_GRADIENT = 1.0

#: Number of batches among which slices are sorted by length, so that those of a batch are about equally long.
SORTED_BATCHES = 8


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train: parameters of the estimators."""

    epochs: int
    batch_size: int
    learning_rate: float
    lr_step: int
    lr_decay: float
    validation_fraction: float | None
    n_iter_no_change: int


def train(
    encoder: EventEncoder,
    objective: Objective,
    data: SequenceData,
    schedule: Schedule,
    rng: np.random.Generator,
    *,
    progress: bool,
) -> tuple[list[float], list[float]]:
    """Train an encoder and its objective in place: Adam, a learning rate that falls in steps, clipped gradients.

    With a validation fraction, the encoder ends with the weights of its best epoch. `rng` draws users and slices;
    torch's global state draws the rest.

    Returns
    -------
    losses, validation_losses : list of float
        The mean loss of each epoch on the training users, and on the users held out, if there are any.

    Raises
    ------
    ValueError
        If too few users have enough events, or the loss is not finite.
    """
    training, held_out = _split(data.users, objective, schedule.validation_fraction, rng)
    validation_seed = int(rng.integers(2**32))
    parameters = [*encoder.parameters(), *objective.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=schedule.learning_rate)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, schedule.lr_step, schedule.lr_decay)
    losses: list[float] = []
    validation: list[float] = []
    best = None
    with tqdm(total=schedule.epochs, desc="training", disable=not progress, unit="epoch", leave=None) as bar:
        for _ in range(schedule.epochs):
            losses.append(_run_epoch(encoder, objective, data, training, schedule, rng, optimizer))
            scheduler.step()
            if len(held_out):
                validation.append(_validate(encoder, objective, data, held_out, schedule, validation_seed))
                if validation[-1] == min(validation):
                    best = deepcopy(encoder.state_dict())
            bar.update()
            bar.set_postfix({"loss": losses[-1], "validation": validation[-1]} if validation else {"loss": losses[-1]})
            if len(validation) - 1 - int(np.argmin(validation or [0])) >= schedule.n_iter_no_change:
                break
    if best is not None:
        encoder.load_state_dict(best)
    return losses, validation


def _split(
    users: Slices, objective: Objective, fraction: float | None, rng: np.random.Generator
) -> tuple[Slices, Slices]:
    """Return the users to train on, and those held out."""
    useful = rng.permutation(np.flatnonzero(users.lengths[:, 0] >= objective.min_events))
    least = 2 if objective.contrasts_users else 1
    n_held_out = 0 if fraction is None else max(least, round(fraction * len(useful)))
    if len(useful) - n_held_out < least:
        besides = f" besides the {n_held_out} held out: fit on more users, or leave validation_fraction=None."
        raise ValueError(
            f"{len(useful)} of {len(users)} users have {objective.min_events} events or more. Training needs at least "
            f"{least}{': fit on more users.' if fraction is None else besides}"
        )
    return users[np.sort(useful[n_held_out:])], users[np.sort(useful[:n_held_out])]


def _run_epoch(
    encoder: EventEncoder,
    objective: Objective,
    data: SequenceData,
    users: Slices,
    schedule: Schedule,
    rng: np.random.Generator,
    optimizer: torch.optim.Optimizer,
) -> float:
    encoder.train()
    objective.train()
    parameters = [weights for group in optimizer.param_groups for weights in group["params"]]
    total = torch.zeros((), device=data.codes.device)
    batches = list(draw_batches(objective, users, schedule.batch_size, rng))
    for slices in batches:
        loss = objective(encoder, data.batch(slices))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT)
        optimizer.step()
        total += loss.detach()
    return _finite(float(total) / len(batches), schedule)


def _validate(
    encoder: EventEncoder, objective: Objective, data: SequenceData, users: Slices, schedule: Schedule, seed: int
) -> float:
    """Return the loss on users held out, with the same draws each time."""
    encoder.eval()
    objective.eval()
    devices = [data.codes.device] if data.codes.device.type == "cuda" else []
    with torch.inference_mode(), torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        losses = [
            objective(encoder, data.batch(slices))
            for slices in draw_batches(objective, users, schedule.batch_size, rng)
        ]
        return _finite(float(torch.stack(losses).mean()), schedule)


def draw_batches(objective: Objective, users: Slices, batch_size: int, rng: np.random.Generator) -> Iterator[Slices]:
    """Draw slices of all users, in batches with nearly equal numbers of users."""
    slices = objective.draw(users, rng)
    order = rng.permutation(len(users))
    # At least two users per batch, since some objectives contrast them; so it may hold one more than batch_size.
    n_batches = min(-(-len(users) // batch_size), max(1, len(users) // 2))
    if not objective.contrasts_users:
        order = _sort_within(order, slices.lengths[:, 0], SORTED_BATCHES * batch_size)
    batches = np.array_split(order, n_batches)
    for batch in rng.permutation(n_batches):
        yield slices[batches[batch]]


def _sort_within(order: Integers, lengths: Integers, size: int) -> Integers:
    """Sort each part of `size` users by length."""
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    return np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in parts])


def _finite(loss: float, schedule: Schedule) -> float:
    if not np.isfinite(loss):
        raise ValueError(
            f"The loss became {loss} during training. Lower learning_rate (it was {schedule.learning_rate:g})."
        )
    return loss
