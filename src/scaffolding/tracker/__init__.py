"""Trackers, one file each. Each follows the files of a run from its own process (core/tracking/tracking.py)."""
