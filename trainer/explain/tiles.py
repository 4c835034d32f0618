"""Drawing for sheets: tiles with a caption, heat over a crop, signals as colours, grids."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edgepose.crops import BORDER

BGR = NDArray[np.uint8]
PAPER = (255, 255, 255)
_STRIP = 18  # pixels for a caption
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def fitted(picture: BGR, side: int, span: int = 0) -> BGR:
    """``picture`` [h, w, 3] in a tile of ``side``, grey around it; ``span`` of its pixels fill the tile (0: all)."""
    zoom = side / max(span, *picture.shape[:2])
    size = (max(round(picture.shape[1] * zoom), 1), max(round(picture.shape[0] * zoom), 1))
    # Single pixels stay visible as squares where they are enlarged much.
    way = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR if zoom < 4 else cv2.INTER_NEAREST
    tile = np.full((side, side, 3), BORDER, dtype=np.uint8)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    tile[top : top + size[1], left : left + size[0]] = cv2.resize(picture, size, interpolation=way)
    return tile


def heat(crop: BGR, values: NDArray[np.floating]) -> BGR:
    """``values`` [h, w], 0..1, as colour from blue to red over a greyed ``crop`` [H, W, 3]; 0 shows the crop."""
    share = np.clip(cv2.resize(values.astype(np.float32), crop.shape[1::-1], interpolation=cv2.INTER_LINEAR), 0, 1)
    colours = cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_TURBO).astype(np.float32)
    grey = cv2.cvtColor(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR).astype(np.float32)
    alpha = 0.8 * np.sqrt(share)[..., None]
    return (0.75 * grey * (1 - alpha) + colours * alpha).astype(np.uint8)


def signed(signal: NDArray[np.floating]) -> BGR:
    """A signal [h, w, 3] as a picture: mid-grey is none, the strongest few pixels reach full contrast."""
    top = max(float(np.percentile(np.abs(signal).max(axis=-1), 99.5)), 1e-12)
    # Less than proportional, so that faint outlines beside a strong centre can be seen.
    shown = np.sign(signal) * np.clip(np.abs(signal) / top, 0, 1) ** 0.7
    return np.asarray(shown * 127 + 128, dtype=np.uint8)


def write(picture: BGR, text: str, at: tuple[int, int], scale: float = 0.4, ink: int = 40) -> None:
    """Put one line of ``text`` into ``picture``, its baseline beginning at ``at`` (x, y)."""
    cv2.putText(picture, text, at, _FONT, scale, (ink,) * 3, 1, cv2.LINE_AA)


def length(text: str, scale: float) -> int:
    """Width of a line of text in pixels."""
    return int(cv2.getTextSize(text, _FONT, scale, 1)[0][0])


def captioned(tile: BGR, text: str) -> BGR:
    """``tile`` under a strip with ``text``, which is made smaller, then cut at its front, until it fits."""
    width = tile.shape[1]
    scale = 0.4
    while scale > 0.32 and length(text, scale) > width - 4:
        scale -= 0.02
    while length(text, scale) > width - 4 and len(text) > 4:
        text = ".." + text[3:]
    strip = np.full((_STRIP, width, 3), PAPER, dtype=np.uint8)
    write(strip, text, (2, _STRIP - 5), scale)
    return np.vstack([strip, tile])


def grid(tiles: list[BGR], columns: int, gap: int = 4) -> BGR:
    """Equally sized tiles in rows of ``columns`` on white, ``gap`` pixels apart."""
    columns = min(columns, len(tiles))
    padded = [cv2.copyMakeBorder(t, 0, gap, 0, gap, cv2.BORDER_CONSTANT, value=PAPER) for t in tiles]
    padded += [np.full_like(padded[0], PAPER[0])] * (-len(padded) % columns)
    rows = [np.hstack(padded[i : i + columns]) for i in range(0, len(padded), columns)]
    return np.asarray(np.vstack(rows)[: -gap or None, : -gap or None], dtype=np.uint8)


def paragraph(text: str, width: int, scale: float = 0.5) -> BGR:
    """``text`` [h, width, 3] in black on white, broken between words."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and length(longer, scale) > width - 8:
            lines.append(word)
        else:
            lines[-1] = longer
    height = round(40 * scale)
    picture = np.full((height * len(lines) + 10, width, 3), PAPER, dtype=np.uint8)
    for number, line in enumerate(lines):
        write(picture, line, (4, height * (number + 1) - height // 4), scale)
    return picture
