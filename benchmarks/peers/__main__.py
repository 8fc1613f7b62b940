"""Compare cpool with other libraries, and write the page about it.

python -m benchmarks.peers                     measures all, writes peers.json and the page
python -m benchmarks.peers digits snips        measures only these comparisons again
python -m benchmarks.peers --page              writes the page from peers.json
python -m benchmarks.peers --check             writes nothing; status 1 when the page is out of date
"""

import argparse
import sys
from pathlib import Path

from benchmarks.peers import page
from benchmarks.peers.driver import compare, machine
from benchmarks.peers.environment import ROOT
from benchmarks.peers.inputs import write_inputs
from benchmarks.peers.settings import COMPARISONS
from cpool._io import read_json, write_bytes, write_json


def main() -> None:
    """Measure, write, or compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = [comparison.name for comparison in COMPARISONS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    parser.add_argument("--seeds", type=int, nargs="+", help="one a round; else 0, 1, 2, …")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "peers")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    parser.add_argument("--check", action="store_true", help="compare the page, write nothing")
    args = parser.parse_args()
    if unknown := set(args.names) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    if args.check:
        if not page.PAGE.is_file() or page.PAGE.read_text(encoding="utf-8") != page.content():
            sys.exit(f"{page.PAGE.relative_to(ROOT)} is out of date: python -m benchmarks.peers")
        return
    if not args.page:
        folder = args.folder.resolve()
        chosen = [c for c in COMPARISONS if not args.names or c.name in args.names]
        seeds = {c.name: args.seeds or range(c.rounds) for c in chosen}
        # All before any is measured: what is missing for the last is said at once.
        for comparison in chosen:
            write_inputs(comparison, folder / comparison.name, seeds[comparison.name])
        for comparison in chosen:
            made = compare(comparison, folder, seeds[comparison.name])
            # Read now: another run may have written the other comparisons meanwhile.
            old = read_json(page.RESULTS)["comparisons"] if page.RESULTS.is_file() else {}
            new = {**old, comparison.name: {**made, "machine": machine()}}
            write_json(page.RESULTS, {"schema": 1, "comparisons": new})
    write_bytes(page.PAGE, page.content().encode())
    print(page.PAGE.relative_to(ROOT))


if __name__ == "__main__":
    main()
