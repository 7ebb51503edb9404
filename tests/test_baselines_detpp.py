"""The objective of DeTPP, against the library that provides its parts."""

import copy
from importlib.util import find_spec

import pytest
import torch

from skllm4es.baselines._encoder import Batch, EventEncoder, Schema

pytestmark = [
    pytest.mark.skipif(find_spec("hotpp") is None, reason="needs hotpp-benchmark: the extra tpp"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]

SCHEMA = Schema(n_categories=(5,), embedding_sizes=(4,), has_missing=(True, True))


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def make_batch(*lengths):
    shape = (len(lengths), max(lengths))
    numbers = torch.randn(*shape, 2)
    numbers[0, 1] = torch.nan
    elapsed = 1e9 + torch.rand(shape, dtype=torch.float64).cumsum(dim=1)
    return Batch(torch.randint(0, 6, (*shape, 1)), numbers, elapsed, torch.tensor(lengths))


def make_objective(share=1.0, horizon=2.0):
    from skllm4es.baselines.objectives.detpp import DeTPP

    encoder = EventEncoder(SCHEMA, "gru", 8, 1)
    return encoder, DeTPP(2, 20, 3, horizon, share, 1, encoder).eval()


@pytest.mark.parametrize("horizon", [0.3, 2.0])
def test_the_loss_is_that_of_the_library(horizon):
    from hotpp.data import PaddedBatch

    encoder, objective = make_objective(horizon=horizon)
    batch = make_batch(9, 12, 5)
    outputs = PaddedBatch(objective.head(encoder(batch)), batch.lengths)
    losses, _ = objective.detection(objective._events(copy.copy(batch)), outputs, None)
    assert objective(encoder, batch).item() == pytest.approx(sum(losses.values()).item(), rel=1e-5)


def test_without_events_in_the_horizon_only_absence_is_learned():
    encoder, objective = make_objective(horizon=1e-6)
    loss = objective(encoder, make_batch(6, 4))
    loss.backward()
    assert loss.isfinite()
    assert objective.head.weight.grad.isfinite().all()


def test_the_batch_is_not_changed():
    encoder, objective = make_objective()
    batch = make_batch(6, 3)
    before = copy.deepcopy(batch)
    objective(encoder, batch)
    assert torch.equal(batch.elapsed, before.elapsed)
    torch.testing.assert_close(batch.numbers, before.numbers, equal_nan=True)


@pytest.mark.parametrize(("share", "n_positions"), [(0.25, 5), (0.5, 10), (1.0, 20)])
def test_the_loss_is_that_of_a_share_of_the_positions(share, n_positions):
    encoder, objective = make_objective(share=share)
    states = []

    def keep(_, __, output):
        output.retain_grad()
        states.append(output)

    encoder.register_forward_hook(keep)
    objective(encoder, make_batch(20, 20)).backward()
    assert states[0].grad.any(dim=2).sum(dim=1).tolist() == [n_positions, n_positions]


def test_the_loss_does_not_depend_on_padding():
    encoder, objective = make_objective(share=0.5)
    batch = make_batch(9, 4, 6)
    other = Batch(batch.codes.clone(), batch.numbers.clone(), batch.elapsed.clone(), batch.lengths)
    other.codes[~batch.mask], other.numbers[~batch.mask], other.elapsed[~batch.mask] = 1, 7.0, 0.0
    losses = []
    for padded in (batch, other):
        torch.manual_seed(1)
        losses.append(objective(encoder, padded).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
