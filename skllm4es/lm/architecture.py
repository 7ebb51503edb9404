"""What a model of transformers is and can do, found by looking at it or by trying it once."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel

#: Tokens on which a model is tried.
_N_TRIED = 8

#: What models raise that cannot be run as they are.
FAILURES = (TypeError, ValueError, RuntimeError, LookupError, AttributeError)

#: Held during a forward pass: embedders share models, and a hook is called for every forward pass of its model. Who
#: needs `PROCESS_STATE` as well takes that first.
FORWARD = threading.RLock()
#: Of each decoder the longest text that was tried, and the length up to which it is exact.
_EXACT: weakref.WeakKeyDictionary[PreTrainedModel, tuple[int, int]] = weakref.WeakKeyDictionary()

_Found = TypeVar("_Found")


def found_once(find: Callable[[PreTrainedModel], _Found]) -> Callable[[PreTrainedModel], _Found]:
    """Remember what a function finds out about a model, for as long as the model exists; nothing found may hold it."""
    known: weakref.WeakKeyDictionary[PreTrainedModel, _Found] = weakref.WeakKeyDictionary()

    @wraps(find)
    def found(model: PreTrainedModel) -> _Found:
        if model not in known:
            known[model] = find(model)
        return known[model]

    return found


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Hold a model that trains or not in evaluation mode, to find out by trying what it can do."""
    training = model.training
    try:
        model.eval()
        with FORWARD:
            yield
    finally:
        model.train(training)


def decoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """Find the part of a model that turns tokens into hidden states, without head or towers for other inputs.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A model with or without its head.

    Raises
    ------
    ValueError
        If there is none.
    """
    decoder = _decoder(model)()
    assert decoder is not None  # It is a part of the model.
    return decoder


@found_once
def _decoder(model: PreTrainedModel) -> weakref.ref[PreTrainedModel]:
    found = (model.get_decoder(), model.base_model, getattr(model, "model", None))
    for decoder in found:
        if isinstance(decoder, PreTrainedModel) and hasattr(_run(decoder, _some_ids(model)), "last_hidden_state"):
            return weakref.ref(decoder)
    raise ValueError(f"{type(model).__name__} has no part that returns hidden states. Choose another model.")


def decoder_layers(decoder: PreTrainedModel) -> torch.nn.ModuleList:
    """Find the list of a decoder's layers, first to last, by watching which are called with hidden states.

    Parameters
    ----------
    decoder : transformers.PreTrainedModel
        A model without its head, in evaluation mode.

    Raises
    ------
    ValueError
        If there is no list whose layers are called once each, in order, with hidden states.
    """
    layers = _layers(decoder)()
    assert layers is not None
    return layers


@found_once
def _layers(decoder: PreTrainedModel) -> weakref.ref[torch.nn.ModuleList]:
    config = decoder.config.get_text_config()
    candidates = [
        module
        for module in decoder.modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == config.num_hidden_layers
    ]
    called: list[list[tuple[int, torch.Size]]] = [[] for _ in candidates]
    ids = _some_ids(decoder)
    with FORWARD, ExitStack() as hooks:
        for layers, calls in zip(candidates, called, strict=True):
            for number, layer in enumerate(layers):
                hooks.callback(layer.register_forward_pre_hook(_note_call(number, calls), with_kwargs=True).remove)
        last = _run(decoder, ids).last_hidden_state
    expected = [(number, torch.Size((*ids.shape, config.hidden_size))) for number in range(config.num_hidden_layers)]
    for layers, calls in zip(candidates, called, strict=True):
        if calls == expected and last.shape == expected[-1][1]:
            return weakref.ref(layers)
    raise ValueError(
        f"The hidden states of {type(decoder).__name__} cannot be pooled: it has no list of {config.num_hidden_layers} "
        f"layers that are called once each with hidden states of length {config.hidden_size}. Choose another model."
    )


def _note_call(number: int, calls: list[tuple[int, torch.Size]]) -> Callable[..., None]:
    def note(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs.get("hidden_states")
        calls.append((number, hidden.shape if isinstance(hidden, torch.Tensor) else torch.Size()))

    return note


@found_once
def is_causal(model: PreTrainedModel) -> bool:
    """Find out, by trying once, whether no token of a model sees what follows it.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model, in evaluation mode.

    Returns
    -------
    bool
        False for bidirectional encoders.
    """
    n_same, n_other = 4, 12
    ids = torch.arange(n_same + 2 * n_other) % model.config.get_text_config().vocab_size
    same, one, other = ids.to(model.device).split([n_same, n_other, n_other])
    texts = torch.stack([torch.cat([same, one]), torch.cat([same, other])])
    hidden = _run(decoder_of(model), texts).last_hidden_state[:, :n_same].float()
    return bool((hidden[0] - hidden[1]).abs().max() <= 1e-5 * hidden.abs().max())


def exact_length(decoder: PreTrainedModel, longest: int) -> int:
    """Find the length up to which no token is affected by how long the longest text of its batch is.

    Some rotary embeddings, such as "dynamic" and "longrope", change their frequencies beyond a length. A token that
    stands far away, which no other token sees, shows it.

    Parameters
    ----------
    decoder : transformers.PreTrainedModel
        A model without its head, in evaluation mode.
    longest : int
        The longest text.

    Returns
    -------
    int
        `longest`, if there is no such length below it.
    """
    tried, exact = _EXACT.get(decoder, (_N_TRIED, _N_TRIED))
    if longest > tried:
        tried, exact = _EXACT[decoder] = longest, _try_lengths(decoder, longest)
    return longest if exact == tried else min(longest, exact)


def _try_lengths(decoder: PreTrainedModel, longest: int) -> int:
    ids = _some_ids(decoder)
    near = torch.arange(_N_TRIED - 1, device=ids.device)

    def states(length: int) -> torch.Tensor:
        positions = torch.cat([near, near.new_tensor([length - 1])])[None]
        hidden: torch.Tensor = _run(decoder, ids, position_ids=positions).last_hidden_state[:, :-1]
        return hidden.float()

    def is_exact(length: int) -> bool:
        expected = states(_N_TRIED)  # First, since some remember the longest text until a short one comes.
        return bool((states(length) - expected).abs().max() <= 1e-5 * expected.abs().max())

    try:
        if is_exact(longest):
            return longest
    except FAILURES:  # It takes no positions, or none so far away.
        return longest
    shortest = _N_TRIED
    while longest - shortest > 1:
        middle = (shortest + longest) // 2
        shortest, longest = (middle, longest) if is_exact(middle) else (shortest, middle)
    return shortest


def forget_length(decoder: PreTrainedModel) -> None:
    """Let rotary embeddings that remember the longest text forget it, by a short one."""
    _run(decoder, _some_ids(decoder))


def _some_ids(model: PreTrainedModel) -> torch.Tensor:
    return torch.arange(_N_TRIED, device=model.device)[None] % model.config.get_text_config().vocab_size


@torch.inference_mode()
def _run(model: PreTrainedModel, ids: torch.Tensor, **arguments: torch.Tensor) -> Any:
    try:
        with FORWARD:
            return model(input_ids=ids, use_cache=False, **arguments)
    except FAILURES as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(
            f"{type(model).__name__} cannot read {ids.numel()} tokens: {error}. Use float32, or choose another model."
        ) from error


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that memory ran out, on whatever device."""
    messages = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(message in str(error) for message in messages)
