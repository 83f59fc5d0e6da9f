"""Whether a bundle fits a board: its memory while it is built, loaded and run, against what the board has free."""
