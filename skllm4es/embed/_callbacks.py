"""scikit-learn's callbacks, which it has from version 1.9: they are told of every step of fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for the class of scikit-learn 1.9: there are no callbacks to tell."""


if TYPE_CHECKING:
    from transformers import TrainerCallback

__all__ = ["CallbackSupportMixin", "fit_told_to_callbacks"]


@contextmanager
def fit_told_to_callbacks(estimator: Any) -> Iterator[list[TrainerCallback]]:
    """Tell the callbacks of an estimator of its `fit`, in it of the training, and in that of each step.

    Parameters
    ----------
    estimator : estimator
        The estimator.

    Yields
    ------
    list of transformers.TrainerCallback
        What to give to the Trainer; nothing where no callback is set.
    """
    if not getattr(estimator, "_skl_callbacks", None):
        yield []
        return
    from transformers import TrainerCallback

    fit = estimator._init_callback_context(max_subtasks=1)

    class PassOn(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.training = fit.subcontext(task_name="fine-tuning", max_subtasks=state.max_steps)
            self.training.call_on_fit_task_begin(estimator=estimator)

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.step = self.training.subcontext(task_name="step")
            self.step.call_on_fit_task_begin(estimator=estimator)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.step.call_on_fit_task_end(estimator=estimator)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.training.call_on_fit_task_end(estimator=estimator)

    fit.call_on_fit_task_begin(estimator=estimator)
    yield [PassOn()]
    fit.call_on_fit_task_end(estimator=estimator)
