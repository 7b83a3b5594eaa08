"""The documents keep step with the code: what a person can set, send, receive or be told is named in them.

`PROTOCOL.md` is what a client is written from, so it names every frame, command and error code in `code` quotes, and
none that does not exist.  Settings and metrics may be explained in any document.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

import pytest
from tests.house.tree import ROOT, documents, package_modules, told, tracked_texts

from everstream.config import describe
from everstream.core.commands import COMMANDS
from everstream.core.errors import FAULTS
from everstream.core.events import EVENTS as RESPONSE_EVENTS
from everstream.core.protocol import SERVER_FRAMES
from everstream.core.session_events import SESSION_EVENTS

EVENTS = (*RESPONSE_EVENTS, *SESSION_EVENTS)
PROTOCOL = "backend/PROTOCOL.md"
REQUIRED = ("README.md", "CHANGELOG.md", "LICENSE", "backend/ARCHITECTURE.md", PROTOCOL)

# A dotted name in code quotes that begins like an error code.  (`session.…` may be a command, so it is left out.)
FAMILIES = sorted({code.partition(".")[0] for code in FAULTS if "." in code} - {"session"})
CODE_LIKE = re.compile(rf"`((?:{'|'.join(FAMILIES)})\.[a-z_]+)`")
METRIC = re.compile(r"everstream_[a-z0-9_]+[a-z0-9]")
NO_METRICS = frozenset({"everstream_web"})
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
COMMAND_LINE = re.compile(r"(?:^|`|\$ )make ([a-z]+)\b", re.MULTILINE)


def _text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def _quoted(name: str, text: str) -> bool:
    """Is `name` in `text` as code: between quotes of either kind, or first in a quoted phrase?"""
    return re.search(rf"[`\"]{re.escape(name)}[`\"\s=({{]", text) is not None


def _unnamed(names: Iterable[str], text: str) -> list[str]:
    return [name for name in names if not _quoted(name, text)]


@pytest.mark.parametrize("path", REQUIRED)
def test_the_documents_that_everybody_looks_for_exist(path: str) -> None:
    assert _text(path).strip()


def test_every_error_code_is_in_the_protocol() -> None:
    missing = _unnamed(FAULTS, _text(PROTOCOL))
    assert not missing, told(missing)


def test_the_protocol_names_no_error_code_that_does_not_exist() -> None:
    unknown = sorted({code for code in CODE_LIKE.findall(_text(PROTOCOL)) if code not in FAULTS})
    assert not unknown, told(unknown)


def test_every_close_code_is_in_the_protocol() -> None:
    text = _text(PROTOCOL)
    codes = {fault.close_code for fault in FAULTS.values() if fault.close_code is not None}
    missing = sorted(code for code in codes if not re.search(rf"\b{code}\b", text))
    assert not missing, told(missing)


def test_every_frame_is_in_the_protocol() -> None:
    tags = [str(event.__struct_config__.tag) for event in EVENTS]
    missing = _unnamed((*tags, *SERVER_FRAMES), _text(PROTOCOL))
    assert not missing, told(missing)


def test_every_field_of_every_entry_is_in_the_protocol() -> None:
    fields = sorted({name for event in EVENTS for name in event.__struct_fields__})
    missing = _unnamed(fields, _text(PROTOCOL))
    assert not missing, told(missing)


def test_every_command_is_in_the_protocol() -> None:
    missing = _unnamed(COMMANDS, _text(PROTOCOL))
    assert not missing, told(missing)


def test_every_setting_is_in_a_document() -> None:
    text = "\n".join(text for path, text in documents().items() if path != "CHANGELOG.md")
    missing = [row.name for row in describe() if not any(_quoted(name, text) for name in (row.name, row.env, row.flag))]
    assert not missing, told(missing)


def test_every_metric_is_in_a_document() -> None:
    text = "\n".join(documents().values())
    names = {
        node.value
        for module in package_modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and METRIC.fullmatch(node.value)
    }
    missing = _unnamed(sorted(names - NO_METRICS), text)
    assert not missing, told(missing)


def test_every_link_between_documents_leads_somewhere() -> None:
    broken = [
        f"{path} -> {target}"
        for path, text in documents().items()
        for target in LINK.findall(text)
        if "://" not in target
        and not target.startswith("mailto:")
        and not (ROOT / path).parent.joinpath(target).exists()
    ]
    assert not broken, told(broken)


def test_every_make_target_that_is_recommended_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", tracked_texts()["Makefile"], re.MULTILINE))
    wrong = [
        f"{path}: make {target}"
        for path, text in documents().items()
        for target in COMMAND_LINE.findall(text)
        if target not in targets
    ]
    assert not wrong, told(wrong)
