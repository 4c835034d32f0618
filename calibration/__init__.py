"""Calibration of quantised engines: the seat of the next release; nothing here is used by the device yet."""
