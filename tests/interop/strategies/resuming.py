"""Half a stream, a checkpoint of Avalanche, and the other half; prints both matrices as JSON.

And of every method a strategy after a task, pickled as such a checkpoint is: prints which do not
answer as before.

A script of its own: dill pickles closures with the globals of their module, and cannot pickle the
type checker that the tests put there.
"""

import json
import sys
import warnings
from pathlib import Path

import dill
import numpy as np
import torch

warnings.simplefilter("ignore")

from avalanche.checkpointing import maybe_load_checkpoint, save_checkpoint  # noqa: E402

from tests.common.rows import LANGUAGE, ROWS  # noqa: E402
from tests.interop.strategies.runs import answers, benchmark, naive  # noqa: E402


def main(folder: Path) -> None:
    dill.settings["byref"] = True  # the trap: the optimiser's hooks cannot be pickled by value
    torch.set_num_threads(1)
    made = benchmark("vit")

    def learned(strategy, experiences):
        for experience in experiences:
            torch.manual_seed(experience.current_experience)  # of Avalanche's order of samples
            strategy.train(experience)
            strategy.eval(made.test_stream)
        return strategy

    whole = learned(naive("l2p_growing", "vit", train_mb_size=6), made.train_stream)
    save_checkpoint(
        learned(naive("l2p_growing", "vit", train_mb_size=6), made.train_stream[:2]),
        str(folder / "strategy.pkl"),
    )
    new = naive("l2p_growing", "vit", train_mb_size=6)
    resumed, start = maybe_load_checkpoint(new, str(folder / "strategy.pkl"))
    learned(resumed, made.train_stream[start:])
    found = [s.evaluator.metrics[0].matrix.to_json() for s in (whole, resumed)]
    print(json.dumps([start, *found, *others()]))


def others() -> tuple[list[str], dict[str, str]]:
    """Return the methods that came back, and what went wrong with the others."""
    good, bad = [], {}
    for row in ROWS:
        kind = "llama" if row in LANGUAGE else "vit"
        made = benchmark(kind)
        strategy = naive(row, kind, train_epochs=1)
        strategy.train(made.train_stream[0])
        try:
            again = dill.loads(dill.dumps(strategy))
        except Exception as error:
            bad[row] = f"{type(error).__name__}: {error}"
            continue
        one, other = (answers(s, made.test_stream[0]) for s in (strategy, again))
        if np.array_equal(one, other):
            good.append(row)
        else:
            bad[row] = "answers otherwise"
    return good, bad


if __name__ == "__main__":
    main(Path(sys.argv[1]))
