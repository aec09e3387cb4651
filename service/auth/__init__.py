"""Tenants: who asks, with which priority and within which limits."""
