"""A document's calls, played as they are printed, and its answers, held against those that come.

A `sh` block has the lines that a reader types: `call Service/Method <<END`, JSON, `END`; `take name path`, which keeps a value of
the last answer; `name=value`; `watch`, a stream. A `json` block after it is the last answer: `...` stands for what is left out,
`$name` for a value that is known by then, or is from then on. Whatever else is shown has to come exactly so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple

DEFINITIONS = "call() {"
"""What the block begins with that says what `call`, `watch` and `take` are."""
ELISION = "..."
BLOCK = re.compile(r"^```(sh|json)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CALL = re.compile(r"(call|watch) (\w+/\w+) <<END\n(.*?)\nEND\n", re.DOTALL)
TAKE = re.compile(r"take (\w+) ([\w.]+)\n")
SET = re.compile(r"(\w+)=([\w/-]+)\n")
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\.\.\.|[][{},]|[^][{},".]+|\.')
NAMED = re.compile(r"\$(\w+)")


class Call(NamedTuple):
    """A call as it is sent, and where it is in the document."""

    line: int
    method: str
    body: str
    is_stream: bool


class Take(NamedTuple):
    """A value of the last answer that later calls use."""

    line: int
    name: str
    path: str


class Set(NamedTuple):
    """A variable that the reader sets."""

    line: int
    name: str
    value: str


class Shown(NamedTuple):
    """The last answer, as the document shows it: a message, or what came of a stream."""

    line: int
    messages: list[Any]


Step = Call | Take | Set | Shown
Send = Callable[[str, str, str], Awaitable[Any]]
"""(method, body, actor): the answer."""
Stream = Callable[[str, str, list[Any], "Values"], Awaitable[Any]]
"""(method, body, shown, values): the first message, once all that is shown has come."""


def steps_of(document: str) -> list[Step]:
    """What a document says to do, in its order."""
    return [
        step
        for block in BLOCK.finditer(document)
        if not block[2].startswith(DEFINITIONS)
        for step in _of_block(block[1], block[2], document.count("\n", 0, block.start()) + 2)
    ]


def _of_block(language: str, text: str, first: int) -> Iterator[Step]:
    if language == "json":
        yield Shown(first, _messages(text))
        return
    at = 0
    while at < len(text):
        line = first + text.count("\n", 0, at)
        if match := CALL.match(text, at):
            yield Call(line, match[2], match[3], match[1] == "watch")
        elif match := TAKE.match(text, at):
            yield Take(line, match[1], match[2])
        elif match := SET.match(text, at):
            yield Set(line, match[1], match[2])
        else:
            raise AssertionError(f"line {line} is nothing that is played: {text[at:].splitlines()[0]}")
        at = match.end()


def _messages(text: str) -> list[Any]:
    """JSON values one after another, their elisions as `...: true` and as `...`."""
    parts: list[str] = []
    inside: list[str] = []
    for token in TOKEN.findall(text):
        if token in ("{", "["):
            inside.append(token)
        elif token in ("}", "]"):
            inside.pop()
        parts.append(token if token != ELISION else '"...": true' if inside[-1] == "{" else '"..."')
    decoder, rest, found = json.JSONDecoder(), "".join(parts).strip(), []
    while rest:
        value, end = decoder.raw_decode(rest)
        found.append(value)
        rest = rest[end:].strip()
    return found


class Values:
    """What `$name` stands for."""

    def __init__(self) -> None:
        self.named: dict[str, str] = {}

    def fill(self, text: str) -> str:
        """A call with its values in their places."""
        return NAMED.sub(lambda match: self.named[match[1]], text)

    def differences(self, shown: Any, came: Any, where: str = "") -> list[str]:
        """How what came is not what is shown. Names that are not known yet stand for what came."""
        if isinstance(shown, dict) and isinstance(came, dict):
            names = [name for name in shown if name != ELISION]
            more = [] if ELISION in shown else [f"{where}.{name} came too" for name in came if name not in shown]
            return more + [
                difference
                for name in names
                for difference in self.differences(shown[name], came.get(name), f"{where}.{name}")
            ]
        if isinstance(shown, list) and isinstance(came, list):
            return self._list_differences(shown, came, where)
        if isinstance(shown, str) and isinstance(came, str) and NAMED.search(shown):
            return self._text_differences(shown, came, where)
        # `is`: True is 1 in Python, and not in JSON.
        return [] if shown == came and type(shown) is type(came) else [f"{where}: {came!r} came, {shown!r} is shown"]

    def _list_differences(self, shown: list[Any], came: list[Any], where: str) -> list[str]:
        wanted = [each for each in shown if each != ELISION]
        if len(wanted) == len(shown):
            if len(shown) != len(came):
                return [f"{where}: {len(came)} came, {len(shown)} are shown"]
            pairs = enumerate(zip(shown, came, strict=True))
            return [text for n, (left, right) in pairs for text in self.differences(left, right, f"{where}.{n}")]
        rest = iter(enumerate(came))
        for each in wanted:
            tried: list[str] = []
            for n, other in rest:
                known = dict(self.named)
                if not (wrong := self.differences(each, other, f"{where}.{n}")):
                    break
                self.named, tried = known, tried + wrong
            else:
                return tried or [f"{where}: {each!r} did not come"]
        return []

    def _text_differences(self, shown: str, came: str, where: str) -> list[str]:
        pattern = ""
        for n, part in enumerate(NAMED.split(shown)):
            if n % 2 == 0:
                pattern += re.escape(part)
            elif part in self.named:
                pattern += re.escape(self.named[part])
            else:
                pattern += f"(?P<{part}>.+)"
        match = re.fullmatch(pattern, came)
        if match is None:
            return [f"{where}: {came!r} came, {self.named_of(shown)} is shown"]
        self.named |= match.groupdict()
        return []

    def named_of(self, shown: str) -> str:
        """What is shown, with what its names are known to be."""
        return f"{shown!r} ({', '.join(f'{n} = {self.named.get(n)!r}' for n in NAMED.findall(shown))})"


async def play(document: str, known: dict[str, str], send: Send, stream: Stream) -> int:
    """Plays a document; how many calls it has. Raises AssertionError where an answer is not as it is shown."""
    values, answer, calls = Values(), None, 0
    values.named |= known
    steps = steps_of(document)
    for n, step in enumerate(steps):
        if isinstance(step, Call):
            calls += 1
            shown = _shown_of(steps[n + 1 :])
            answer = await _answer(step, shown, values, send, stream)
        elif isinstance(step, Take):
            values.named[step.name] = value_at(answer, step.path)
        elif isinstance(step, Set):
            values.named[step.name] = step.value
        elif len(step.messages) == 1:  # else it is what came of a stream, which was looked at as it came
            wrong = values.differences(step.messages[0], answer)
            assert not wrong, f"line {step.line}: {'; '.join(wrong)}\nThe whole answer: {json.dumps(answer)}"
    return calls


def _shown_of(following: list[Step]) -> Shown | None:
    for step in following:
        if isinstance(step, Call | Shown):
            return step if isinstance(step, Shown) else None
    return None


async def _answer(call: Call, shown: Shown | None, values: Values, send: Send, stream: Stream) -> Any:
    body = values.fill(call.body)
    if call.is_stream:
        assert shown is not None, f"line {call.line}: what the stream tells has to be shown"
        return await stream(call.method, body, shown.messages, values)
    answer = await send(call.method, body, values.named.get("actor", ""))
    # A refusal has a code, and no answer does. One that nobody is shown is none that the document means.
    assert shown is not None or "code" not in answer, f"line {call.line}: {call.method} was refused: {answer}"
    return answer


def value_at(answer: Any, path: str) -> str:
    """The value at a path of names and numbers: `order.lines.0.sku`."""
    for part in path.split("."):
        answer = answer[int(part)] if part.isdigit() else answer[part]
    assert isinstance(answer, str), f"{path} is no text: {answer!r}"
    return answer
