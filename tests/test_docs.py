"""What the documents name is there: files, folders, and links between them; and what there is, they name: calls, settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMED = re.compile(r"`((?:tests|bench|model|docs|protos|src)/[\w./-]*)")
LINKED = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.M)
CALL = re.compile(r"^  rpc (\w+)", re.M)
SETTING = re.compile(r"\bONHAND_[A-Z]+(?:_[A-Z]+)*\b")
BETWEEN_PROCESSES = {"ONHAND_PARENT_PID", "ONHAND_PORT_IS_SHARED", "ONHAND_CRASH_AT"}
"""What processes of onhand and its tests tell each other. Nobody else sets it."""


def anchors(document: Path) -> set[str]:
    """What a link to a heading of a document may be called."""
    titles = [re.sub(r"[^\w -]", "", title.lower()) for title in HEADING.findall(document.read_text())]
    return {title.replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_names_is_there(document: Path) -> None:
    text = document.read_text()
    named = [ROOT / name.rstrip(".") for name in NAMED.findall(text)]
    linked = [(document.parent / name if name else document, anchor) for name, anchor in LINKED.findall(text)]
    assert [str(path) for path in (*named, *(path for path, _ in linked)) if not path.exists()] == []
    assert [f"{path}#{anchor}" for path, anchor in linked if anchor and anchor not in anchors(path)] == []


def test_every_call_is_named() -> None:
    calls = {name for proto in (ROOT / "protos").rglob("*.proto") for name in CALL.findall(proto.read_text())}
    named = set(re.findall(r"\w+", "".join(document.read_text() for document in DOCUMENTS)))
    assert calls
    assert calls - named == set()


def test_every_setting_is_explained() -> None:
    settings = {name for file in (ROOT / "src").rglob("*.py") for name in SETTING.findall(file.read_text())}
    named = {name for document in DOCUMENTS for name in SETTING.findall(document.read_text())}
    assert settings - BETWEEN_PROCESSES == named
