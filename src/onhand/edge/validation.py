"""The rules that the protos declare for their fields, as one Python function for each message type.

`rules.proto` says what a rule means; here is what it leaves open:

- A field that breaks its rules gives one violation, of the first rule it breaks. A list that is too long is not looked into.
- An empty text is judged by `required` only, because it says that nothing was given. An item of a list was given: an empty one
  must match `pattern` and `form` like any other, and `required` holds for a list and for each of its items.
- Text has no control characters: a NUL is an error in PostgreSQL, and the others have no use in ids, names and reasons.
- An enum has a number that the proto names.
- A field in a oneof, or declared optional, is judged if it is set.
- The messages of a list with `each` are left to whoever works on them one by one.
- google.type.Money, Timestamp and FieldMask belong to `onhand.wire`, which reads them in the handlers. A LatLng is on the globe.

The functions are generated as source: that was measured to be the fastest, see docs/decisions/0002-validation.md.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from onhand.domain.errors import FieldViolation, InvalidRequest
from onhand.v1 import rules_pb2

VIOLATIONS_MAX = 20
"""How many violations a refusal names; the search ends there."""
VIOLATIONS_LENGTH_MAX = 2000
"""How many characters they may have together, the first apart. A refusal travels in trailers, three times over (the status
message, there and in the details, and the violations), and gRPC takes 8 KiB of them."""
VALUE_LENGTH_MAX = 40
"""How many characters of an offending value are told."""
TEXT_LENGTH_MAX = 256
"""Of a text without max_length."""
ITEMS_MAX = 1000
"""Of a list without max_items."""

PACKAGE = "onhand.v1"

Found = list[FieldViolation] | None
Check = Callable[[Any], Found]
"""Looks at one message; None if it breaks no rule."""
_Patterns = tuple[tuple[re.Pattern[str], str], ...]
"""What a text must match, and how that is said."""

_FORMS: Mapping[int, tuple[str, str]] = {
    rules_pb2.FORM_UUID: (
        r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",
        "be a UUID, 32 hexadecimal digits with hyphens",
    ),
    rules_pb2.FORM_SKU: (
        r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}",
        "be a sku, 1 to 64 of A-Z a-z 0-9 . _ : - with a letter or digit first",
    ),
    rules_pb2.FORM_LOCATION: (
        r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
        "be a location, 1 to 64 of A-Z a-z 0-9 . _ - with a letter or digit first",
    ),
    rules_pb2.FORM_REQUEST: (r"[A-Za-z0-9._:-]{8,128}", "be a request_id, 8 to 128 of A-Z a-z 0-9 . _ : -"),
    rules_pb2.FORM_GTIN: (r"[0-9]{8,14}", "be a GTIN, 8 to 14 digits"),
    rules_pb2.FORM_CURRENCY: (r"[A-Z]{3}", "be a currency, three capital letters"),
}
"""Pattern and description. None of them matches a control character, or more than 128 characters."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_INTEGERS: Mapping[int, tuple[int, int]] = {
    **dict.fromkeys((FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_SINT32), (-(2**31), 2**31 - 1)),
    **dict.fromkeys((FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_SINT64), (-(2**63), 2**63 - 1)),
    **dict.fromkeys((FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_FIXED32), (0, 2**32 - 1)),
    **dict.fromkeys((FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_FIXED64), (0, 2**64 - 1)),
    FieldDescriptor.TYPE_SFIXED32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_SFIXED64: (-(2**63), 2**63 - 1),
}
_KINDS: Mapping[int, str] = {
    FieldDescriptor.TYPE_STRING: "text",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_ENUM: "enum",
    FieldDescriptor.TYPE_MESSAGE: "message",
    FieldDescriptor.TYPE_DOUBLE: "number",
    FieldDescriptor.TYPE_FLOAT: "number",
    **dict.fromkeys(_INTEGERS, "number"),
}
_FITTING: Mapping[str, frozenset[str]] = {
    "text": frozenset({"required", "max_length", "pattern", "form"}),
    "number": frozenset({"required", "min", "max"}),
    "enum": frozenset({"required"}),
    "message": frozenset({"required"}),
    "bytes": frozenset({"required"}),
    "bool": frozenset(),
}
"""Which rules a kind of field, or of an item, can have. A rule that is new in rules.proto fits none until it is written here."""


