"""The text that the preset models learn: what ships with Python itself.

Three kinds of document come from the running interpreter's standard library:

    topic      a page of `pydoc_data.topics` (the language reference, as `help("for")` prints it)
    docstring  all docstrings of one source file
    source     one source file

Every document belongs to a file (a topic counts as one). The file's hash decides whether it is held out, so
no part of a held-out file is ever trained on; a paragraph that also stands in a training file is cut from
the held-out text.

    python examples/preset_corpus.py FOLDER      # writes train.bin, heldout.txt and corpus.json
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

SEPARATOR = b"\0"
REPEATS = {"topic": 3, "docstring": 2, "source": 1}  # copies of a document in the training text
HELDOUT_ONE_IN = 14
HELDOUT_BYTES = 65536
HELDOUT_KINDS = {"topic": (0.4, 24000), "docstring": (0.3, 6000), "source": (0.3, 6000)}  # share, longest
STRAIGHT_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2026": "..."})
SKIPPED_FOLDERS = frozenset(
    {"site-packages", "test", "tests", "idle_test", "encodings", "lib2to3", "pydoc_data", "__phello__"}
)


class Document(NamedTuple):
    """One text, the file that it came from, and its kind."""

    file: str
    kind: str
    text: str


class Corpus(NamedTuple):
    """The training bytes, the held-out bytes, and a summary for the training log."""

    train: bytes
    heldout: bytes
    summary: dict


def digest(text: str) -> int:
    """A number that depends on nothing but `text`."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def is_heldout(file: str) -> bool:
    """Whether everything from `file` is kept from training."""
    return digest("heldout:" + file) % HELDOUT_ONE_IN == 0


def is_clean(text: str) -> bool:
    """Whether `text` reads as English or code: nearly all ASCII, and no tables of data."""
    unusual = sum(character > "~" for character in text)
    longest = max(map(len, text.splitlines()), default=0)
    return len(text) >= 200 and unusual <= len(text) // 500 and longest <= 200


def tidy(text: str) -> str:
    """`text` with spaces for tabs and nothing at the ends of lines."""
    lines = text.expandtabs().replace("\0", "").translate(STRAIGHT_QUOTES).splitlines()
    return "\n".join(line.rstrip() for line in lines).strip() + "\n"


def docstrings(source: str) -> str:
    """The docstrings of a module, in the order they stand in it."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    texts = [inspect.cleandoc(text) for node in nodes if (text := ast.get_docstring(node, clean=False))]
    return "\n\n".join(dict.fromkeys(text for text in texts if len(text) >= 40))


def source_files(limit: int | None) -> Iterator[tuple[str, str]]:
    """Name and text of the standard library's files that can be read and parsed, sorted by name."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = [path for path in root.rglob("*.py") if not SKIPPED_FOLDERS & set(path.relative_to(root).parts)]
    for path in sorted(paths)[:limit]:
        try:
            text = path.read_text(encoding="utf-8")
            ast.parse(text)
        except (SyntaxError, UnicodeDecodeError):
            continue
        yield path.relative_to(root).as_posix(), text


def documents(limit: int | None) -> Iterator[Document]:
    """All clean documents, each text once."""
    from pydoc_data.topics import topics

    found = [Document(f"topics/{name}", "topic", text) for name, text in sorted(topics.items())]
    for file, source in source_files(limit):
        found.append(Document(file, "docstring", docstrings(source)))
        found.append(Document(file, "source", source))
    seen: set[str] = set()
    for document in found:
        text = tidy(document.text)
        if is_clean(text) and text not in seen:
            seen.add(text)
            yield document._replace(text=text)


def paragraphs(text: str) -> list[str]:
    """The pieces of `text` between blank lines."""
    return text.split("\n\n")


def training_bytes(train: list[Document]) -> bytes:
    """The training documents, repeated by kind, in an order that only their names decide."""
    copies = [(digest(f"{copy}:{d.kind}:{d.file}"), d) for d in train for copy in range(REPEATS[d.kind])]
    ordered = [document.text.encode() for _, document in sorted(copies, key=lambda item: item[0])]
    return SEPARATOR + SEPARATOR.join(ordered) + SEPARATOR


def heldout_bytes(train: list[Document], heldout: list[Document]) -> bytes:
    """Held-out text of all three kinds, without the paragraphs that a training document has too.

    A file gives its docstrings or its source, not both: the one holds the other.
    """
    known = {piece.strip() for document in train for piece in paragraphs(document.text)}
    files = sorted({d.file for d in heldout if d.kind != "topic"}, key=digest)
    kind_of = {file: ("docstring", "source")[index % 2] for index, file in enumerate(files)}
    chosen = [d for d in heldout if kind_of.get(d.file, "topic") == d.kind]
    texts, room = [], 0
    for kind, (share, longest) in HELDOUT_KINDS.items():  # what one kind leaves free, the next one may fill
        room += int(share * HELDOUT_BYTES)
        for d in sorted((d for d in chosen if d.kind == kind), key=lambda d: digest(d.file)):
            fresh = [piece for piece in paragraphs(d.text) if piece.strip() not in known]
            text = "\n\n".join(fresh).strip()[: min(longest, room)] + "\n\n"
            texts.append(text if room > 0 else "")
            room -= len(texts[-1])
    return "".join(texts).encode()[:HELDOUT_BYTES]


def gather(limit: int | None = None) -> Corpus:
    """The corpus of the running Python; `limit` keeps the first so many source files."""
    found = list(documents(limit))
    train = [document for document in found if not is_heldout(document.file)]
    heldout = [document for document in found if is_heldout(document.file)]
    corpus = Corpus(training_bytes(train), heldout_bytes(train, heldout), {})
    summary = {
        "text": "standard library and documentation of Python " + platform.python_version(),
        "licence": "Python Software Foundation License",
        "train_documents": {kind: sum(d.kind == kind for d in train) for kind in REPEATS},
        "repeats": REPEATS,
        "train_bytes": len(corpus.train),
        "heldout_bytes": len(corpus.heldout),
    }
    return corpus._replace(summary=summary)


def save(corpus: Corpus, folder: Path) -> None:
    """Writes the corpus where `load` finds it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.bin").write_bytes(corpus.train)
    (folder / "heldout.txt").write_bytes(corpus.heldout)
    (folder / "corpus.json").write_text(json.dumps(corpus.summary, indent=2) + "\n")


def load(folder: Path) -> Corpus:
    """The corpus that `save` wrote into `folder`."""
    summary = json.loads((folder / "corpus.json").read_text())
    return Corpus((folder / "train.bin").read_bytes(), (folder / "heldout.txt").read_bytes(), summary)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def main(folder: Path) -> None:
    """Gather the corpus from the running Python's standard library and write it to FOLDER."""
    corpus = gather()
    save(corpus, folder)
    click.echo(json.dumps(corpus.summary, indent=2))


if __name__ == "__main__":
    main()
