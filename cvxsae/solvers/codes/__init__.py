"""Exact codes for a fixed dictionary, datapoint by datapoint."""
