"""Tests of service/weights, with a small hub of their own."""
