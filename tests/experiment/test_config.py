"""The experiment file: precedence, strict types, unknown keys, and what is resolved."""

import tomllib

import pytest
import tomli_w

from cpool.errors import ConfigError, CpoolError, UnknownNameError
from cpool.experiment.reading import read_experiment
from cpool.methods import METHODS

BASE = '[stream]\nname = "split_digits"\n'
NCM = '[[method]]\nname = "ncm"\n'


@pytest.fixture
def read(tmp_path):
    def read(text: str, *sets: str, seeds=None):
        (tmp_path / "my file.toml").write_text(text, encoding="utf-8")
        return read_experiment(tmp_path / "my file.toml", sets, seeds)

    return read


def test_defaults(read):
    experiment = read(BASE + NCM)
    assert experiment.name == "my file"
    assert experiment.seeds == (0,)
    assert experiment.backbone["name"] == "embedded"
    assert "seed" not in experiment.stream
    assert [entry.label for entry in experiment.methods] == ["ncm"]


def test_method_beats_train_beats_the_default_of_the_method(read):
    text = BASE + "[train]\nepochs = 3\nlr = 1\n" + '[[method]]\nname = "l2p"\n'
    first = read(text + "[method.train]\nepochs = 7\n").methods[0].train
    assert (first.epochs, first.lr) == (7, 1.0)
    default = METHODS["l2p"].train
    assert first.batch_size == default.batch_size
    assert read(BASE + '[[method]]\nname = "l2p"\n').methods[0].train == default


def test_whole_numbers_pass_for_real_ones_and_nothing_else_passes(read):
    assert read(BASE + NCM, "train.lr=1").methods[0].train.lr == 1.0
    for wrong in ("true", '"3"', "2.0", "[3]", "nan"):
        with pytest.raises(ConfigError, match=r"train\.epochs.*a whole number"):
            read(BASE + NCM, f"train.epochs={wrong}")
    with pytest.raises(ConfigError, match=r"train\.lr"):
        read(BASE + NCM, "train.lr=inf")
    with pytest.raises(ConfigError, match=r"backbone\.normalize as true or false; got 1"):
        read(BASE + NCM, "backbone.normalize=1")


