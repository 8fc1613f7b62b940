"""What methods on language models share: a hard prompt around the text, and labels as words."""

from dataclasses import dataclass
from typing import Any, Literal

from cpool.backbones import Backbone
from cpool.errors import BackboneError
from cpool.heads import Head, LabelHead
from cpool.initialisers import (
    FIRST,
    Initialiser,
    from_labels,
    from_slot,
    from_text,
    from_vocabulary,
    uniform,
)
from cpool.language import LabelWords, Surround, Template, TemplateLike
from cpool.methods.base import Method
from cpool.model import PromptedModel
from cpool.policies import Everything, GaussianRouter, Policy
from cpool.pool import PromptPool
from cpool.prompter import Branch, Prompter, Site
from cpool.readout import AnyReadout, LabelReadout
from cpool.rules.content_free import ContentFree
from cpool.settings import is_whole

__all__ = ["LabelMethod"]


@dataclass(frozen=True)
class LabelMethod(Method):
    """Base of methods that score `log p(label | prompts, template(text))` for every class.

    Attributes:
        template: the words around a text (Jinja), the same in training and at test; a
            `cpool.language.Template`, its words, or the `pathlib.Path` of a file with them, which
            is read at once: what is recorded are the words.
        labels: what class number i is called; the names of the stream, made readable, when None.
        normalise: "sum" or "mean" of the log-probabilities of a label's tokens.
        end: whether the end-of-text token closes each label: "auto" where one label begins another.
        chat: say the template as a user by the tokenizer's chat template, and score the labels as
            the assistant's answer, without a space before them; for instruction-tuned models.
    """

    template: TemplateLike = "{{ text }}\nLabel:"
    labels: tuple[str, ...] | None = None
    normalise: Literal["sum", "mean"] = "sum"
    end: Literal["auto", "always", "never"] = "auto"
    chat: bool = False

    def __post_init__(self) -> None:
        """Refuse a template without a place for the text, and names that are not."""
        object.__setattr__(self, "template", Template.of(self.template).source)
        self.need(self.normalise in ("sum", "mean"), "normalise", '"sum" or "mean"')
        self.need(isinstance(self.chat, bool), "chat", "true or false")
        self.need(self.end in ("auto", "always", "never"), "end", '"auto", "always" or "never"')
        names = self.labels
        right = names is None or (
            all(isinstance(n, str) and n.strip() for n in names) and len(set(names)) == len(names)
        )
        self.need(right, "labels", "with a name of its own for every class")

    @property
    def template_text(self) -> str:
        """The words of the template, whatever it was given as."""
        assert isinstance(self.template, str)
        return self.template

    def words(self, backbone: Backbone) -> LabelWords:
        """Return the words of the classes, none of which is known yet."""
        before = "" if self.chat else " "
        return LabelWords(backbone.processor, self.labels, before=before, end=self.end)

    def surround(self, words: LabelWords) -> Surround:
        """Return the template, to be filled with what is known of the classes."""
        return Surround(Template.of(self.template), words, chat=self.chat)

    def need_start(self, known: tuple[str, ...]) -> None:
        """Raise ConfigError unless init, text, length and slots of a tuned prompt go together."""
        own: Any = self
        self.need(own.init in known, "init", f"one of {', '.join(known)}")
        self.need(own.slots in ("task", "shared"), "slots", '"task" or "shared"')
        self.need(own.init != "text" or bool(own.text.strip()), "text", "with words")
        if own.length is None:
            self.need(own.init == "text", "length", 'at least 1, or None with init "text"')
        else:
            self.need(is_whole(own.length) and own.length >= 1, "length", "at least 1")

    def need_one_prompt(self) -> None:
        """Raise ConfigError where labels shall be calibrated that a slot never scores."""
        own: Any = self
        self.need(isinstance(own.calibrate, bool), "calibrate", "true or false")
        self.need(
            not own.calibrate or own.slots == "shared",
            "calibrate",
            'false with slots="task", where a prompt scores no labels of other tasks',
        )

    def tuned(
        self,
        backbone: Backbone,
        words: LabelWords,
        site: Site,
        pool: PromptPool,
        start: Literal["fresh", "last", "nearest"] = "fresh",
        policy: Policy | None = None,
    ) -> PromptedModel:
        """Return a model of one prompt a task, chosen by a Gaussian router, or one for all.

        Args:
            backbone: the language model.
            words: of the classes.
            site: where the prompt enters.
            pool: of the prompts, still without a slot.
            start: what the slot of a later task starts from.
            policy: that chooses a task's slot first; a Gaussian router when None.
        """
        own: Any = self
        shared = own.slots == "shared"
        if policy is None:
            forgettable = bool(getattr(own, "forgettable", False))
            router = GaussianRouter(backbone.query_size, forgettable=forgettable)
            policy = Everything() if shared else router
        branch = Branch(
            "prompt",
            pool,
            policy,
            site,
            start=int(shared),
            per_task=int(not shared),
            init_next=(lambda pool: from_slot(pool, -1)) if start == "last" else None,
            nearest=start == "nearest",
        )
        rules = [ContentFree()] if getattr(own, "calibrate", False) else []
        return self.model(backbone, words, Prompter([branch]), routed=not shared, rules=rules)

    @classmethod
    def token_start(
        cls, backbone: Backbone, words: LabelWords, init: str, text: str
    ) -> Initialiser:
        """Return how prompt tokens start: "vocabulary", "text", "labels" or "random".

        Raises:
            BackboneError: tokens of another width than the hidden states.
        """
        if init == "random":
            return uniform(-0.5, 0.5)
        if init == "text":
            return from_text(backbone, text)
        cls.token_embedding(backbone)
        if init == "labels":
            return from_labels(backbone, words)
        return from_vocabulary(backbone.word_table(FIRST))

    @staticmethod
    def token_embedding(backbone: Backbone) -> Any:
        """Return the module of the token embeddings, if they are as wide as the hidden states.

        Raises:
            BackboneError: they are not.
        """
        embed = backbone.plain_model.get_input_embeddings()
        if embed.weight.shape[1] != backbone.hidden_size:
            raise BackboneError(
                expected=f"token embeddings of width {backbone.hidden_size} to start from",
                got=f"{embed.weight.shape[1]} in {backbone.name!r}",
                remedy='Use prompt_tuning with init="random".',
            )
        return embed

    @staticmethod
    def token_count(backbone: Backbone, length: int | None, text: str) -> int:
        """Return `length`, or how many tokens a text has."""
        if length is not None:
            return length
        return len(backbone.processor.encode(text, add_special_tokens=False))

    def answer(self, words: LabelWords, routed: bool) -> tuple[Head, AnyReadout]:
        """Return what reads the language model, and what it reads: the scores of the labels."""
        head = LabelHead(words, normalise=self.normalise, routed=routed, ready=not self.trains)
        return head, LabelReadout(words)

    def model(
        self,
        backbone: Backbone,
        words: LabelWords,
        prompter: Prompter | None = None,
        *,
        surround: Surround | None = None,
        routed: bool = False,
        **parts: Any,
    ) -> PromptedModel:
        """Put a prompter in front of the language model, and the scores of the labels behind it.

        Args:
            backbone: the language model.
            words: of the classes.
            prompter: the prompts; None for the language model as it is.
            surround: what stands around a text; the template alone by default.
            routed: whether a slot answers for the classes of its own task alone.
            **parts: further arguments of `PromptedModel`.
        """
        head, readout = self.answer(words, routed)
        model = PromptedModel(backbone, head, prompter, readout=readout, **parts)
        model.passes.surround = surround or self.surround(words)
        return model
