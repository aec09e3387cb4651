"""Tenants: their weights, priorities and limits."""
