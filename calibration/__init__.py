"""Calibration: INT8 models that are as good as the float one, or that are not written."""
