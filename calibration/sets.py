"""A calibration set: the crops that ranges are taken from, and where they come from; one file.

The file is a NumPy archive: ``crops`` (uint8, as the bundle's own crop makes them) and ``about`` (JSON). Its sha256
goes into everything that is calibrated with it.
"""

from __future__ import annotations

import hashlib
import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from edgepose.bundle import Bundle, Manual
from edgepose.crops import crop_affine, warp
from edgepose.errors import EdgeposeError
from edgepose.files import kind, write_beside
from edgepose.validation import STRICT, first_fault
from trainer.data.persons import Person, read_image
from trainer.progress import progress

# What numpy and zipfile raise for an archive that is damaged, encrypted, or packed in a way that Python does not know.
_DAMAGED = (OSError, ValueError, KeyError, EOFError, RuntimeError, SyntaxError, tokenize.TokenError, MemoryError,
            zipfile.BadZipFile, zlib.error)  # fmt: skip


class About(BaseModel):
    """Where a set comes from."""

    model_config = STRICT

    model: str  # bundle whose crop was used
    data: list[str]  # DATA@SPLIT that the persons were drawn from
    method: str  # of the selection
    seed: int
    pool: int  # persons that were there to choose from
    persons: list[str]  # "image name: number within the pool", in the order of the crops
    clusters: list[int] = []  # of each crop, where the method clusters
    padding: float | None = None  # of the boxes; sets of before do not say


@dataclass(frozen=True)
class CalibrationSet:
    """``crops`` [N, 3, H, W] uint8, RGB, as the network sees them; ``sha256`` of the file, '' before it is written.

    A finder's set has no file: there it is of the crops.
    """

    crops: NDArray[np.uint8]
    about: About
    sha256: str = ""

    def __len__(self) -> int:
        return len(self.crops)

    def images(self) -> NDArray[np.float32]:
        """The network's input [N, 3, H, W] float32, RGB 0..255."""
        return self.crops.astype(np.float32)


def cut(persons: list[Person], manual: Manual, what: str = "cutting crops") -> NDArray[np.uint8]:
    """Crops [N, 3, H, W] uint8 RGB of ``persons`` by the model's own box padding and input size."""
    width, height = manual.input_size
    crops = np.empty((len(persons), 3, height, width), dtype=np.uint8)
    for index, person in enumerate(progress(persons, len(persons), what)):
        crops[index] = crop(read_image(person.image), person.box, manual)
    return crops


def crop(image: NDArray[np.uint8], box: NDArray[np.float64], manual: Manual) -> NDArray[np.uint8]:
    """What the network of ``manual`` sees of ``box`` [4] in a BGR ``image`` [H, W, 3]: [3, H, W] uint8 RGB."""
    affine = crop_affine(box, manual.input_size, manual.padding)
    seen: NDArray[np.uint8] = warp(image, affine, manual.input_size)[:, :, ::-1].transpose(2, 0, 1)
    return seen


def save(chosen: CalibrationSet, path: Path) -> CalibrationSet:
    """Write the set to ``path`` (.npz), whole or not at all; returns it as read back."""
    if path.suffix != ".npz":
        raise EdgeposeError(f"{path}: a calibration set's file name ends in .npz")
    about = np.frombuffer(chosen.about.model_dump_json().encode(), dtype=np.uint8)
    with write_beside(path) as beside:
        np.savez(beside, crops=chosen.crops, about=about)
    return load(path)


def load(path: Path) -> CalibrationSet:
    """Read a set; EdgeposeError when the file is absent, damaged, or not a calibration set."""
    if kind(path) != "file":
        raise EdgeposeError(f"calibration set {path} does not exist; make one with 'edgepose-calibrate select'")
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise EdgeposeError(f"{path} is one array and no calibration set; make one with 'edgepose-calibrate "
                                "select'")  # fmt: skip
        with archive:
            crops, text = archive["crops"], archive["about"].tobytes()
        about = About.model_validate_json(text)
    except ValidationError as error:
        raise EdgeposeError(f"{path} is not a calibration set: {first_fault(About, error)}") from error
    except _DAMAGED as error:
        raise EdgeposeError(f"{path} is not a whole calibration set ({error}); make it again") from error
    if crops.dtype != np.uint8 or crops.ndim != 4 or crops.shape[1] != 3 or not 0 < len(crops) == len(about.persons):
        raise EdgeposeError(f"{path} is not a calibration set: its crops are {crops.dtype} {crops.shape} "
                            f"for {len(about.persons)} persons")  # fmt: skip
    return CalibrationSet(crops, about, hashlib.sha256(path.read_bytes()).hexdigest())


def refuse_other(chosen: CalibrationSet, bundle: Bundle) -> None:
    """EdgeposeError where the network of ``bundle`` sees people in another way than the set shows them."""
    width, height = bundle.manual.input_size
    if chosen.crops.shape[2:] != (height, width):
        raise EdgeposeError(
            f"the calibration set has crops of {chosen.crops.shape[3]} x {chosen.crops.shape[2]}, the input of "
            f"{bundle.path} is {width} x {height}; make a set with this model"
        )
    if chosen.about.padding not in (None, bundle.manual.padding):
        raise EdgeposeError(f"the calibration set was cut with a padding of {chosen.about.padding:g}, and "
                            f"{bundle.path} has {bundle.manual.padding:g}; make a set with this model")  # fmt: skip
