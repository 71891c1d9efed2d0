"""Deterministic code: the order process and the pipeline that each of its commands passes."""
