"""The rows of the common grid: adding a method adds one line here, and nothing else."""

from collections.abc import Callable

from cpool.methods import (
    ATTEMPT,
    EASE,
    EWC,
    L2P,
    MVP,
    NCM,
    OVOR,
    SAPT,
    SLCA,
    SLDA,
    CODAPrompt,
    ConvPrompt,
    DERPlusPlus,
    DualPrompt,
    FewShot,
    FineTune,
    FineTuneWords,
    FirstSessionPrompt,
    HardPromptTuning,
    HiDePrompt,
    Joint,
    LinearHead,
    LoRA,
    LwF,
    Method,
    MoCLPrompt,
    MultitaskPromptTuning,
    OnePrompt,
    OSPrompt,
    PrefixTuning,
    ProgressivePrompts,
    ProgressivePromptTuning,
    PromptRidge,
    PromptSearch,
    PromptTuning,
    RanPAC,
    Replay,
    Ridge,
    SPrompts,
    ZeroShot,
)
from tests import tiny

# One begins another, so that labels are closed by the end of the text; some share their start.
LABELS = ("cat", "red dog", "red", "blue bird", "blue fish", "house")
SHOWN = "{% for e in examples %}{{ e.label }} {% endfor %}{{ text }} now"

# Sizes fit the tiny models of `tests.tiny`, which have three layers.
ROWS: dict[str, Callable[[], Method]] = {
    "l2p": lambda: L2P(pool_size=4, top_k=2, length=2),
    "l2p_growing": lambda: L2P(slots_per_task=2, top_k=2, length=2),
    "l2p_queries": lambda: L2P(slots_per_task=2, top_k=2, length=2, start="queries"),
    "l2p_diverse": lambda: L2P(pool_size=4, top_k=1, length=2, diversify=True),
    "dualprompt": lambda: DualPrompt(
        general_layers=(0,), expert_layers=(1, 2), general_length=2, expert_length=3
    ),
    "linear_head": LinearHead,
    "linear_head_frozen": lambda: LinearHead(freeze_old=True),
    "fine_tune": FineTune,
    "ncm": NCM,
    "ranpac": lambda: RanPAC(projection=40),
    "ranpac_first_session": lambda: RanPAC(projection=40, first_session=True, length=2, ridge=1.0),
    "prompt_ridge": lambda: PromptRidge(projection=40, length=2),
    "prompt_ridge_tasks": lambda: PromptRidge(projection=40, length=2, domains="task"),
    "prompt_ridge_forgettable": lambda: PromptRidge(
        projection=12, length=2, forgettable=True, kind="orthogonal"
    ),
    "joint": lambda: Joint(of="l2p", options={"pool_size": 4, "top_k": 2, "length": 2}),
    "ewc": lambda: EWC(samples=3),
    "ewc_online": lambda: EWC(online=True, decay=0.9, samples=4, tune="head"),
    "lwf": LwF,
    "lwf_head": lambda: LwF(tune="head"),
    "replay": lambda: Replay(size=7),
    "replay_class": lambda: Replay(size=9, keep="class", tune="head"),
    "der_plus_plus": lambda: DERPlusPlus(size=7),
    "der": lambda: DERPlusPlus(size=7, beta=0.0, tune="head"),
    # Of 36 samples of 32 features, λ = "auto" (10⁻⁸) and ε = 10⁻⁴ enlarge their rounding errors.
    "ridge": lambda: Ridge(ridge=0.1),
    "slda": lambda: SLDA(shrinkage=0.1),
    "slca": lambda: SLCA(per_class=8, epochs=1),
    "coda_prompt": lambda: CODAPrompt(slots_per_task=2, length=2),
    "coda_prompt_gram_schmidt": lambda: CODAPrompt(
        layers=(1,), slots_per_task=2, length=2, init="gram_schmidt", penalty_form="norm"
    ),
    "sprompts": lambda: SPrompts(length=2, centroids=2),
    "progressive_prompts": lambda: ProgressivePrompts(length=2),
    "progressive_prompts_untold": lambda: ProgressivePrompts(length=2, known_task=False),
    "oneprompt": lambda: OnePrompt(late_layers=(2,), early_length=2, late_length=3),
    "ovor": lambda: OVOR(
        late_layers=(2,), early_length=2, late_length=3, edge=3, tries=4, per_class=3
    ),
    "mocl": lambda: MoCLPrompt(length=2),
    "mocl_embedding": lambda: MoCLPrompt(site="embedding", length=2, normalise="softmax"),
    "sapt": lambda: SAPT(length=2, width=4, replays=3),
    "hide_prompt": lambda: HiDePrompt(
        layers=(0, 2), length=2, infer_epochs=1, align_epochs=2, per_class=4
    ),
    "hide_prompt_diagonal": lambda: HiDePrompt(
        layers=(1,), length=2, infer_epochs=1, align_epochs=1, per_class=4, covariance="diagonal"
    ),
    "convprompt": lambda: ConvPrompt(slots_per_task=2, length=2, kernel=3),
    "osprompt": lambda: OSPrompt(slots_per_task=2, length=2),
    "osprompt_reference": lambda: OSPrompt(layers=(1,), slots_per_task=2, length=2, reference=True),
    "mvp": lambda: MVP(
        pool_size=3, general_layers=(0,), expert_layers=(2,), general_length=2, expert_length=3
    ),
    "mvp_balanced": lambda: MVP(
        pool_size=3,
        general_layers=(),
        expert_layers=(2,),
        expert_length=3,
        balance=True,
    ),
    "osprompt_plain": lambda: OSPrompt(
        layers=(1,),
        slots_per_task=2,
        length=2,
        attended=False,
        init="uniform",
        reference=True,
    ),
    "first_session_prompt": lambda: FirstSessionPrompt(length=2),
    "first_session_ridge": lambda: FirstSessionPrompt(
        classifier="ridge", length=2, projection=40, ridge=1.0
    ),
    "prompt_tuning": lambda: PromptTuning(length=2, labels=LABELS),
    "prompt_tuning_shared": lambda: PromptTuning(
        length=2, labels=LABELS, slots="shared", init="labels", normalise="mean"
    ),
    "prompt_tuning_calibrated": lambda: PromptTuning(
        length=2, labels=LABELS, slots="shared", calibrate=True
    ),
    "prompt_tuning_last": lambda: PromptTuning(length=2, labels=LABELS, start="last"),
    "prompt_tuning_nearest": lambda: PromptTuning(length=2, labels=LABELS, start="nearest"),
    "prefix_tuning": lambda: PrefixTuning(length=2, labels=LABELS, text="the red house"),
    "prefix_tuning_random": lambda: PrefixTuning(
        length=2, labels=LABELS, init="random", slots="shared"
    ),
    "prefix_tuning_calibrated": lambda: PrefixTuning(
        length=2, labels=LABELS, text="the red house", slots="shared", calibrate=True
    ),
    "prefix_tuning_through": lambda: PrefixTuning(
        length=2, labels=LABELS, init="random", through=6
    ),
    "multitask_prompt": lambda: MultitaskPromptTuning(length=2, labels=LABELS),
    "multitask_prompt_ranks": lambda: MultitaskPromptTuning(
        length=2, labels=LABELS, init="labels", rank=2, shared_tasks=2
    ),
    "multitask_prompt_taught": lambda: MultitaskPromptTuning(
        length=2, labels=LABELS, shared_tasks=2, distil=0.9, teacher_epochs=2
    ),
    "attempt": lambda: ATTEMPT(length=2, labels=LABELS, width=4),
    "progressive_prompt_tuning": lambda: ProgressivePromptTuning(length=2, labels=LABELS),
    "progressive_prompt_tuning_untold": lambda: ProgressivePromptTuning(
        length=2, labels=LABELS, known_task=False
    ),
    # A start that is no words, so that it differs from those that it ends as.
    "pez": lambda: HardPromptTuning(length=2, labels=LABELS, init="random"),
    "pez_shared": lambda: HardPromptTuning(
        length=2, labels=LABELS, slots="shared", init="text", text="the red house"
    ),
    "zero_shot": lambda: ZeroShot(labels=LABELS, template="{{ text }} now", calibrate=True),
    "few_shot": lambda: FewShot(labels=LABELS, template=SHOWN),
    "few_shot_nearest": lambda: FewShot(labels=LABELS, template=SHOWN, pick="nearest"),
    "prompt_search": lambda: PromptSearch(
        labels=LABELS, candidates=("my {{ text }} now", "{{ labels | join(' ') }} {{ text }}")
    ),
    "prompt_search_calibrated": lambda: PromptSearch(
        labels=LABELS, candidates=("my {{ text }} now", "the {{ text }} dog"), calibrate=True
    ),
    "lora": lambda: LoRA(labels=LABELS, rank=2),
    "fine_tune_words": lambda: FineTuneWords(labels=LABELS),
    "ease": lambda: EASE(length=2),
    "ease_all": lambda: EASE(length=2, donors="all"),
}

