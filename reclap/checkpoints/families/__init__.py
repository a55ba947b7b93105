"""Checkpoints of other projects, converted to our configuration and tensor names."""
