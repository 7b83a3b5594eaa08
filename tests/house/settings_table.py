"""The table of settings as the document shows it.

`python -m tests.house.settings_table` prints it, to be pasted.
"""

from __future__ import annotations

from everstream.config import describe


def settings_table() -> str:
    rows = ["| flag | variable | default | what |", "|---|---|---|---|"]
    rows += [f"| `{row.flag}` | `{row.env}` | {row.default} | {row.description} |" for row in describe()]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(settings_table(), end="")
