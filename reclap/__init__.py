"""Contrastive language-audio models on CPUs."""

__version__ = "0.1.0"
