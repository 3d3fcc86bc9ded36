"""How large an image may be: compared before anything of it is decoded, scaled or allocated."""

MAX_PIXELS = 20_000_000  # of an image, unless a setting raises it
MAX_ASPECT = 32  # longer to shorter side: scaled to the network's width, a thinner image would be very high


def check_image_size(rows: int, cols: int, *, max_pixels: int = MAX_PIXELS) -> None:
    """Whether an image of this size can be a camera's.

    Raises:
        ValueError: It has no pixels, too many, or is too thin.
    """
    if rows < 1 or cols < 1:
        raise ValueError(f"image of {cols}x{rows} has no pixels")
    if rows * cols > max_pixels:
        raise ValueError(
            f"image of {cols}x{rows} has {rows * cols / 1e6:.1f} million pixels, but at most {max_pixels / 1e6:g} "
            "million are allowed; the parameter max_image_pixels raises this"
        )
    if max(rows, cols) > MAX_ASPECT * min(rows, cols):
        raise ValueError(f"image of {cols}x{rows} is too thin to be a camera's; sides may differ {MAX_ASPECT} times")
