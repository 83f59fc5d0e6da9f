"""Attacks on what reads foreign files: ``python -m tests.attacks bundles|checkpoints|files --seconds N --seed S``."""