PREFIXES = (
    "dualprompt",
    "ranpac_first_session",
    "prompt_ridge",
    "prompt_ridge_tasks",
    "prompt_ridge_forgettable",
    "coda_prompt",
    "coda_prompt_gram_schmidt",
    "oneprompt",
    "ovor",
    "mocl",
    "hide_prompt",
    "hide_prompt_diagonal",
    "convprompt",
    "osprompt",
    "osprompt_reference",
    "mvp",
    "mvp_balanced",
    "osprompt_plain",
    "first_session_prompt",
    "first_session_ridge",
    "ease",
    "ease_all",
)

# Methods that score words, which needs a language model with its output embedding.
LANGUAGE = (
    "prompt_tuning",
    "prompt_tuning_shared",
    "prompt_tuning_calibrated",
    "prompt_tuning_last",
    "prompt_tuning_nearest",
    "prefix_tuning",
    "prefix_tuning_random",
    "prefix_tuning_calibrated",
    "prefix_tuning_through",
    "multitask_prompt",
    "multitask_prompt_ranks",
    "multitask_prompt_taught",
    "attempt",
    "progressive_prompt_tuning",
    "progressive_prompt_tuning_untold",
    "pez",
    "pez_shared",
    "zero_shot",
    "few_shot",
    "few_shot_nearest",
    "prompt_search",
    "prompt_search_calibrated",
    "lora",
    "fine_tune_words",
)


def refused(row: str, kind: str) -> bool:
    """Return whether a row cannot run on a kind: no prefixes in its attention, or no words."""
    words = row in LANGUAGE and kind not in tiny.SPEAKING
    return words or (row in PREFIXES and kind in tiny.NO_PREFIX)
