"""Everstream: durable, resumable, cancellable streams from language models to people."""

__version__ = "0.1.0"
