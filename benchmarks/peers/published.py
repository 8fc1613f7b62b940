"""What libraries that are not run here say of themselves: published figures, not measured ones."""

from typing import NamedTuple


class Published(NamedTuple):
    """A figure of L2P on Split CIFAR-100 in ten tasks, on a ViT of ImageNet.

    Attributes:
        who: library or paper.
        accuracy: average accuracy after the last task in percent; None where no number is given.
        forgetting: in points; None likewise.
        source: where it is written.
    """

    who: str
    accuracy: float | None
    forgetting: float | None
    source: str


PUBLISHED = (
    Published("L2P, the paper", 83.83, 7.63, "Wang et al., CVPR 2022, table 1"),
    Published("LibContinual", 83.56, None, "RL-VIG/LibContinual, `reproduce/l2p/README.md`"),
    Published(
        "Mammoth",
        None,
        None,
        'aimagelab/mammoth, `REPRODUCIBILITY.md`: "verified" against the paper, without a number',
    ),
    Published(
        "PILOT", None, None, "sun-hailong/LAMDA-PILOT, `README.md`: curves in a picture, no number"
    ),
)
