"""report_drift: how new events differ from those that a pipeline was fitted on.

Every check is a table of counts with one row per user, so that one mechanism measures each shift and how large it is by
chance: the counts of the users of `fit` and of the new ones are added up, and then those of random halves.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.base import clone
from sklearn.utils import check_array

from skllm4es._messages import raise_if
from skllm4es._texts import TEXT, read_texts
from skllm4es.baselines._features import Floats, Integers, distinct_values, gaps_of, is_numeric
from skllm4es.events._checks import changes_since_fit, disorder, fields_of_times, first_varying, kinds_of, resolve_time
from skllm4es.events._flat import FlatEvents, flatten_events
from skllm4es.events._frames import column_names
from skllm4es.events._kinds import is_list, is_time, may_agree
from skllm4es.events._nesting import nest_events
from skllm4es.events._numbers import to_floats
from skllm4es.serialize._labels import table_of, undescribed
from skllm4es.serialize._serializer import EventSerializer
from skllm4es.serialize._values import format_values

#: Numbers are compared by tenths, values by the commonest ones.
_N_BINS, _N_VALUES = 10, 20
#: How often users are divided at random, and how many divisions are computed at a time.
_N_DRAWS, _AT_ONCE = 200, 20
#: Smaller shifts are not worth a look, however certain they are.
_LEAST = {"share": 0.01, "PSI": 0.1}
_N_EXAMPLES = 3


@dataclass(frozen=True)
class _Check:
    """What is compared of one field.

    Parameters
    ----------
    field, name : str
        The field, and what is compared of it.
    counts : ndarray of shape (n_users, n_bins)
        What each user has in each bin.
    typical : tuple of two floats, default=None
        What stands for the distributions in the report; by default, the shift is that of the share of the first bin.
    examples : str, default=""
        Values to show.
    """

    field: str
    name: str
    counts: Floats
    typical: tuple[float, float] | None = None
    examples: str = ""

    def row(self, is_new: npt.NDArray[np.bool_]) -> dict[str, Any]:
        """Return a row of the report."""
        kind = "share" if self.typical is None else "PSI"
        groups = np.stack([self.counts[~is_new].sum(axis=0), self.counts[is_new].sum(axis=0)])
        shares = groups[:, 0] / np.maximum(groups.sum(axis=1), 1)
        shift = float(_shift(groups[0], groups[1], kind))
        by_chance = self._by_chance(is_new, kind)
        # Users of `fit` who come again have fewer unseen values than others.
        size = shift if self.name == "unseen" else abs(shift)
        typical = shares.tolist() if self.typical is None else self.typical
        return {
            "field": self.field,
            "check": self.name,
            "fit": typical[0],
            "new": typical[1],
            "shift": shift,
            "by_chance": by_chance,
            "drifted": size > by_chance and size >= _LEAST[kind],
            "examples": self.examples,
        }

    def _by_chance(self, is_new: npt.NDArray[np.bool_], kind: str) -> float:
        rng = np.random.default_rng(0)  # The same divisions for every check, and in every report.
        total, largest = self.counts.sum(axis=0), 0.0
        for _ in range(_N_DRAWS // _AT_ONCE):
            chosen = rng.permuted(np.tile(is_new, (_AT_ONCE, 1)), axis=1)
            new = chosen.astype(np.float64) @ self.counts
            largest = max(largest, float(np.abs(_shift(total - new, new, kind)).max()))
        return largest


def _shift(fit: Floats, new: Floats, kind: str) -> Floats:
    """Return the shift between counts, of shape (..., n_bins)."""
    if kind == "share":
        shares = [counts[..., 0] / np.maximum(counts.sum(axis=-1), 1) for counts in (fit, new)]
        return shares[1] - shares[0]
    p, q = ((counts + 0.5) / (counts + 0.5).sum(axis=-1, keepdims=True) for counts in (fit, new))
    return ((q - p) * np.log(q / p)).sum(axis=-1)


def report_drift(
    X_fit: Any,
    X_new: Any,
    *,
    serializer: EventSerializer | None = None,
    events: str | Sequence[str] = "events",
    user: str | list[str] | None = None,
    time: str | None = "auto",
    scores: tuple[Any, Any] | None = None,
) -> pd.DataFrame:
    r"""Report how new events differ from those that a pipeline was fitted on.

    Parameters
    ----------
    X_fit, X_new : dataframe of shape (n_users, n_columns) or (n_events, n_columns)
        The events of :term:`fit`, or of a sample of its users, and new ones: one row per user, as `EventSerializer`
        takes them, or, with `user`, long tables with one row per event, as `nest_events` takes them.
    serializer : EventSerializer, default=None
        The pipeline's serializer, fitted or not. Its columns, labels, time and events are used, so that the report is
        about what the pipeline reads: codes without a label, and events whose text is new to the language model.
    events : str or sequence of str, default="events"
        The column or columns with the events, as in `EventSerializer`. A `serializer` has its own.
    user : str or list of str, default=None
        The column that identifies the user in long tables.
    time : str or None, default="auto"
        The field with the time of the events, as in `EventSerializer`; None to ignore it. A `serializer` has its own.
        Long tables are sorted by it; "auto" is then their first column of times that differs between events of a user.
    scores : tuple of two array-likes of shape (n_users_fit,) and (n_users_new,), default=None
        Scores that the pipeline predicts, to compare as well: of users held out from :term:`fit`, and of new ones.

    Returns
    -------
    report : pandas.DataFrame
        One row per field and check, with the columns

        - ``field``: a field; "(user)", "(event)" and "(score)" are about users, whole events and `scores`. Where the
          language model reads fields apart, each text has a row, such as "(event: shop, product)" and "(event: city)";
        - ``check``: what is compared, see Notes;
        - ``fit``, ``new``: the share in each of the two; of numbers the median, of values the share of the commonest;
        - ``shift``: how far they differ: the difference of shares, or the population stability index (PSI);
        - ``by_chance``: the largest shift of 200 random divisions of the same users into two groups of these sizes;
        - ``drifted``: whether the shift is larger than that, and at least 0.01 (shares) or 0.1 (PSI);
        - ``examples``: the commonest of the values concerned.

    Raises
    ------
    TypeError, ValueError
        If `X_fit` or `X_new` holds no events that can be read or lacks `time`, `scores` are not two arrays of finite
        numbers, or `events` or `time` is passed beside a `serializer`.

    See Also
    --------
    EventSerializer : Raises for events that lack a field, and warns of codes without a label.
    sklearn.calibration.calibration_curve : Whether scores are probabilities, once labels are known.

    Notes
    -----
    The checks are

    - "missing": the share of events without a value; 1 for a field that the new events lack, and a field that only
      they have is a row "not in fit";
    - "kind": whether a field holds values of another kind, which `EventSerializer` refuses;
    - "unseen": the share of events with a value that :term:`fit` has not seen. What counts in :term:`fit` are values
      that only one of its users has, because so many would be unseen in a further user;
    - "unlabelled": the share of events with a code that `labels` of the serializer do not describe;
    - "values": how common the 20 commonest values are, and all others;
    - "numbers": the tenths of :term:`fit`; and "gaps", those of the time from event to event. Times themselves are not
      compared, because new events are later, nor hours and weekdays, so a clock that is off goes unseen, nor lists of
      lists;
    - "events", of users: their number, and how many have none ("missing");
    - "unseen", of whole events: those whose text the language model has not read in :term:`fit`.

    PSI is :math:`\sum_b (p_b - q_b) \log(p_b / q_b)` over bins b, after half an event is added to each. Users, not
    events, are divided at random, because a user's events are alike. The chance that a check of equal populations is
    marked is below 1 in 200, so with twenty checks up to one report of ten marks something by chance. If the same
    users are in both, ``by_chance`` is too large rather than too small.

    Examples
    --------
    >>> from skllm4es import report_drift
    >>> from skllm4es.datasets import make_transactions
    >>> X, _ = make_transactions(n_users=200, mean_events=20, random_state=0)
    >>> later, _ = make_transactions(n_users=100, mean_events=20, random_state=1)
    >>> yen = {"currency": "JPY"}
    >>> later["events"] = [[{**event, **yen} for event in user] for user in later["events"]]
    >>> report = report_drift(X, later)
    >>> drifted = report.loc[report["drifted"], ["field", "check", "new", "examples"]]
    >>> print(drifted.to_string(index=False))
       field  check  new   examples
    currency unseen  1.0 JPY (100%)
    currency values  0.0        EUR
    """
    columns, latest = None, None
    labels: Mapping[str, Any] = {}
    if serializer is not None:
        if events != "events" or time != "auto":
            raise ValueError(
                f"events={events!r} and time={time!r} are set beside a serializer, which has its own. Set them there, "
                "as in serializer.set_params(time=...)."
            )
        # Long tables are nested here, whatever the column is called in the pipeline.
        events = serializer.events if user is None else "events"
        time, latest = serializer.time, serializer.max_events
        columns, labels = serializer.columns, serializer.labels or {}
    frames = [X_fit, X_new]
    if user is not None:
        if time == "auto" and "auto" not in column_names(X_fit):
            unsorted = flatten_events(nest_events(X_fit, user=user))
            time = first_varying(unsorted, fields_of_times(unsorted))
        frames = [nest_events(X, user=user, time=time if time in column_names(X) else None) for X in frames]
    fit, new = (_read(X, events, latest, name) for X, name in zip(frames, ("X_fit", "X_new"), strict=True))
    time = resolve_time(fit, time)
    names = list(fit.columns) if columns is None else list(columns)
    if time is not None and time not in fit.columns:
        raise ValueError(
            f"time={time!r} is not among the fields {list(fit.columns)} of X_fit. Pass the field that holds the time, "
            "or None to ignore it."
        )
    raise_if([f"X_fit lacks {name!r}" for name in names if name not in fit.columns], "The serializer does not fit")
    kinds = kinds_of(fit, names)
    unchanged = changes_since_fit(new, kinds, None, frames[1])[1]
    # A serializer that is fitted to no values does not know what it will be asked to write.
    known = [name for name, kind in kinds.items() if kind != "nothing"]
    same = [name for name, values in unchanged.columns.items() if name in known or pa.types.is_null(values.type)]
    raise_if(disorder(fit, time, frames[0]), "The events of X_fit are not in order")
    raise_if(disorder(unchanged, time, frames[1]), "The events of X_new are not in order")
    is_new = np.arange(fit.n_users + new.n_users) >= fit.n_users
    checks = [*_field_checks(fit, new, names, time, labels), *_user_checks(fit, new)]
    if serializer is not None and same:
        serializer = clone(serializer).set_params(events=events, time=time)
        checks += _text_checks(frames, fit, new, serializer, same)
    rows = [check.row(is_new) for check in checks]
    if scores is not None:
        rows += _score_rows(scores)
    return pd.DataFrame(rows)


def _read(X: Any, events: str | Sequence[str], max_events: int | None, name: str) -> FlatEvents:
    flat = flatten_events(X, events)
    if not flat.lengths.any():
        raise ValueError(f"{name} has no events to compare: none of its {flat.n_users} users has any.")
    return flat if max_events is None else flat.latest(max_events)


def _field_checks(
    fit: FlatEvents, new: FlatEvents, names: Sequence[str], time: str | None, labels: Mapping[str, Any]
) -> Iterator[_Check]:
    """Compare each field; a field that only one side has, or of another kind, has no further checks."""
    kinds, new_kinds = kinds_of(fit, names), kinds_of(new, [name for name in names if name in new.columns])
    n_users, n_fit = fit.n_users + new.n_users, fit.n_users
    owners = _owners(fit, new)
    n_fit_events = int(fit.offsets[-1])
    for name in names:
        old = fit.columns[name]
        if name not in new.columns:
            absent = np.concatenate([_is_missing(old), np.ones(int(new.offsets[-1]), dtype=bool)])
            yield _share(name, "missing", absent, owners, n_users, "no such field in X_new")
            continue
        later, kind, new_kind = new.columns[name], kinds[name], new_kinds[name]
        yield _share(name, "missing", np.concatenate([_is_missing(old), _is_missing(later)]), owners, n_users)
        if not may_agree(kind, new_kind):
            yield _share(
                name, "kind", np.arange(len(owners)) >= n_fit_events, owners, n_users, f"{new_kind}, not {kind}"
            )
        elif any(each == "nothing" or each.startswith("lists of lists") for each in (kind, new_kind)):
            continue
        elif name in labels or (name != time and (name in fit.coded or not (is_time(kind) or is_numeric(old, kind)))):
            yield from _value_checks(name, old, later, owners, n_users, n_fit, labels.get(name))
        elif name == time:
            gaps = np.concatenate([gaps_of(fit, to_floats(old)), gaps_of(new, to_floats(later))])
            yield _numbers(name, "gaps", gaps, owners, n_users, n_fit)
        elif not is_time(kind):
            values = np.concatenate([to_floats(old), to_floats(later)])
            yield _numbers(name, "numbers", values, owners, n_users, n_fit)
    for name in new.columns if names == list(fit.columns) else ():
        if name not in fit.columns:
            yield _share(name, "not in fit", np.arange(len(owners)) >= n_fit_events, owners, n_users)


def _value_checks(
    name: str,
    old: pa.ChunkedArray,
    later: pa.ChunkedArray,
    owners: Integers,
    n_users: int,
    n_fit: int,
    labels: Any,
) -> Iterator[_Check]:
    places: dict[str | None, int] = {}
    codes, events, marks = [], [], []
    for column, first in ((old, 0), (later, len(old))):
        found, numbers, rows = distinct_values(column)
        texts = format_values(found).to_pylist()
        if labels is not None:
            marked = np.zeros(len(found), dtype=bool)
            marked[undescribed(found.to_pylist(), table_of(labels))] = True
            marks.append(marked[numbers])
        codes.append(np.array([places.setdefault(text, len(places)) for text in texts], dtype=np.int64)[numbers])
        events.append(rows + first)
    values, owners = np.concatenate(codes), owners[np.concatenate(events)]
    texts = list(places)
    known = np.array([text is not None for text in texts], dtype=bool)[values]
    values, owners = values[known], owners[known]
    yield _unseen(name, texts, values, owners, n_users, n_fit)
    if labels is not None:
        marked = np.concatenate(marks)[known]
        yield _share(name, "unlabelled", marked, owners, n_users, _commonest(texts, values[marked & (owners >= n_fit)]))
    order = np.argsort(-np.bincount(values, minlength=len(texts)), kind="stable")
    ranks = np.empty(len(texts), dtype=np.int64)
    ranks[order] = np.arange(len(texts))
    bins = np.minimum(ranks[values], _N_VALUES)
    counts = _count(owners, bins, n_users, _N_VALUES + 1)
    sides = counts[:n_fit].sum(axis=0), counts[n_fit:].sum(axis=0)
    top = int(sides[0][:_N_VALUES].argmax())
    typical = tuple(float(side[top] / side.sum()) if side.any() else np.nan for side in sides)
    yield _Check(name, "values", counts, (typical[0], typical[1]), str(texts[order[top]]))


def _text_checks(
    frames: Sequence[Any], fit: FlatEvents, new: FlatEvents, serializer: EventSerializer, names: Sequence[str]
) -> Iterator[_Check]:
    """Compare the texts that the language model reads."""
    from skllm4es.embed._fields import Fields, texts_of
    from skllm4es.serialize._columns import parse_columns

    settings = {name: getattr(serializer, name) for name in ("labels", "formats", "scalers", "headers")}
    serializer.set_params(
        columns=names,
        unlabelled="keep",  # They are reported.
        time=serializer.time if serializer.time in names else None,
        **{k: None if v is None else {name: v[name] for name in v if name in names} for k, v in settings.items()},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `fit` has warned of these.
        serializer.fit(frames[0])
        texts = [read_texts(serializer.transform(X), caller="report_drift")[TEXT] for X in frames]
        columns = [parse_columns(side) for side in texts]
        units = Fields.find(columns[0]).units
    for unit in units:
        places: dict[str, int] = {}
        codes = []
        for side in columns:
            distinct, inverse = texts_of(side, unit)
            codes.append(np.array([places.setdefault(text, len(places)) for text in distinct])[inverse])
        values = np.concatenate(codes)
        name = "(event)" if len(units) == 1 else f"(event: {', '.join(unit)})"
        yield _unseen(name, list(places), values, _owners(fit, new), fit.n_users + new.n_users, fit.n_users)


def _user_checks(fit: FlatEvents, new: FlatEvents) -> Iterator[_Check]:
    lengths = np.concatenate([fit.lengths, new.lengths])
    users, n_users = np.arange(len(lengths)), len(lengths)
    yield _share("(user)", "missing", lengths == 0, users, n_users)
    some = np.where(lengths > 0, lengths.astype(np.float64), np.nan)
    yield _numbers("(user)", "events", some, users, n_users, fit.n_users)


def _score_rows(scores: Sequence[Any]) -> list[dict[str, Any]]:
    if len(scores) != 2:
        raise ValueError(
            f"scores holds {len(scores)} values. Pass a pair: the scores of users held out from fit, and those of new "
            "ones."
        )
    sides = []
    for side in scores:
        try:
            values = check_array(side, ensure_2d=False, dtype=np.float64, input_name="scores")
        except ValueError as error:
            raise ValueError(f"scores must be finite numbers, such as predict_proba(X)[:, 1]. {error}") from error
        if values.ndim != 1:
            raise ValueError(
                f"scores must hold two arrays of one score per user; one has the shape {values.shape}. Pass one "
                "column, such as predict_proba(X)[:, 1]."
            )
        sides.append(values)
    values = np.concatenate(sides)
    users, n_users, n_fit = np.arange(len(values)), len(values), len(sides[0])
    return [_numbers("(score)", "numbers", values, users, n_users, n_fit).row(users >= n_fit)]


def _owners(fit: FlatEvents, new: FlatEvents) -> Integers:
    lengths = np.concatenate([fit.lengths, new.lengths])
    return np.repeat(np.arange(len(lengths)), lengths)


def _share(
    field: str, name: str, marked: npt.NDArray[np.bool_], owners: Integers, n_users: int, examples: str = ""
) -> _Check:
    """Compare the share of events that are marked."""
    return _Check(field, name, _count(owners, (~marked).astype(np.int64), n_users, 2), None, examples)


def _numbers(field: str, name: str, values: Floats, owners: Integers, n_users: int, n_fit: int) -> _Check:
    """Compare numbers by the tenths of `fit`."""
    known = ~np.isnan(values)
    values, owners = values[known], owners[known]
    of_fit, of_new = values[owners < n_fit], values[owners >= n_fit]
    tenths = np.quantile(of_fit, np.arange(1, _N_BINS) / _N_BINS) if len(of_fit) else np.empty(0)
    edges, counts = np.unique(tenths, return_counts=True)
    # A value that makes up more than a tenth has a bin of its own, so that both smaller and larger ones show.
    edges = np.union1d(edges, np.nextafter(edges[counts > 1], np.inf))
    bins = np.searchsorted(edges, values, side="right")
    medians = [float(np.median(side)) if len(side) else np.nan for side in (of_fit, of_new)]
    return _Check(field, name, _count(owners, bins, n_users, len(edges) + 1), (medians[0], medians[1]))


def _unseen(field: str, texts: Sequence[Any], values: Integers, owners: Integers, n_users: int, n_fit: int) -> _Check:
    """Compare the share of values that no other user of `fit` has."""
    of_fit = owners < n_fit
    pairs = np.unique(values[of_fit] * n_users + owners[of_fit])
    n_owners = np.bincount(pairs // n_users, minlength=len(texts))
    marked = n_owners[values] <= of_fit
    return _share(field, "unseen", marked, owners, n_users, _commonest(texts, values[marked & ~of_fit]))


def _commonest(texts: Sequence[Any], values: Integers, n_texts: int = _N_EXAMPLES) -> str:
    counts = np.bincount(values, minlength=len(texts))
    order = np.argsort(-counts, kind="stable")[:n_texts]
    return ", ".join(f"{texts[code]} ({counts[code] / len(values):.0%})" for code in order if counts[code])


def _count(owners: Integers, bins: Integers, n_users: int, n_bins: int) -> Floats:
    counts = np.bincount(owners * n_bins + bins, minlength=n_users * n_bins)
    return counts.reshape(n_users, n_bins).astype(np.float64)


def _is_missing(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    missing = pc.is_null(column, nan_is_null=True)
    if is_list(column.type):
        missing = pc.or_(missing, pc.fill_null(pc.equal(pc.list_value_length(column), 0), True))
    marked: npt.NDArray[np.bool_] = missing.to_numpy()
    return marked
