"""How much of the tests a run is for: all (``make test TESTS=all``), or what a change should wait for."""

import os

ALL = os.environ.get("SEQEXPORT_TESTS") == "all"