class RuleMisfit(Exception):
    """A rule that its field cannot have: a mistake in a proto, told when the server starts."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}")


class Validator:
    """Checks requests against the rules of their fields. Raises `RuleMisfit` for rules that make no sense."""

    def __init__(self, message_types: Iterable[type[Message]]) -> None:
        types = list(message_types)
        checks = _compile(cast(Descriptor, message_type.DESCRIPTOR) for message_type in types)
        self._checks = {message_type: checks[message_type.DESCRIPTOR.full_name] for message_type in types}

    def check(self, message: Message) -> None:
        """Raises `InvalidRequest` with what is wrong, within the bounds above; KeyError for a type not compiled."""
        found = self._checks[type(message)](message)
        if found is not None:
            raise InvalidRequest(tuple(_within_length(found)))


def _within_length(found: list[FieldViolation]) -> list[FieldViolation]:
    length = 0
    for count, violation in enumerate(found):
        length += len(violation.field) + len(violation.description)
        if count and length > VIOLATIONS_LENGTH_MAX:
            return found[:count]
    return found


# ------------------------------------------------------------------------------- what the generated functions call
# All of these run only when something is wrong, or (_text) may be.
def _add(found: Found, field: str, description: str) -> Found:
    if found is None:
        return [FieldViolation(field, description)]
    if len(found) < VIOLATIONS_MAX:
        found.append(FieldViolation(field, description))
    return found


def _nest(found: Found, field: str, inner: list[FieldViolation]) -> Found:
    for violation in inner:
        found = _add(found, f"{field}.{violation.field}", violation.description)
    return found


def _text(found: Found, field: str, value: str, length_max: int | None, patterns: _Patterns) -> Found:
    if length_max is not None and len(value) > length_max:
        return _add(found, field, f"must have at most {length_max} characters, not {len(value)}: {_clip(value)}")
    if control := _CONTROL.search(value):
        return _add(found, field, f"must not have control characters like U+{ord(control[0]):04X}: {_clip(value)}")
    for pattern, description in patterns:
        if not pattern.fullmatch(value):
            return _add(found, field, f"must {description}; not {_clip(value)}")
    return found  # not printable, as Python sees it, but no control character: a soft hyphen, a joined emoji


def _number(found: Found, field: str, value: float, smallest: int | None, largest: int | None) -> Found:
    if smallest is not None and value < smallest:
        return _add(found, field, f"must be at least {smallest}, not {value}")
    if largest is not None and value > largest:
        return _add(found, field, f"must be at most {largest}, not {value}")
    return _add(found, field, f"must be a number, not {value}")


def _lat_lng(value: Any) -> Found:
    found: Found = None
    # Written so that NaN, which is on neither side of anything, is refused too.
    if not -90 <= value.latitude <= 90:
        found = _add(found, "latitude", f"must be -90 to 90, not {value.latitude}")
    if not -180 <= value.longitude <= 180:
        found = _add(found, "longitude", f"must be -180 to 180, not {value.longitude}")
    return found


def _clip(value: str) -> str:
    text = ascii(value[: VALUE_LENGTH_MAX + 1])
    return text if len(text) <= VALUE_LENGTH_MAX else text[:VALUE_LENGTH_MAX] + "..."


_FOREIGN: Mapping[str, Check | None] = {
    "google.protobuf.FieldMask": None,
    "google.protobuf.Timestamp": None,
    "google.type.LatLng": _lat_lng,
    "google.type.Money": None,
}
"""Messages of others: how they are checked here, if they are."""


# -------------------------------------------------------------------------------------------------- the generator
def _compile(roots: Iterable[Descriptor]) -> dict[str, Check]:
    """The checks of all message types that can be reached, by full name."""
    source = _Source()
    for root in roots:
        source.function_of(root, root.full_name)
    while source.waiting:
        message = source.waiting.pop()
        source.write(0, f"def {source.functions[message.full_name]}(message):")
        source.write(1, "found = None")
        for field in message.fields:
            _write_field(source, field)
        source.write(1, "return found")
    text = "\n".join(source.lines) + "\n"
    filename = f"<rules of {PACKAGE}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)  # for tracebacks
    exec(compile(text, filename, "exec"), source.names)
    return {full_name: source.names[function] for full_name, function in source.functions.items()}


class _Source:
    """Source that is being written, and the names it uses."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[str, Any] = {
            "add": _add,
            "nest": _nest,
            "text": _text,
            "number": _number,
            "isfinite": isfinite,
        }
        self.functions: dict[str, str] = {}
        """The name of the function of each message type of ours, by full name."""
        self.waiting: list[Descriptor] = []
        """Types whose function has a name, and is to be written. A type may contain itself."""

    def write(self, depth: int, line: str) -> None:
        """One line, indented."""
        self.lines.append("    " * depth + line)

    def constant(self, prefix: str, value: object) -> str:
        """A name for a value."""
        name = f"{prefix}_{len(self.names)}"
        self.names[name] = value
        return name

    def function_of(self, message: Descriptor, where: str) -> str | None:
        """The name of a message type's function; None if nothing of it is checked."""
        full_name = message.full_name
        if full_name in _FOREIGN:
            check = _FOREIGN[full_name]
            return None if check is None else self.constant("foreign", check)
        if message.file.package != PACKAGE:
            raise RuleMisfit(where, f"it is not known here how a {full_name} is checked")
        if full_name not in self.functions:
            self.functions[full_name] = "check_" + full_name.replace(".", "_")
            self.waiting.append(message)
        return self.functions[full_name]


