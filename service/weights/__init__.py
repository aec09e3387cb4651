"""Weights on disk: pulled from a hub or a mirror, described by a manifest, verified, and carried in bundles."""
