"""What is timed of whole models, in every runtime alike."""

PROMPT, PROMPT_REPEATS = 2048, 10
"""Tokens of the prompt whose time to the next token is taken, and how often."""

CONTEXT, WARM_STEPS, STEPS = 512, 10, 100
"""Tokens before the single ones, single ones untimed and timed."""

ANSWERS, SAMPLE = 32, 64
"""Positions after the context at which two runtimes are compared, and of how many of their logits."""
