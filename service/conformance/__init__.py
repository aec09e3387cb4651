"""Proof that a model of the catalogue runs: its structure in small, on the real engine, against transformers."""
