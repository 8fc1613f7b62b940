"""`[search]`: what all trials have in common, and that none of them can see test data."""

from collections.abc import Mapping
from typing import Any

from cpool.errors import ConfigError
from cpool.experiment.checking import check_section
from cpool.experiment.config import SearchPlan
from cpool.experiment.schema import SearchSection, Section

__all__ = ["read_plan"]


def read_plan(
    values: Mapping[str, Any], stream: Mapping[str, Any], kind: type[Section], source: str
) -> SearchPlan:
    """Return the plan of a search.

    Args:
        values: what `[search]` holds.
        stream: the checked options of `[stream]`.
        kind: the model of `[stream]`.
        source: the file, for messages.

    Raises:
        ConfigError: unknown keys, wrong values, or trials that would be judged on test data.
    """
    section = check_section(SearchSection, values, "search", source)
    if section.evaluate != "validation":
        raise ConfigError(
            expected='search.evaluate as "validation", the only split that a search may look at',
            got=f"{section.evaluate!r} in {source}",
            remedy="Remove the key; the test data are used once, with the chosen settings.",
        )
    _check_sampler(section, source)
    _check_validation(section.validation, stream, kind, source)
    options = section.model_dump()
    options.pop("evaluate")
    if section.sampler == "optuna" and section.trials is None:
        options["trials"] = section.budget
    return SearchPlan(**options)


def _check_sampler(section: SearchSection, source: str) -> None:
    if section.trials is None:
        return
    if section.sampler == "grid":
        raise ConfigError(
            expected='search.trials only beside sampler = "optuna": a grid has as many trials as '
            "points",
            got=f"trials = {section.trials} in {source}",
            remedy="Remove search.trials, or set the sampler.",
        )
    if section.trials > section.budget:
        raise ConfigError(
            expected=f"search.trials up to {section.budget} (search.budget)",
            got=f"{section.trials} in {source}",
            remedy="Lower it, or raise search.budget, which every method shares.",
        )


def _check_validation(
    share: float | None, stream: Mapping[str, Any], kind: type[Section], source: str
) -> None:
    able = "validation" in kind.model_fields
    if share is not None and not able:
        raise ConfigError(
            expected=f"no search.validation for {stream['name']!r}, whose own validation split "
            "is used",
            got=f"{share} in {source}",
            remedy="Remove search.validation.",
        )
    held_out = stream.get("validation") if share is None and able else share
    if held_out is not None and not 0 < held_out < 1:
        key = "search.validation" if share is not None else "stream.validation"
        raise ConfigError(
            expected="validation data to judge the trials on: search.validation between 0 and 1",
            got=f"{key} = {held_out} in {source}",
            remedy="Set search.validation, such as 0.2: a share of the training data. "
            "Test data are not for choosing settings.",
        )