def _write_field(source: _Source, field: FieldDescriptor) -> None:
    rules = _rules(field)
    cases = _cases(source, field, rules)
    path = repr(field.name)
    require = f"found = add(found, {path}, 'is required')"
    if field.is_repeated:
        items_max = rules.max_items if rules.HasField("max_items") else ITEMS_MAX
        source.write(1, f"values = message.{field.name}")
        source.write(1, "count = len(values)")
        source.write(1, f"if count > {items_max}:")
        source.write(2, f"found = add(found, {path}, f'must have at most {items_max} items, not {{count}}')")
        if rules.required:
            source.write(1, "elif count == 0:")
            source.write(2, require)
        if cases:
            source.write(1, "else:")
            source.write(2, "for index, value in enumerate(values):")
            _write_cases(source, 3, cases, f"f'{field.name}[{{index}}]'")
            source.write(3, "else:")
            source.write(4, "continue")
            source.write(3, f"if found is not None and len(found) >= {VIOLATIONS_MAX}:")
            source.write(4, "return found")
    elif field.has_presence:
        if rules.required:
            source.write(1, f"if not message.HasField({path}):")
            source.write(2, require)
        if cases:
            source.write(1, "else:" if rules.required else f"if message.HasField({path}):")
            source.write(2, f"value = message.{field.name}")
            _write_cases(source, 2, cases, path)
    elif cases:
        source.write(1, f"value = message.{field.name}")
        _write_cases(source, 1, cases, path)


def _write_cases(source: _Source, depth: int, cases: list[tuple[str, str]], path: str) -> None:
    """An if for the first rule that is broken: the condition, and what to do with the path."""
    for number, (condition, action) in enumerate(cases):
        source.write(depth, f"{'elif' if number else 'if'} {condition}:")
        source.write(depth + 1, "found = " + action.replace("PATH", path))


