"""What `--help` says below the options: examples that work, and exit statuses."""

__all__ = [
    "ADD",
    "COMPARE",
    "GENERATE",
    "INSPECT",
    "LIST",
    "PREDICT",
    "REPORT",
    "RUN",
    "TOP",
    "TUNE",
]

# \b keeps the lines of a paragraph as they are.
TOP = """\b
Examples:
  cpool run benchmarks/experiments/quickstart.toml
  cpool report runs/quickstart
  cpool list methods
"""

RUN = """\b
The output folder gets results.json (after every run), search.json (after
every trial of a search), config.toml, environment.json, checkpoints/,
diagnostics/ and report.html. Nothing is written when the file has an error.

\b
Exit status: 0 done, 2 wrong input, 130 interrupted by Ctrl-C, 143 by SIGTERM
(both go on with --resume), 1 a fault of the program.

\b
Examples:
  cpool run experiment.toml
  cpool run experiment.toml --dry-run
  cpool run experiment.toml --seeds 0 --set train.epochs=2 --out runs/short
  cpool run experiment.toml --set method.l2p.top_k=3 --set 'name="small k"'
  cpool run experiment.toml --resume
  cpool run experiment.toml --search-only --out runs/search
  cpool run experiment.toml --search-from runs/search --seeds 1 --out runs/1
"""

COMPARE = """\b
Runs of different data, backbones, tasks, splits, seeds or searches are refused,
and the message says what differs in which file; --force shows them all the same.

\b
Examples:
  cpool compare runs/quickstart runs/short/results.json
  cpool compare --force runs/quickstart runs/other
"""

REPORT = """\b
Example:
  cpool report runs/quickstart --out report.html
"""

INSPECT = """\b
Example:
  cpool inspect runs/quickstart/checkpoints/l2p/seed0
"""

LIST = """\b
Example:
  cpool list streams
"""

TUNE = """\b
The file has a header text,label or prompt,completion (CSV), or one object a line
with these keys (JSON Lines). A fifth is held out, and everything is measured on it.
Completions need a language model: `cpool generate` then gives them.
--template @intent.jinja takes the words around a text from that file.

\b
Examples:
  cpool tune --data capitals.csv --backbone HuggingFaceTB/SmolLM2-135M --out mine
  cpool tune --data intents.csv --backbone HuggingFaceTB/SmolLM2-135M-Instruct --out mine
  cpool tune --data intents.csv --backbone ./model --out mine --epochs 3 --lr 0.03
"""

PREDICT = """\b
Examples:
  cpool predict mine "where is my parcel?"
  cpool predict mine --file questions.txt
  cat questions.txt | cpool predict mine
"""

ADD = """\b
The rows are of the kind that the model was tuned on: text,label or
prompt,completion. Labels may be new, or some that the model knows.

\b
Example:
  cpool add mine --data returns.csv --task returns
"""

GENERATE = """\b
Examples:
  cpool generate mine "where is my parcel?" --tokens 8
  cpool generate mine --file prompts.txt --task capitals
"""
