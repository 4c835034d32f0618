"""Data sets: labelled persons from LSP, COCO-keypoint and MPII files, their splits, and training samples."""

from trainer.data.persons import Person, PersonSet, load

__all__ = ["Person", "PersonSet", "load"]
