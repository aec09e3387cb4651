"""Guardrails: texts are judged before a model reads them and before a client reads what a model says."""
