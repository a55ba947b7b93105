"""Checkpoints: model folders, safetensors, the hub; those of other projects in `families`."""
