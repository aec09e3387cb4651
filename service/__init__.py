"""Roundhouse: a gateway and its vLLM engines, one OpenAI-compatible address for many self-hosted models."""
