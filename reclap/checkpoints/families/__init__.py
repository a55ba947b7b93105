"""Checkpoints of other projects: how they name and lay out what ours holds."""
