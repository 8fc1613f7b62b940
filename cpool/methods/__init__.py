"""Methods and baselines: one frozen dataclass a file, one name in the registry."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from cpool.errors import ConfigError, nearest, unknown
from cpool.methods.attempt import ATTEMPT
from cpool.methods.base import Method
from cpool.methods.coda_prompt import CODAPrompt
from cpool.methods.convprompt import ConvPrompt
from cpool.methods.der_plus_plus import DERPlusPlus
from cpool.methods.dualprompt import DualPrompt
from cpool.methods.ease import EASE
from cpool.methods.ewc import EWC
from cpool.methods.few_shot import FewShot
from cpool.methods.fine_tune import FineTune
from cpool.methods.fine_tune_words import FineTuneWords
from cpool.methods.first_session_prompt import FirstSessionPrompt
from cpool.methods.hide_prompt import HiDePrompt
from cpool.methods.joint import Joint
from cpool.methods.l2p import L2P
from cpool.methods.linear_head import LinearHead
from cpool.methods.lora import LoRA
from cpool.methods.lwf import LwF
from cpool.methods.mocl import MoCLPrompt
from cpool.methods.multitask_prompt import MultitaskPromptTuning
from cpool.methods.mvp import MVP
from cpool.methods.ncm import NCM
from cpool.methods.oneprompt import OnePrompt
from cpool.methods.osprompt import OSPrompt
from cpool.methods.ovor import OVOR
from cpool.methods.pez import HardPromptTuning, words_of_slot
from cpool.methods.prefix_tuning import PrefixTuning
from cpool.methods.progressive_prompt_tuning import ProgressivePromptTuning
from cpool.methods.progressive_prompts import ProgressivePrompts
from cpool.methods.prompt_ridge import PromptRidge
from cpool.methods.prompt_search import PromptSearch
from cpool.methods.prompt_tuning import PromptTuning
from cpool.methods.ranpac import RanPAC
from cpool.methods.replay import Replay
from cpool.methods.ridge import Ridge
from cpool.methods.sapt import SAPT
from cpool.methods.slca import SLCA
from cpool.methods.slda import SLDA
from cpool.methods.sprompts import SPrompts
from cpool.methods.zero_shot import ZeroShot

__all__ = [
    "ATTEMPT",
    "EASE",
    "EWC",
    "L2P",
    "METHODS",
    "MVP",
    "NCM",
    "OVOR",
    "SAPT",
    "SLCA",
    "SLDA",
    "CODAPrompt",
    "ConvPrompt",
    "DERPlusPlus",
    "DualPrompt",
    "FewShot",
    "FineTune",
    "FineTuneWords",
    "FirstSessionPrompt",
    "HardPromptTuning",
    "HiDePrompt",
    "Joint",
    "LinearHead",
    "LoRA",
    "LwF",
    "Method",
    "MoCLPrompt",
    "MultitaskPromptTuning",
    "OSPrompt",
    "OnePrompt",
    "PrefixTuning",
    "ProgressivePromptTuning",
    "ProgressivePrompts",
    "PromptRidge",
    "PromptSearch",
    "PromptTuning",
    "RanPAC",
    "Replay",
    "Ridge",
    "SPrompts",
    "ZeroShot",
    "method_from",
    "words_of_slot",
]

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        OSPrompt,
        PromptRidge,
        MVP,
        HiDePrompt,
        FirstSessionPrompt,
        EASE,
        ConvPrompt,
        EWC,
        L2P,
        NCM,
        OVOR,
        SAPT,
        SLCA,
        SLDA,
        CODAPrompt,
        DERPlusPlus,
        DualPrompt,
        FineTune,
        Joint,
        LinearHead,
        LwF,
        MoCLPrompt,
        OnePrompt,
        ProgressivePrompts,
        RanPAC,
        Replay,
        Ridge,
        SPrompts,
        PromptTuning,
        PrefixTuning,
        MultitaskPromptTuning,
        ATTEMPT,
        ProgressivePromptTuning,
        HardPromptTuning,
        ZeroShot,
        FewShot,
        PromptSearch,
        FineTuneWords,
        LoRA,
    )
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