@pytest.mark.parametrize(
    ("change", "path", "close"),
    [
        ("train.epoch=1", "train.epoch", "train.epochs"),
        ("seed=1", "seed", "seeds"),
        ("stream.task=2", "stream.task", "stream.tasks"),
        ("backbone.nam=1", "backbone.nam", "backbone.name"),
        ("method.l2p.topk=1", "method.l2p.topk", "method.l2p.top_k"),
        ("method.l2p.train.batch=1", "method.l2p.train.batch", "method.l2p.train.batch_size"),
        ("method.l2p.epochs=1", "method.l2p.epochs", "method.l2p.train.epochs"),
        ("epochs=1", "epochs", "train.epochs"),
        ("method.joint.options.topk=2", "method.joint.options.topk", "method.joint.options.top_k"),
    ],
)
def test_an_unknown_key_names_itself_the_nearest_and_the_file(read, change, path, close):
    text = BASE + '[[method]]\nname = "l2p"\n[[method]]\nname = "joint"\nof = "l2p"\n'
    with pytest.raises(UnknownNameError) as caught:
        read(text, change)
    message = str(caught.value)
    assert f"'{path}'" in message
    assert f"'{close}'" in message
    assert "my file.toml" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BASE, ["'method'", "my file.toml"]),
        (NCM, ["'stream'", "my file.toml"]),
        ("[stream]\ntasks = 2\n" + NCM, ["stream.name"]),
        (BASE + "[[method]]\ntop_k = 2\n", ["method.name"]),
        (BASE + '[[method]]\nname = "l2q"\n', ["'l2q'", "'l2p'", "my file.toml"]),
        ('[stream]\nname = "split_digit"\n' + NCM, ["'split_digits'", "my file.toml"]),
        (BASE + '[[method]]\nname = "joint"\nof = "l2q"\n', ["'l2q'", "'l2p'"]),
        (BASE + NCM + NCM, ["'ncm' twice", "label"]),
        (BASE + NCM + 'label = "a/b"\n', ["method.a/b.label", "a name of letters"]),
        ("seeds = []\n" + BASE + NCM, ["seeds", "not empty"]),
        ("seeds = [0, 0]\n" + BASE + NCM, ["different seeds"]),
        ("seeds = [-1]\n" + BASE + NCM, ["seeds.0", "from 0"]),
        ("seeds = [true]\n" + BASE + NCM, ["seeds.0", "true (a truth value)"]),
        ("threads = 0\n" + BASE + NCM, ["threads"]),
        ('precision = "fp16"\n' + BASE + NCM, ["precision", "'no' or 'bf16'"]),
        ('evaluate = "train"\n' + BASE + NCM, ["evaluate", "'test' or 'validation'"]),
        ("method = 3\n" + BASE, ["method", "a list"]),
        ("x = [0\n", ["line 1, column 7", "my file.toml"]),
        ("x = 1\ny = word\n", ["line 2, column 5", "my file.toml"]),
        (BASE + '[[method]]\nname = "l2p"\nlength = "5"\n', ["method.l2p.length", "'5' (a text)"]),
        (BASE + "[train]\nepochs = 0\n" + NCM, ["epochs", "at least 1", "'ncm'", "my file.toml"]),
        (BASE + NCM + NCM + 'label = "other"\n', ["'ncm' and 'other'", "same settings"]),
        (BASE + NCM + "train.lr = 0.001\n" + NCM + 'label = "b"\n', ["'ncm' and 'b'"]),
        (
            BASE + '[[method]]\nname = "joint"\nof = "l2p"\n[[method]]\nname = "joint"\n'
            'label = "b"\nof = "l2p"\noptions.top_k = 5\n',
            ["'joint' and 'b'", "same settings"],
        ),
        (BASE + "[not_run]\nncm = 'too slow'\n" + NCM, ["'ncm'", "[[method]] too"]),
        (BASE + 'validation = "x"\n' + NCM, ["stream.validation", "a number"]),
        (BASE + "class_order = 3\n" + NCM, ["stream.class_order", "a list"]),
        (BASE + "tasks = [3, 2]\n" + NCM, ["stream.tasks", "whose entries are each a list in"]),
        (BASE + "tasks = [[0, 1.5]]\n" + NCM, ["list in [ ] of lists whose entries", "a whole"]),
        (BASE + 'tasks = "x"\n' + NCM, ["stream.tasks as a whole number or a list in [ ]; got"]),
    ],
)
def test_errors_say_what_and_where(read, text, words):
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.toml").write_bytes(b'name = "\xff"')
    for name in ("none.toml", "latin.toml", "."):
        with pytest.raises(CpoolError, match="expected an experiment file"):
            read_experiment(tmp_path / name)


def test_the_resolved_file_gives_the_same_experiment_again(read, tmp_path):
    text = (
        'name = "all of it"\nseeds = [3]\nthreads = 1\nprecision = "bf16"\n'
        + BASE
        + "seed = 5\ntasks = [[1, 2], [3, 4, 5, 6, 7, 8, 9, 0]]\n[train]\nlr = 0.5\n"
        + '[[method]]\nname = "dualprompt"\ngeneral_layers = []\n'
        + '[[method]]\nname = "joint"\nof = "l2p"\n[method.options]\ntop_k = 2\n'
        + '[[method]]\nname = "ranpac"\nlabel = "ranpac 500"\nprojection = 500\n'
    )
    first = read(text)
    resolved = first.resolved()
    (tmp_path / "again.toml").write_text(tomli_w.dumps(resolved), encoding="utf-8")
    second = read_experiment(tmp_path / "again.toml")
    assert second == first
    assert second.resolved() == resolved == tomllib.loads(tomli_w.dumps(resolved))
    assert first.methods[0].method.general_layers == ()


