"""One command of ``seqexport`` a file."""
