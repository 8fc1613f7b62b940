"""Templates: where the text goes, what they may name, and that only the text is cut."""

import warnings

import pytest

from cpool.backbones import TruncationWarning
from cpool.errors import ConfigError, DataError
from cpool.language import LabelWords, Surround, Template
from tests import tiny


def test_words_before_and_after() -> None:
    template = Template("Options: {{ labels | join(', ') }}.\n{{ text }}\nLabel:")
    assert template.around(["red", "blue"]) == ("Options: red, blue.\n", "\nLabel:")
    shown = Template("{% for e in examples %}{{ e.text }}: {{ e.label }}\n{% endfor %}{{ text }}:")
    examples = [{"text": "a <b>", "label": "x"}, {"text": "c", "label": "y"}]
    assert shown.around(examples=examples) == ("a <b>: x\nc: y\n", ":")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("no place", "0 places"),
        ("{{ text }} and {{ text }}", "2 places"),
        ("{{ txt }}", "'txt' is undefined"),
        ("{{ text ", "TemplateSyntaxError"),
        ("{{ text | truncate(10) }}", "filters or tests"),
        ("{% if text | length > 200 %}long {% endif %}{{ text }}", "filters or tests"),
        ("{% for e in examples %}{{ e.txt }}{% endfor %}{{ text }}", "txt"),
        ("{{ text }}{{ labels.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_wrong_templates_are_refused(source, says) -> None:
    with pytest.raises(ConfigError, match=says):
        Template(source)


def test_a_template_may_name_one_label() -> None:
    assert Template("{{ labels[0] }}: {{ text }}").around(["red", "blue"]) == ("red: ", "")


def test_a_file_of_a_template(tmp_path) -> None:
    path = tmp_path / "prompt.jinja"
    path.write_text("{{ text }}\nIntent:\n", encoding="utf-8")
    assert Template.read(path) == Template("{{ text }}\nIntent:")
    with pytest.raises(ConfigError, match=r"gone\.jinja: No such file"):
        Template.read(tmp_path / "gone.jinja")
    with pytest.raises(ConfigError, match="Is a directory"):
        Template.read(tmp_path)
    path.write_text("{{ text }}\r\nIntent:", encoding="utf-8-sig")  # as some editors write it
    assert Template.of(path) == Template.read(path) == Template("{{ text }}\nIntent:")
    assert Template.of("{{ text }} now") == Template.of(Template("{{ text }} now"))


def test_a_surround_follows_what_is_known() -> None:
    words = LabelWords(tiny.tokenizer(special=False), ["cat", "dog"])
    surround = Surround(Template("{{ labels | join(' ') }} {{ text }}"), words)
    assert surround.around() == (" ", "")
    words.classes = [1]
    assert surround.around() == ("dog ", "")
    words.classes = [1, 0]
    assert surround.around() == ("dog cat ", "")


def test_the_text_is_cut_and_never_what_is_around_it() -> None:
    backbone = tiny.backbone("llama")
    around = ("my card ", " please help")
    texts = ["the cat runs on the big red house", "a dog"]
    with pytest.warns(TruncationWarning, match="1 text was longer than 8 tokens"):
        batch = backbone.prepare(texts, 8, around)
    rows = [
        backbone.processor.decode(ids[mask.bool()])
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert rows == ["my card the cat runs on please help", "my card a dog please help"]


def test_nothing_is_cut_where_all_fits() -> None:
    backbone = tiny.backbone("llama")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = backbone.prepare(["the cat runs"], 5, ("my ", " now"))
    assert backbone.processor.decode(batch["input_ids"][0]) == "my the cat runs now"


def test_words_around_a_text_must_leave_room_for_it() -> None:
    backbone = tiny.backbone("llama")
    with pytest.raises(DataError, match="leave room for it in 4 tokens"):
        backbone.prepare(["the cat runs"], 4, ("my card please help ", " now"))
