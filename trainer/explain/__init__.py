"""Seeing inside networks: projections to pixels, strongest patches, occlusion, heatmaps, attention; one report."""

from trainer.explain.report import explain

__all__ = ["explain"]