def test_a_template_may_be_a_file_and_is_resolved_to_its_words(read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # paths are those of the folder where cpool runs
    (tmp_path / "intent.jinja").write_text("{{ text }}\nIntent:\n", encoding="utf-8")
    (tmp_path / "short.jinja").write_text("{{ text }} =>", encoding="utf-8")
    here = '{ file = "intent.jinja" }'
    text = (
        f'{BASE}[search]\nbudget = 4\nvalidation = 0.2\n[[method]]\nname = "zero_shot"\n'
        f"template = {here}\n"
        f'[method.search]\ntemplate = [{here}, "my {{{{ text }}}}", {{ file = "short.jinja" }}]\n'
        f'[[method]]\nname = "prompt_search"\ncandidates = [{here}, "my {{{{ text }}}}"]\n'
        f'[[method]]\nname = "joint"\nof = "few_shot"\n[method.options]\n'
        'template = { file = "shown.jinja" }\n'
    )
    shown = "{% for e in examples %}{{ e.text }} {% endfor %}{{ text }}"
    (tmp_path / "shown.jinja").write_text(shown, encoding="utf-8")
    experiment = read(text, 'method.prompt_search.template={ file = "short.jinja" }')
    first, search, joint = experiment.methods
    words = "{{ text }}\nIntent:"
    assert first.method.template == words
    tried = [candidate.settings["template"] for candidate in first.candidates]
    assert tried == [words, "my {{ text }}", "{{ text }} =>"]
    assert search.method.template == "{{ text }} =>"
    assert search.method.candidates == (words, "my {{ text }}")
    assert joint.method.inner.template == shown
    written = tomli_w.dumps(experiment.resolved())
    assert "jinja" not in written
    for path in tmp_path.glob("*.jinja"):
        path.unlink()
    assert read(written).methods == experiment.methods


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ('{ file = "gone.jinja" }', "a template file in UTF-8; got gone.jinja: No such file"),
        ('{ file = "bare.jinja" }', "a Jinja template with {{ text }}"),
        ('{ path = "gone.jinja" }', "{ file = \"intent.jinja\" }; got {'path': 'gone.jinja'}"),
        ("{ file = 3 }", "a template as a text, or its file"),
        ("3", "as a text in quotes; got 3"),
    ],
)
def test_a_file_that_is_no_template_names_the_key_and_the_experiment(
    read, value, says, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bare.jinja").write_text("no place", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read(f'{BASE}[[method]]\nname = "zero_shot"\ntemplate = {value}\n')
    for words in (says, "method.zero_shot.template", "my file.toml"):
        assert words in str(caught.value)


def test_the_same_method_with_other_settings_or_another_grid_is_no_repetition(read):
    text = BASE + "[search]\nbudget = 2\n" + NCM + NCM + 'label = "b"\nnormalize = true\n'
    grid = NCM + 'label = "c"\n[method.search]\nnormalize = [false, true]\n'
    assert [entry.label for entry in read(text + grid).methods] == ["ncm", "b", "c"]


def test_what_was_not_run_is_kept_with_its_reason(read):
    experiment = read(BASE + '[not_run]\nfine_tune = "needs the weights"\n' + NCM)
    assert experiment.not_run == {"fine_tune": "needs the weights"}
    assert experiment.resolved()["not_run"] == {"fine_tune": "needs the weights"}


def test_one_method_may_be_a_plain_table(read):
    assert read(BASE + '[method]\nname = "ncm"\n').methods[0].label == "ncm"


def test_seeds_of_the_command_line_win(read):
    assert read("seeds = [5]\n" + BASE + NCM, seeds=[1, 2]).seeds == (1, 2)


def test_every_registered_method_and_stream_has_a_section():
    from cpool.experiment.schema import method_section, stream_section
    from cpool.streams.registry import STREAMS

    for name in METHODS:
        assert {"name", "label", "train"} <= set(method_section(name).model_fields)
    for name, info in STREAMS.items():
        assert set(stream_section(name).model_fields) == {"name", *info.options}
