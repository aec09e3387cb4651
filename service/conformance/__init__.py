"""Conformance runs: does the engine give the same output as transformers for each structure in the catalogue?"""
