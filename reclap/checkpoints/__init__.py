"""Checkpoints: model folders, tensors on disk, the hub, and `families` for other projects'."""
