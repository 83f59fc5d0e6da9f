"""Puts a server under a mixed load: see ``__main__``."""
