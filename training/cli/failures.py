"""What libraries' errors mean for the user of a command: one line with the remedy."""

import re

_MEANINGS = {
    r"[Ss]hared memory|Bus error": (
        "the data workers ran out of shared memory (/dev/shm): lower run.num_workers (num_workers), or give a "
        "container more, as with --shm-size 8g"
    ),
    r"DataLoader worker": (
        "a data worker was killed or died, most often for lack of memory: lower run.num_workers (num_workers) or the "
        "batch size, or give the job more memory"
    ),
    r"out of memory": (
        "the GPU is out of memory: lower optim.batch_size (optim.accumulate keeps the samples per step) or set "
        "run.recompute_activations to true"
    ),
    r"(?i)gloo|nccl|TCPStore|process group|Connection (closed|reset) by peer": (
        "another process of the run ended or can't be reached; the first message says why"
    ),
}


def meaning_of(error: RuntimeError) -> str | None:
    """The line for an error that users meet; None for one that is a fault of ours and needs its traceback."""
    text = f"{type(error).__name__}: {error}"
    return next((meaning for pattern, meaning in _MEANINGS.items() if re.search(pattern, text)), None)
