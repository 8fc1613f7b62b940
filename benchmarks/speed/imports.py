"""Time `import cpool` after `import torch`, each in a new process.

python benchmarks/speed/imports.py [--rounds 5]
"""

import argparse
import statistics
import subprocess
import sys

CODE = "import torch, time; t = time.perf_counter(); import cpool; print(time.perf_counter() - t)"


def main() -> None:
    """Print the median and the range."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    command = [sys.executable, "-c", CODE]
    seconds = [float(subprocess.check_output(command)) for _ in range(rounds)]
    middle = statistics.median(seconds)
    print(f"import cpool after torch: {middle:.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")


if __name__ == "__main__":
    main()
