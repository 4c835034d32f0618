"""The README's picture: some frames of demo.mp4 side by side.

.venv/bin/python deploy/demo/picture.py demo.mp4 docs/demo.png 140 350 600
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np


def main(film: str, picture: str, *numbers: str) -> None:
    capture = cv2.VideoCapture(film)
    frames = []
    for number in sorted(int(n) for n in numbers):
        capture.set(cv2.CAP_PROP_POS_FRAMES, number)
        found, frame = capture.read()
        if not found:
            sys.exit(f"error: {film} has no frame {number}")
        left = (frame.shape[1] - frame.shape[0]) // 2
        frames.append(frame[:, left : left + frame.shape[0]])
    Path(picture).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(picture, np.hstack(frames))


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit("usage: picture.py FILM.mp4 OUT.png FRAME [FRAME ...]")
    main(*sys.argv[1:])
