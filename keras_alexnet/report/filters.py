"""A picture of the first layer's filters, as in figure 3 of Krizhevsky et al. 2012. NumPy and Pillow only."""

import io
import math

import numpy as np
from PIL import Image

_GAP = 1


def filters_png(kernel: np.ndarray) -> bytes:
    """Draws each filter as a small RGB picture, in a grid about twice as wide as high.

    A filter is scaled by its own largest magnitude, and 0 is mid-gray. Values that are not finite count as 0.

    Args:
        kernel: floats (height, width, 3, filters), the channels in the order red, green, blue.

    Returns:
        a PNG of one pixel per weight; the filters are 1 pixel apart, and what is between them is transparent.

    Raises:
        ValueError: `kernel` has another shape, or holds nothing.
    """
    kernel = np.asarray(kernel)
    if kernel.ndim != 4 or kernel.shape[2] != 3 or not kernel.size:
        raise ValueError(f"the kernel has the shape {kernel.shape}; expected (height, width, 3, filters).")
    height, width, _, count = kernel.shape
    rows, columns = _grid(count)
    # bfloat16, in which networks may be kept, has no infinities that NumPy's functions would know.
    weights = np.nan_to_num(kernel.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    largest = np.abs(weights).max(axis=(0, 1, 2))
    pictures = np.round(127.5 + 127.5 * weights / np.where(largest > 0, largest, 1)).astype(np.uint8)
    sheet = np.zeros((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 4), np.uint8)
    for number in range(count):
        row, column = divmod(number, columns)
        top, left = row * (height + _GAP), column * (width + _GAP)
        sheet[top : top + height, left : left + width, :3] = pictures[..., number]
        sheet[top : top + height, left : left + width, 3] = 255
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _grid(count: int) -> tuple[int, int]:
    """Rows and columns: without empty places where such a grid is between 1:1 and 4:1, as it is for 96 and 64."""
    full = [(count // columns, columns) for columns in range(1, count + 1) if count % columns == 0]
    good = [(rows, columns) for rows, columns in full if rows <= columns <= 4 * rows]
    if good:
        # The wider one of two that are equally far from 2:1, which compare by whole numbers.
        return min(good, key=lambda grid: (max(grid[1] / (2 * grid[0]), 2 * grid[0] / grid[1]), -grid[1]))
    columns = math.ceil(math.sqrt(2 * count))
    return math.ceil(count / columns), columns
