"""Weights on disk: pulled from a hub or a mirror, verified against a manifest, packed into bundles."""
