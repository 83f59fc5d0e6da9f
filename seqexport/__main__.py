"""``python -m seqexport``"""

from seqexport.exporter.cli import main

main()
