"""The next point of a search that draws: optuna's tree-structured Parzen estimator, replayable."""

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cpool.errors import need_extra
from cpool.experiment.ranges import Range
from cpool.seeding import derive

__all__ = ["draw"]

AGAIN = 20  # draws of a point that is new

Values = Mapping[str, "tuple[Any, ...] | Range"]


def draw(
    values: Values,
    done: Sequence[tuple[Mapping[str, Any], float | None]],
    trials: int,
    *seed: int | str,
) -> dict[str, Any]:
    """Return the point to try next, which depends on the arguments alone.

    The study is made anew from what was tried, and its sampler seeded by how much that is: so a
    search that was stopped goes on as if it had not been. No point is tried twice while there are
    others.

    Args:
        values: what each setting may be: a range, or a list of unrelated values.
        done: the points tried so far, in order, with what each was worth; None: it failed.
        trials: how many there will be; a third of them, 10 at most, are drawn at random first.
        seed: parts of the seed.

    Raises:
        MissingDependencyError: optuna is not installed.
    """
    need_extra("search", "optuna")
    import optuna

    space = {key: _distribution(options) for key, options in values.items()}
    first = min(10, max(2, trials // 3))
    # optuna takes seeds of 32 bits.
    number = derive(*seed, "trial", len(done)) % 2**32
    with _quiet():
        sampler = optuna.samplers.TPESampler(n_startup_trials=first, seed=number)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for point, value in done:
            params = {key: _place(values[key], point[key]) for key in values}
            # A failed trial would be forgotten by the sampler, which shall keep away from it.
            worth = 0.0 if value is None else value
            study.add_trial(
                optuna.trial.create_trial(params=params, distributions=space, value=worth)
            )
        # The sampler may draw a point again, of which nothing new would be learned.
        tried = [{key: _place(values[key], point[key]) for key in values} for point, _ in done]
        for _ in range(AGAIN):
            drawn = study.ask(space).params
            if drawn not in tried:
                break
        else:
            rest = [point for point in _points(values) if point not in tried]
            drawn = rest[number % len(rest)] if rest else drawn
    return {key: _value(values[key], drawn[key]) for key in values}


def _points(values: Values) -> list[dict[str, Any]]:
    """Return all points where every setting is one of a list; none where there are ranges."""
    if any(isinstance(options, Range) for options in values.values()):
        return []
    places = itertools.product(*(range(len(options)) for options in values.values()))  # type: ignore[arg-type]
    return [dict(zip(values, point, strict=True)) for point in places]


def _distribution(options: tuple[Any, ...] | Range) -> Any:
    from optuna import distributions

    if not isinstance(options, Range):
        # By their places: values may be lists, which are no categories of optuna.
        return distributions.CategoricalDistribution(tuple(range(len(options))))
    if options.whole:
        return distributions.IntDistribution(int(options.low), int(options.high), log=options.log)
    return distributions.FloatDistribution(options.low, options.high, log=options.log)


def _place(options: tuple[Any, ...] | Range, value: Any) -> Any:
    if isinstance(options, Range):
        return value
    return [_listed(option) for option in options].index(_listed(value))


def _value(options: tuple[Any, ...] | Range, place: Any) -> Any:
    return place if isinstance(options, Range) else options[place]


def _listed(value: Any) -> Any:
    return [_listed(v) for v in value] if isinstance(value, list | tuple) else value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep optuna from announcing each study on standard error."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
