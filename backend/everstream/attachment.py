"""Files that a person hands over with a question, as the text of the first turn.

One file without a question is the question, as it stands.  Otherwise each file stands before the question between a
line that names it and one that ends it, which is how models are told of documents:

    <file name="notes.txt">
    …
    </file>

    what is this about?
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

FILE_BYTES_MAX = 8 * 1024 * 1024  # far above what a server takes in one frame
STDIN = "-"


class Unreadable(Exception):
    """A file that cannot be handed over.  The message names it and says why."""


def opening_turn(names: Sequence[str], question: str, stdin: BinaryIO) -> str | None:
    """The first turn; None where there is neither a file nor a question.  Raises Unreadable."""
    texts = [(name, text_of(name, stdin)) for name in names]
    if len(texts) == 1 and not question:
        return texts[0][1]
    files = [f'<file name="{_title(name)}">\n{text.rstrip()}\n</file>' for name, text in texts]
    return "\n\n".join([*files, *([question] if question else [])]) or None


def text_of(name: str, stdin: BinaryIO) -> str:
    """The text in a file, `-` being standard input.  Raises Unreadable."""
    try:
        data = _bytes_of(name, stdin)
    except OSError as error:
        raise Unreadable(f"cannot read {_shown(name)}: {error.strerror or error}") from None
    if len(data) > FILE_BYTES_MAX:
        raise Unreadable(f"{_shown(name)} is larger than {FILE_BYTES_MAX // (1024 * 1024)} MiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise Unreadable(f"{_shown(name)} is not a text file (in UTF-8)")
    if not text.strip():
        raise Unreadable(f"{_shown(name)} is empty")
    return text


def _bytes_of(name: str, stdin: BinaryIO) -> bytes:
    """No more than can be told from too much: the file may be a device that never ends."""
    if name == STDIN:
        return stdin.read(FILE_BYTES_MAX + 1)
    with Path(name).open("rb") as file:
        return file.read(FILE_BYTES_MAX + 1)


def _shown(name: str) -> str:
    return "standard input" if name == STDIN else name


def _title(name: str) -> str:
    return _shown(name) if name == STDIN else Path(name).name
