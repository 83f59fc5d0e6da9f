"""A console assistant that goes on where it ended, as examples/jetson is in C++: python assistant.py BUNDLE SESSION"""

import sys
from pathlib import Path

import seqexport

bundle, file = sys.argv[1], Path(sys.argv[2])
with seqexport.load(bundle) as model:
    session = model.restore(file) if file.exists() else model.session()
    for line in sys.stdin:
        for text in model.resume(session, line):
            print(text, end="", flush=True)
        print()
        session.save(file)
