"""The device of torch by name."""

import torch


def device_from(name: str) -> torch.device:
    """The device of a name: `auto`, `cpu`, `cuda` or `cuda:<index>`.

    Raises:
        ValueError: The name is unknown, or there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:<index>, but is '{name}'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device '{name}' is not there: torch sees {torch.cuda.device_count()} CUDA devices; try auto or cpu"
        )
    return device
