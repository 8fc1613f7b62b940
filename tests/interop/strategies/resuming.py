"""Half a stream, a checkpoint of Avalanche, and the other half; prints both matrices as JSON.

A script of its own: dill pickles closures with the globals of their module, and cannot pickle the
type checker that the tests put there.
"""

import json
import sys
import warnings
from pathlib import Path

import dill
import torch

warnings.simplefilter("ignore")

from avalanche.checkpointing import maybe_load_checkpoint, save_checkpoint  # noqa: E402

from tests.interop.strategies.runs import benchmark, naive  # noqa: E402


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
    print(json.dumps([start, *found]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
