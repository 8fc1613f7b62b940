"""What other libraries call accuracy, forgetting and transfer, each under the library's name.

On one and the same matrix six libraries give six forgettings, so a number from a paper compares
only with the definition of the paper's code. The numbers of this package's own tables are those of
`cpool.metrics.functional`.
"""

from cpool.metrics.variants.avalanche import (
    avalanche_experience_bwt,
    avalanche_experience_forgetting,
    avalanche_experience_forward_transfer,
    avalanche_stream_bwt,
    avalanche_stream_forgetting,
    avalanche_stream_forward_transfer,
    avalanche_top1_acc_stream,
)
from cpool.metrics.variants.coda import coda_forgetting
from cpool.metrics.variants.continuum import (
    continuum_accuracy,
    continuum_accuracy_a,
    continuum_average_incremental_accuracy,
    continuum_average_incremental_accuracy_all,
    continuum_backward_transfer,
    continuum_forgetting,
    continuum_forward_transfer,
    continuum_positive_backward_transfer,
    continuum_remembering,
)
from cpool.metrics.variants.l2p import (
    l2p_average_accuracy,
    l2p_backward,
    l2p_forgetting,
    l2p_learning_accuracy,
)
from cpool.metrics.variants.mammoth import (
    mammoth_average_accuracy,
    mammoth_backward_transfer,
    mammoth_forgetting,
    mammoth_forgetting_as_stored,
    mammoth_forgetting_full_rows,
    mammoth_forward_transfer,
    mammoth_forward_transfer_as_stored,
)
from cpool.metrics.variants.pilot import (
    pilot_average_accuracy,
    pilot_forgetting,
    pilot_top1_curve,
)

__all__ = [
    "avalanche_experience_bwt",
    "avalanche_experience_forgetting",
    "avalanche_experience_forward_transfer",
    "avalanche_stream_bwt",
    "avalanche_stream_forgetting",
    "avalanche_stream_forward_transfer",
    "avalanche_top1_acc_stream",
    "coda_forgetting",
    "continuum_accuracy",
    "continuum_accuracy_a",
    "continuum_average_incremental_accuracy",
    "continuum_average_incremental_accuracy_all",
    "continuum_backward_transfer",
    "continuum_forgetting",
    "continuum_forward_transfer",
    "continuum_positive_backward_transfer",
    "continuum_remembering",
    "l2p_average_accuracy",
    "l2p_backward",
    "l2p_forgetting",
    "l2p_learning_accuracy",
    "mammoth_average_accuracy",
    "mammoth_backward_transfer",
    "mammoth_forgetting",
    "mammoth_forgetting_as_stored",
    "mammoth_forgetting_full_rows",
    "mammoth_forward_transfer",
    "mammoth_forward_transfer_as_stored",
    "pilot_average_accuracy",
    "pilot_forgetting",
    "pilot_top1_curve",
]
