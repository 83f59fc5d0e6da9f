"""One graph pass a file: a function that changes the model it is given, in place. ``targets.py`` runs them."""
