"""The objectives of the neural baselines, against their formulas, and the encoder that they train."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from skllm4es.baselines._encoder import N_HEADS, Batch, CausalTransformer, EventEncoder, Schema, pool
from skllm4es.baselines._sequences import SequenceData, Slices
from skllm4es.baselines._training import draw_batches
from skllm4es.baselines.objectives._base import draw_slices
from skllm4es.baselines.objectives._events import EventPredictor
from skllm4es.baselines.objectives.coles import CoLES, contrastive_loss
from skllm4es.baselines.objectives.cpc import CPC, draw_events, step_loss
from skllm4es.baselines.objectives.iftpp import IFTPP
from skllm4es.baselines.objectives.latte import LATTE, alignment_loss
from skllm4es.baselines.objectives.nppr import NPPR
from skllm4es.baselines.objectives.nsp import NSP, other_users, split_slices
from skllm4es.baselines.objectives.rtd import RTD, replace_events

SCHEMA = Schema(n_categories=(5, 3), embedding_sizes=(4, 3), has_missing=(False, True))
KINDS = ["gru", "lstm", "transformer"]


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def make_batch(*lengths):
    """A batch of random events; unknown categories, missing numbers and equal times among them."""
    shape = (len(lengths), max(lengths))
    codes = torch.stack([torch.randint(0, n + 1, shape) for n in SCHEMA.n_categories], dim=2)
    numbers = torch.randn(*shape, 2)
    numbers[:, :, 1][torch.rand(shape) < 0.3] = torch.nan
    elapsed = torch.randint(0, 3, shape).double().cumsum(dim=1)
    return Batch(codes, numbers, elapsed, torch.tensor(lengths), torch.arange(len(lengths)).flip(0))


def make_encoder(kind="gru"):
    return EventEncoder(SCHEMA, kind, 8, 2).eval()


def cut(batch, sequence, length):
    """The first events of one sequence, as a batch without padding."""
    fields = (batch.codes, batch.numbers, batch.elapsed)
    return Batch(*(field[sequence : sequence + 1, :length] for field in fields), torch.tensor([length]))


# Encoder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_padding_does_not_influence_an_embedding(kind, pooling):
    encoder, batch = make_encoder(kind), make_batch(3, 9, 1)
    together = encoder.embed(batch, pooling)
    alone = torch.cat([encoder.embed(cut(batch, i, n), pooling) for i, n in enumerate(batch.lengths.tolist())])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_does_not_depend_on_later_events(kind):
    encoder, batch = make_encoder(kind), make_batch(9)
    torch.testing.assert_close(encoder(batch)[:, :4], encoder(cut(batch, 0, 4)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_depends_on_the_order_of_events(kind):
    encoder, batch = make_encoder(kind), make_batch(6)
    backwards = Batch(batch.codes.flip(1), batch.numbers.flip(1), batch.elapsed, batch.lengths)
    assert not torch.allclose(encoder(batch)[:, -1], encoder(backwards)[:, -1])


def test_the_transformer_is_that_of_torch():
    ours = CausalTransformer(5, 8, 1).eval()
    theirs = nn.TransformerEncoderLayer(8, N_HEADS, 32, activation="gelu", batch_first=True, norm_first=True).eval()
    layer = ours.layers[0]
    pairs = {
        theirs.norm1: layer.attention_norm,
        theirs.norm2: layer.network_norm,
        theirs.self_attn.out_proj: layer.merge,
        theirs.linear1: layer.network[0],
        theirs.linear2: layer.network[3],
    }
    for module, source in pairs.items():
        module.load_state_dict(source.state_dict())
    theirs.self_attn.in_proj_weight.data, theirs.self_attn.in_proj_bias.data = layer.attend.weight, layer.attend.bias
    hidden = torch.randn(3, 7, 8)
    mask = nn.Transformer.generate_square_subsequent_mask(7)
    torch.testing.assert_close(layer(hidden), theirs(hidden, mask, is_causal=True), rtol=1e-4, atol=1e-5)


def test_an_unknown_category_is_a_vector_of_zeros_that_is_not_trained():
    encoder, batch = make_encoder(), make_batch(5, 5)
    encoder.embed(batch, "mean").sum().backward()
    for embedding in encoder.embeddings:
        assert not embedding.weight[0].any()
        assert not embedding.weight.grad[0].any()


def test_a_missing_number_is_the_mean_with_a_mark():
    encoder, batch = make_encoder(), make_batch(1)
    batch.numbers[0, 0] = torch.tensor([1.5, torch.nan])
    assert encoder.embed_events(batch)[0, 0, -3:].tolist() == [1.5, 0.0, 1.0]


def test_pooling_by_hand():
    states = torch.tensor([[[1.0], [3.0], [99.0]], [[2.0], [4.0], [9.0]]])
    batch = Batch(torch.zeros(2, 3, 0), torch.zeros(2, 3, 0), torch.zeros(2, 3), torch.tensor([2, 3]))
    assert pool(states, batch, "mean").tolist() == [[2.0], [5.0]]
    assert pool(states, batch, "last").tolist() == [[3.0], [9.0]]


# Slices and batches


lengths_of_users = st.lists(st.integers(1, 50), min_size=1, max_size=20)


def make_users(lengths):
    lengths = np.array(lengths)[:, None]
    return Slices(np.cumsum(lengths, axis=0) - lengths, lengths)


@given(lengths_of_users, st.integers(1, 9), st.integers(9, 30), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_slices_lie_in_their_histories_and_have_lengths_within_bounds(lengths, low, high, n_slices, seed):
    users = make_users(lengths)
    slices = draw_slices(users, n_slices, low, high, np.random.default_rng(seed))
    assert slices.starts.shape == slices.lengths.shape == (len(lengths), n_slices)
    assert (slices.starts >= users.starts).all()
    assert (slices.starts + slices.lengths <= users.starts + users.lengths).all()
    assert (slices.lengths >= np.minimum(low, users.lengths)).all()
    assert (slices.lengths <= np.minimum(high, users.lengths)).all()


def test_all_lengths_and_places_of_slices_occur():
    users = make_users([6])
    slices = draw_slices(users, 500, 2, 4, np.random.default_rng(0))
    assert set(zip(slices.starts[0].tolist(), slices.lengths[0].tolist(), strict=True)) == {
        (start, length) for length in (2, 3, 4) for start in range(7 - length)
    }


@pytest.mark.parametrize("objective", [IFTPP(2, 30, make_encoder()), CoLES(2, 2, 30, 0.5, 2, "last")])
@pytest.mark.parametrize(("n_users", "batch_size"), [(2, 8), (9, 8), (17, 8), (5, 2), (7, 3)])
def test_an_epoch_has_each_user_once_in_batches_of_at_least_two(objective, n_users, batch_size):
    users = make_users(np.arange(2, 2 + n_users))
    batches = list(draw_batches(objective, users, batch_size, np.random.default_rng(0)))
    assert all(2 <= len(batch) <= max(3, batch_size) for batch in batches)
    firsts = np.concatenate([batch.starts[:, 0] for batch in batches])
    assert sorted(np.searchsorted(users.starts[:, 0], firsts, side="right").tolist()) == list(range(1, n_users + 1))


def test_batches_have_similar_lengths_unless_users_are_contrasted():
    users = make_users(np.tile([2, 40], 32))

    def mixed(objective):
        batches = draw_batches(objective, users, 8, np.random.default_rng(0))
        return np.mean([len(set((batch.lengths[:, 0] > 2).tolist())) - 1 for batch in batches])

    assert mixed(IFTPP(2, 50, make_encoder())) <= 1 / 8
    assert mixed(CoLES(2, 40, 50, 0.5, 2, "last")) > 0.5


def test_a_batch_is_cut_out_of_the_events():
    data = SequenceData(
        codes=torch.arange(6)[:, None],
        numbers=torch.arange(6.0)[:, None],
        elapsed=torch.arange(6.0).double(),
        users=make_users([2, 4]),
    )
    batch = data.batch(Slices(np.array([[0], [3]]), np.array([[2], [3]])))
    assert batch.codes[:, :, 0].tolist() == [[0, 1, 1], [3, 4, 5]]
    assert batch.users.tolist() == [0, 1]
    assert batch.mask.tolist() == [[True, True, False], [True, True, True]]


def test_events_cut_out_belong_to_the_users_who_have_them():
    lengths = [0, 2, 0, 0, 3, 0]
    data = SequenceData(torch.zeros(5, 0), torch.zeros(5, 0), torch.zeros(5), make_users(lengths))
    everyone = data.users[np.array([4, 1])]
    assert data.batch(everyone).users.tolist() == [4, 1]


OBJECTIVES = {
    "coles": lambda encoder: CoLES(2, 2, 9, 0.5, 2, "mean"),
    "cpc": lambda encoder: CPC(2, 9, 2, 3, encoder),
    "rtd": lambda encoder: RTD(2, 9, 0.5, encoder),
    "nsp": lambda encoder: NSP(1, 2, 9, 8, 0.5, "mean", encoder),
    "nppr": lambda encoder: NPPR(2, 9, 0.5, 3, 2.0, encoder),
    "iftpp": lambda encoder: IFTPP(2, 9, encoder),
    "latte": lambda encoder: LATTE(2, 9, 0.1, "mean", torch.randn(4, 6), encoder),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_does_not_depend_on_padding(name, kind):
    encoder, batch = make_encoder(kind), make_batch(3, 8, 5, 2)
    other = Batch(*(field.clone() for field in (batch.codes, batch.numbers, batch.elapsed)), batch.lengths, batch.users)
    for field, padding in {other.codes: 1, other.numbers: 7.0, other.elapsed: 99.0}.items():
        field[~batch.mask] = padding
    objective = OBJECTIVES[name](encoder)
    losses = []
    for padded in (batch, other):
        torch.manual_seed(1)
        losses.append(objective(encoder, padded).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# CoLES


def test_contrastive_loss_by_hand():
    embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [-1.0, 0.0]])
    # Pairs of one user: 0.16 + 0.64 and 3.24 + 0.36. Nearest of others: 0.632, 0.283, 0.283 and far away.
    expected = (0.8 + 3.6 + 2 * (0.5 - math.sqrt(0.08)) ** 2) / (2 + 4)
    loss = contrastive_loss(embeddings, torch.tensor([0, 0, 1, 1]), margin=0.5, n_negatives=1)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("n_negatives", [1, 3, 50])
def test_contrastive_loss_is_the_formula(n_negatives):
    users = torch.arange(5).repeat_interleave(3)
    embeddings = nn.functional.normalize(torch.randn(15, 4), dim=1)
    distance = [[(a - b).norm().item() for b in embeddings] for a in embeddings]
    positives = [distance[i][j] ** 2 for i in range(15) for j in range(i) if users[i] == users[j]]
    negatives = []
    for i in range(15):
        nearest = sorted(distance[i][j] for j in range(15) if users[i] != users[j])[:n_negatives]
        negatives += [max(0, 1.2 - d) ** 2 for d in nearest]
    expected = (sum(positives) + sum(negatives)) / (len(positives) + len(negatives))
    assert contrastive_loss(embeddings, users, 1.2, n_negatives).item() == pytest.approx(expected, rel=1e-4)


def test_equal_slices_have_a_finite_gradient():
    embeddings = torch.ones(4, 2, requires_grad=True)
    contrastive_loss(embeddings, torch.tensor([0, 0, 1, 1]), 0.5, 2).backward()
    assert embeddings.grad.isfinite().all()


def test_coles_compares_the_slices_of_users_side_by_side():
    encoder, batch = make_encoder(), make_batch(4, 6, 5, 3, 2, 6)
    objective = CoLES(3, 2, 6, 0.5, 2, "mean")
    embeddings = nn.functional.normalize(encoder.embed(batch, "mean"), dim=1)
    expected = contrastive_loss(embeddings, torch.tensor([0, 0, 0, 1, 1, 1]), 0.5, 2)
    torch.testing.assert_close(objective(encoder, batch), expected)


# LATTE


def test_alignment_loss_is_the_formula():
    slices, texts = (nn.functional.normalize(torch.randn(5, 4), dim=1) for _ in range(2))

    def loss(anchors, others):
        products = [[math.exp(float(a @ b) / 0.2) for b in others] for a in anchors]
        return np.mean([-math.log(row[i] / sum(row)) for i, row in enumerate(products)])

    expected = (loss(slices, texts) + loss(texts, slices)) / 2
    assert alignment_loss(slices, texts, 0.2).item() == pytest.approx(expected, rel=1e-4)


def test_users_with_the_same_description_are_not_contrasted():
    slices, texts = (nn.functional.normalize(torch.randn(3, 4), dim=1) for _ in range(2))
    texts[2] = texts[0]
    pairs = [alignment_loss(slices[[i, 1]], texts[[i, 1]], 0.2) for i in (0, 2)]
    assert alignment_loss(slices[[0, 2]], texts[[0, 2]], 0.2) == 0
    assert alignment_loss(slices, texts, 0.2) < sum(pairs)


def test_a_slice_is_compared_with_the_description_of_its_user():
    encoder, batch, texts = make_encoder(), make_batch(4, 6, 5), torch.randn(3, 7)
    objective = LATTE(2, 6, 0.5, "mean", texts, encoder)
    slices = nn.functional.normalize(objective.head(encoder.embed(batch, "mean")), dim=1)
    expected = alignment_loss(slices, nn.functional.normalize(texts, dim=1).flip(0), 0.5)
    torch.testing.assert_close(objective(encoder, batch), expected)


# CPC


def test_step_loss_is_the_negative_logarithm_of_a_softmax():
    predicted, actual, negatives = torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    losses = step_loss(predicted, actual, negatives)
    for i in range(2):
        for t in range(3):
            others = sum(math.exp(predicted[i, t] @ z) for z in negatives[i])
            positive = math.exp(predicted[i, t] @ actual[i, t])
            assert losses[i, t].item() == pytest.approx(-math.log(positive / (positive + others)), rel=1e-4)


def test_the_loss_of_uninformed_predictors_is_the_logarithm_of_the_number_of_candidates():
    encoder = make_encoder()
    objective = CPC(2, 9, 3, 7, encoder)
    for weights in objective.parameters():
        nn.init.zeros_(weights)
    assert objective(encoder, make_batch(9, 2, 5)).item() == pytest.approx(math.log(8), rel=1e-5)


def test_steps_beyond_the_longest_slice_are_left_out():
    encoder = make_encoder()
    assert CPC(2, 9, 6, 3, encoder)(encoder, make_batch(2, 3)).isfinite()


def test_drawn_events_are_never_padding_and_all_others_occur():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert set(draw_events(mask, 200).tolist()) == {0, 1, 3}


# RTD


def test_replaced_events_are_neither_first_nor_padding_and_come_from_the_batch():
    batch = make_batch(30, 50, 7)
    corrupted, replaced = replace_events(batch, 0.5)
    assert not replaced[:, 0].any()
    assert not replaced[~batch.mask].any()
    assert 0.35 < replaced[batch.mask].float().mean() < 0.6
    unchanged = ~replaced
    assert torch.equal(corrupted.codes[unchanged], batch.codes[unchanged])
    known = {tuple(row) for row in batch.codes[batch.mask].tolist()}
    assert {tuple(row) for row in corrupted.codes[replaced].tolist()} <= known
    both = torch.cat([corrupted.codes.float(), corrupted.numbers.nan_to_num(9.0)], dim=2)[replaced]
    whole = torch.cat([batch.codes.float(), batch.numbers.nan_to_num(9.0)], dim=2)[batch.mask]
    assert (both[:, None] == whole).all(dim=2).any(dim=1).all(), "codes and numbers are of one event"


def test_the_batch_itself_is_not_corrupted():
    batch = make_batch(30)
    codes = batch.codes.clone()
    replace_events(batch, 0.5)
    assert torch.equal(batch.codes, codes)


def test_the_loss_of_an_uninformed_head_is_the_logarithm_of_two():
    encoder = make_encoder()
    objective = RTD(2, 9, 0.15, encoder)
    nn.init.zeros_(objective.head.weight)
    nn.init.zeros_(objective.head.bias)
    assert objective(encoder, make_batch(9, 4)).item() == pytest.approx(math.log(2), rel=1e-5)


# NSP


@given(lengths_of_users, st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_the_two_parts_of_a_slice_are_next_to_each_other_and_whole(lengths, n_slices, seed):
    rng = np.random.default_rng(seed)
    slices = draw_slices(make_users([length + 1 for length in lengths]), n_slices, 2, 20, rng)
    parts = split_slices(slices, rng)
    first, second = parts.lengths[:, 0::2], parts.lengths[:, 1::2]
    np.testing.assert_array_equal(parts.starts[:, 0::2], slices.starts)
    np.testing.assert_array_equal(parts.starts[:, 1::2], slices.starts + first)
    np.testing.assert_array_equal(first + second, slices.lengths)
    assert (first >= np.maximum(slices.lengths // 4, 1)).all()
    assert (second >= 1).all()


@pytest.mark.parametrize(("n_users", "n_slices"), [(2, 1), (2, 5), (7, 3)])
def test_the_other_slice_is_always_another_users(n_users, n_slices):
    for _ in range(20):
        others = other_users(n_users * n_slices, n_slices, torch.device("cpu"))
        assert sorted(others.tolist()) == list(range(n_users * n_slices))
        assert (others // n_slices != torch.arange(n_users * n_slices) // n_slices).all()


def test_nsp_separates_pairs_that_follow_from_pairs_of_two_users():
    encoder, batch = make_encoder(), make_batch(4, 6, 5, 3)
    objective = NSP(1, 2, 9, 8, 0.0, "last", encoder)
    parts = encoder.embed(batch, "last")
    pairs = torch.stack([parts[[0, 1]].ravel(), parts[[2, 3]].ravel(), parts[[0, 3]].ravel(), parts[[2, 1]].ravel()])
    scores = torch.sigmoid(objective.head(pairs)[:, 0])
    expected = -(scores[:2].log().sum() + (1 - scores[2:]).log().sum()) / 4
    torch.testing.assert_close(objective(encoder, batch), expected)


# Events


def loss_of_event(predictor, state, codes, numbers):
    """The loss of one event, field by field."""
    output = predictor.linear(state).tolist()
    loss = 0.0
    for code, n in zip(codes.tolist(), SCHEMA.n_categories, strict=True):
        scores, output = output[:n], output[n:]
        if code:
            loss += math.log(sum(math.exp(score) for score in scores)) - scores[code - 1]
    return loss + sum(abs(p - x) for p, x in zip(output, numbers.tolist(), strict=True) if not math.isnan(x))


def test_the_loss_of_an_event_is_that_of_its_fields():
    predictor, batch = EventPredictor(8, SCHEMA), make_batch(12)
    states = torch.randn(12, 8)
    losses = predictor(states, batch.codes[0], batch.numbers[0])
    expected = [
        loss_of_event(predictor, *event) for event in zip(states, batch.codes[0], batch.numbers[0], strict=True)
    ]
    assert losses.tolist() == pytest.approx(expected, rel=1e-4)


def test_missing_numbers_leave_the_gradient_finite():
    predictor = EventPredictor(8, SCHEMA)
    predictor(torch.randn(1, 8), torch.tensor([[0, 0]]), torch.tensor([[torch.nan, torch.nan]])).sum().backward()
    assert all(weights.grad.isfinite().all() for weights in predictor.parameters())


def test_iftpp_is_the_formula():
    encoder, batch = make_encoder(), make_batch(3, 6)
    objective = IFTPP(2, 9, encoder)
    states = encoder(batch)
    expected = np.mean(
        [
            loss_of_event(objective.predictor, states[i, t], batch.codes[i, t + 1], batch.numbers[i, t + 1])
            for i, length in enumerate(batch.lengths.tolist())
            for t in range(length - 1)
        ]
    )
    assert objective(encoder, batch).item() == pytest.approx(expected, rel=1e-4)


# NPPR


def slow_nppr(objective, encoder, batch):
    """The two losses as the formula writes them."""
    states = encoder(batch)
    following, past = [], []
    for i, length in enumerate(batch.lengths.tolist()):
        for t in range(length):
            if t + 1 < length:
                event = batch.codes[i, t + 1], batch.numbers[i, t + 1]
                following.append(loss_of_event(objective.next, states[i, t], *event))
            if t:
                total = 0.0
                for k in range(1, min(objective.n_past, t) + 1):
                    gap = (batch.elapsed[i, t] - batch.elapsed[i, t - k]).item() / objective.decay
                    mixed = objective.mix(torch.cat([states[i, t], torch.tensor([math.log1p(gap)])]))
                    event = batch.codes[i, t - k], batch.numbers[i, t - k]
                    total += math.exp(-gap) * loss_of_event(objective.past, mixed, *event)
                past.append(total)
    return np.mean(following), np.mean(past)


def make_nppr(n_past, alpha=0.3):
    encoder = make_encoder()
    return encoder, NPPR(2, 9, alpha, n_past, 2.5, encoder)


def test_nppr_with_one_past_event_is_the_formula():
    encoder, objective = make_nppr(1)
    batch = make_batch(3, 7, 2)
    following, past = slow_nppr(objective, encoder, batch)
    assert objective(encoder, batch).item() == pytest.approx(0.7 * following + 0.3 * past, rel=1e-4)


def test_nppr_of_all_past_events_adds_up_to_the_formula():
    encoder, objective = make_nppr(4)
    batch = make_batch(3, 7, 2)
    following, past = slow_nppr(objective, encoder, batch)
    states = encoder(batch)
    lags = [torch.full(batch.mask.shape, k) for k in range(1, 5)]
    total = sum(objective.past_losses(states, batch, lag) for lag in lags)
    assert total[:, 1:][batch.mask[:, 1:]].mean().item() == pytest.approx(past, rel=1e-4)
    assert objective.next_losses(states, batch).mean().item() == pytest.approx(following, rel=1e-4)


def test_nppr_draws_past_events_so_that_the_expectation_is_the_formula():
    encoder, objective = make_nppr(3, alpha=1.0)
    batch = make_batch(5, 9)
    _, past = slow_nppr(objective, encoder, batch)
    with torch.no_grad():
        draws = torch.stack([objective(encoder, batch) for _ in range(600)])
    error = draws.std() / math.sqrt(len(draws))
    assert abs(draws.mean() - past) < 4 * error < 0.1 * past


def test_nothing_is_before_the_first_event():
    encoder, objective = make_nppr(3)
    batch = make_batch(4)
    losses = objective.past_losses(encoder(batch), batch, torch.full((1, 4), 2))
    assert (losses[0] == 0).tolist() == [True, True, False, False]


def test_padding_is_not_reconstructed():
    encoder, objective = make_nppr(2)
    batch = make_batch(3, 6)
    assert not objective.past_losses(encoder(batch), batch, torch.ones(2, 6, dtype=torch.int64))[0, 3:].any()
