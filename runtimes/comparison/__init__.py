"""How exact and how fast a backend is beside the original, as tables, sentences and a page."""
