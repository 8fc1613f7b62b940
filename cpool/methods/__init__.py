"""Methods and baselines: one frozen dataclass a file, one name in the registry."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from cpool.errors import ConfigError, nearest, unknown
from cpool.methods.base import Method
from cpool.methods.dualprompt import DualPrompt
from cpool.methods.fine_tune import FineTune
from cpool.methods.joint import Joint
from cpool.methods.l2p import L2P
from cpool.methods.linear_head import LinearHead
from cpool.methods.ncm import NCM
from cpool.methods.ranpac import RanPAC

__all__ = [
    "L2P",
    "METHODS",
    "NCM",
    "DualPrompt",
    "FineTune",
    "Joint",
    "LinearHead",
    "Method",
    "RanPAC",
    "method_from",
]

METHODS: dict[str, type[Method]] = {
    method.name: method for method in (DualPrompt, FineTune, Joint, L2P, LinearHead, NCM, RanPAC)
}


def method_from(name: str, options: Mapping[str, Any]) -> Method:
    """Make a method from its name and hyper-parameters (lists become tuples where needed).

    Raises:
        UnknownNameError: no such method.
        ConfigError: it has no such hyper-parameter; the nearest one is named.

    >>> method_from("l2p", {"top_k": 3}).top_k
    3
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    known = [field.name for field in fields(METHODS[name])]
    for key in options:
        if key not in known:
            close = nearest(key, known)
            raise ConfigError(
                expected=f"a hyper-parameter of {name} ({', '.join(known) or 'it has none'})",
                got=repr(key),
                remedy=f"Did you mean {close!r}?" if close else "Remove it.",
            )
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    return METHODS[name](**values)
