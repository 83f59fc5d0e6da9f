"""What is timed of whole models, in every runtime alike."""

PROMPT, PROMPT_REPEATS = 2048, 10
"""Tokens of the prompt whose time to the next token is taken, and how often."""

CONTEXT, WARM_STEPS, STEPS = 512, 10, 100
"""Tokens before the single ones, single ones untimed and timed."""

PEERS = ("mamba_ssm", "causal_conv1d")
"""Packages with kernels that transformers calls where they are installed."""