def _cases(source: _Source, field: FieldDescriptor, rules: rules_pb2.FieldRules) -> list[tuple[str, str]]:
    """What is wrong with `value`, a field or an item of a list, and what is then called."""
    kind = _KINDS[field.type]
    if kind == "message" and rules.each:
        return []
    if kind == "message":
        function = source.function_of(cast(Descriptor, field.message_type), field.full_name)
        return [] if function is None else [(f"(inner := {function}(value)) is not None", "nest(found, PATH, inner)")]
    cases = [("not value", "add(found, PATH, 'is required')")] if rules.required else []
    if kind == "text":
        cases.append(_text_case(source, field, rules))
    elif kind == "enum":
        enum = cast(EnumDescriptor, field.enum_type)
        known = source.constant("known", frozenset(enum.values_by_number))
        cases.append((f"value not in {known}", f"add(found, PATH, f'must be a value of {enum.name}, not {{value}}')"))
    elif kind == "number":
        smallest = rules.min if rules.HasField("min") else None
        largest = rules.max if rules.HasField("max") else None
        wrong = [] if field.type in _INTEGERS else ["not isfinite(value)"]
        wrong += [] if smallest is None else [f"value < {smallest}"]
        wrong += [] if largest is None else [f"value > {largest}"]
        if wrong:
            cases.append((" or ".join(wrong), f"number(found, PATH, value, {smallest}, {largest})"))
    return cases


def _text_case(source: _Source, field: FieldDescriptor, rules: rules_pb2.FieldRules) -> tuple[str, str]:
    patterns = []
    wrong = []
    length_max: int | None = TEXT_LENGTH_MAX
    if rules.form:
        pattern, description = _FORMS[rules.form]
        patterns.append((re.compile(pattern), description))
        length_max = None
    if rules.HasField("max_length"):
        length_max = rules.max_length
    if length_max is not None:
        wrong.append(f"len(value) > {length_max}")  # before any pattern: it bounds what that can cost
    if not rules.form:
        wrong.append("not value.isprintable()")  # quicker than a pattern; no control character is printable
    if rules.pattern:
        patterns.append((re.compile(rules.pattern), f"match {rules.pattern}"))
    wrong += [f"not {source.constant('matches', pattern.fullmatch)}(value)" for pattern, _ in patterns]
    condition = " or ".join(wrong)
    if patterns and not rules.required and not field.is_repeated:
        condition = f"value and ({condition})"
    return condition, f"text(found, PATH, value, {length_max}, {source.constant('patterns', tuple(patterns))})"


# ------------------------------------------------------------------------------------------- rules that make sense
def _rules(field: FieldDescriptor) -> rules_pb2.FieldRules:
    """The rules of a field. Raises `RuleMisfit` if it cannot have them."""
    rules = field.GetOptions().Extensions[rules_pb2.rules]

    def misfit(why: str) -> RuleMisfit:
        return RuleMisfit(field.full_name, why)

    kind = _KINDS.get(field.type)
    if kind is None or (kind == "message" and cast(Descriptor, field.message_type).GetOptions().map_entry):
        raise misfit("maps and groups are not checked here; use a list of messages")
    for rule, _ in rules.ListFields():
        if rule.name == "max_items":
            if not field.is_repeated:
                raise misfit("max_items fits a list only")
        elif rule.name == "each":
            if kind != "message" or not field.is_repeated:
                raise misfit("each fits a list of messages only")
        elif rule.name not in _FITTING[kind]:
            raise misfit(f"{rule.name} does not fit a {kind} field")
    if rules.required and _is_in_oneof(field):
        raise misfit("required does not fit a field in a oneof: the others could never be set")
    for limit in ("max_length", "max_items"):
        if rules.HasField(limit) and getattr(rules, limit) < 1:
            raise misfit(f"{limit} is less than 1")
    for bound in ("min", "max"):
        smallest, largest = _INTEGERS.get(field.type, (-(2**63), 2**63 - 1))
        if rules.HasField(bound) and not smallest <= getattr(rules, bound) <= largest:
            raise misfit(f"{bound} is no number that the field can have")
    if rules.HasField("min") and rules.HasField("max") and rules.min > rules.max:
        raise misfit("min is greater than max")
    if rules.form and rules.form not in _FORMS:
        raise misfit(f"form {rules.form} is not known")
    try:
        re.compile(rules.pattern)
    except re.error as error:
        raise misfit(f"pattern is no regular expression: {error}") from error
    return rules


def _is_in_oneof(field: FieldDescriptor) -> bool:
    # A field that is declared optional is alone in a oneof that protoc makes up.
    return field.containing_oneof is not None and field.containing_oneof.name != f"_{field.name}"
