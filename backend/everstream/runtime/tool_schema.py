"""What a function wants to be given: from its signature and docstring to a JSON Schema, and from JSON to its arguments.

    def forecast(city: str, days: Annotated[int, Field(ge=1)] = 3, *, context: ToolContext) -> str: …
                 ╰──── a field each of a pydantic model ────╯        ╰─ left out: the server gives it

The same pydantic model makes the schema that a language model is shown and checks what that sends back, so the two
cannot differ.  Its fields are numbered and known by alias: a parameter may be called `copy` or `_id`, as no field of a
pydantic model may.  A parameter that was not sent is not passed on: the function's default is its own.
"""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Callable
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, PydanticUserError, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue, JsonSchemaWarningKind
from pydantic_core import CoreSchema

MISTAKES_MAX = 8  # that a model is told of at a time
CONTEXT_NAME = "context"
_NAMED: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_UNIONS: Final = (Annotated, Union, types.UnionType)
_SECTION: Final = re.compile(r"(?:Args|Arguments|Parameters):")
_GOOGLE: Final = re.compile(r"(\w+)(?: *\([^)]*\))?: *(.*)")
_REST: Final = re.compile(r":(?:param|parameter|arg|argument)\s+(?:[^:]*\s)?(\w+): *(.*)")


class WrongArguments(ValueError):
    """What a model has sent is not what the function takes; the message is for the model."""


class Signature:
    """How one function is called."""

    def __init__(self, function: Callable[..., Any], context: type, parameters: dict[str, Any] | None = None) -> None:
        """`context`: the type of what the server itself gives.  `parameters`: the schema, where the function does not
        say it; only then may it take `**arguments`.

        Raises TypeError for what cannot be called by name, or has types that are no JSON, and ValueError for
        `parameters` that are not the function's.
        """
        taken, self.open = _taken(function)
        if self.open and parameters is None:
            raise TypeError("what **arguments are to be nobody can know: give their schema, as parameters={…}")
        hints = _hints(function)
        self.contexts = tuple(name for name in taken if _is_context(name, hints, context))
        self._not_theirs = {*self.contexts, *_without_partial(function)[1]}
        self._fields = {name: f"a{n}" for n, name in enumerate(taken) if name not in self.contexts}
        self._always = {name for name in self._fields if isinstance(taken[name].default, FieldInfo)}
        told = parameter_texts(_docstring(function))
        try:
            make: Any = create_model  # its own types know only of fields that are written down
            self._model: type[BaseModel] = make(
                "Arguments",
                __config__=ConfigDict(extra="allow" if self.open else "forbid"),
                **{
                    field: _field(name, hints.get(name, Any), taken[name].default, told.get(name))
                    for name, field in self._fields.items()
                },
            )
            self.schema = parameters or self._model.model_json_schema(schema_generator=_Schema)
        except (PydanticUserError, NameError) as error:
            raise TypeError(f"its parameters are no JSON: {str(error).splitlines()[0]}") from error
        unknown = () if self.open else self.schema.get("properties", {}).keys() - self._fields.keys()
        if unknown:
            raise ValueError(f"it does not take {', '.join(sorted(unknown))}, which its parameters name")

    def arguments(self, text: str) -> dict[str, Any]:
        """What was sent, as the function is to be given it.  Raises WrongArguments, and what a validator raises."""
        return self._named(text, everything=False)

    def values(self, text: str) -> dict[str, Any]:
        """The same, with the defaults of what was not sent."""
        return self._named(text, everything=True)

    def _named(self, text: str, *, everything: bool) -> dict[str, Any]:
        try:
            checked = self._model.model_validate_json(text if text.strip() else "{}")  # no argument: some send nothing
        except ValidationError as error:
            raise WrongArguments(_mistakes(error)) from None
        sent = checked.model_fields_set
        named = {
            name: getattr(checked, field)
            for name, field in self._fields.items()
            if everything or field in sent or name in self._always
        }
        further = checked.model_extra or {}
        if mine := further.keys() & self._not_theirs:
            raise WrongArguments(f"wrong arguments: {', '.join(sorted(mine))} cannot be given")
        return named | further


class _Schema(GenerateJsonSchema):
    """Without titles, which only say the name again, and without a word on defaults that are no JSON."""

    ignored_warning_kinds: set[JsonSchemaWarningKind] = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def generate(self, schema: CoreSchema, mode: JsonSchemaMode = "validation") -> JsonSchemaValue:
        made = super().generate(schema, mode)
        for part in (made, *made.get("$defs", {}).values()):
            part.pop("title", None)
        return {"type": "object", "properties": made.pop("properties", {}), **made}


def _field(name: str, hint: Any, default: Any, told: str | None) -> tuple[Any, Any]:
    says = any(isinstance(part, FieldInfo) and part.description for part in (*get_args(hint), default))
    known = Field(alias=name) if says or not told else Field(alias=name, description=told)
    return Annotated[hint, known], ... if default is inspect.Parameter.empty else default


def _mistakes(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    told = [
        f"{'.'.join(str(part) for part in mistake['loc'])}: {mistake['msg']}".removeprefix(": ") for mistake in found
    ]
    more = f"; and {len(told) - MISTAKES_MAX} more" if len(told) > MISTAKES_MAX else ""
    return "wrong arguments: " + "; ".join(told[:MISTAKES_MAX]) + more


# --------------------------------------------------------------------------- what a function says of itself


def name_of(function: Callable[..., Any]) -> str:
    """What it is called in the code."""
    function = _without_partial(function)[0]
    return str(getattr(function, "__name__", type(function).__name__))


def description_of(function: Callable[..., Any]) -> str:
    """The first paragraph of its docstring, in one line."""
    lines: list[str] = []
    for line in map(str.strip, _docstring(function).splitlines()):
        if not line or _SECTION.fullmatch(line) or _REST.match(line):
            break
        lines.append(line)
    return " ".join(lines)


def parameter_texts(docstring: str) -> dict[str, str]:
    """What a docstring says of each parameter: in a Google-style section `Args:`, or as reST's `:param name: …`.

    A line that stands further right than the beginning of an entry goes on with it.
    """
    found: dict[str, str] = {}
    section = entries = None  # where the section's title and its entries begin
    name, depth = "", 0
    for line in docstring.splitlines():
        words, indent = line.strip(), len(line) - len(line.lstrip())
        if not words:
            continue
        if section is not None and indent <= section:
            section, name = None, ""
        if _SECTION.fullmatch(words):
            section, entries, name = indent, None, ""
            continue
        begins = _REST.match(words)
        if begins is None and section is not None and (entries is None or indent <= entries):
            begins = _GOOGLE.fullmatch(words)
            entries = indent
        if begins is not None:
            name, depth = begins[1], indent
            found[name] = begins[2]
        elif name and indent > depth:
            found[name] = f"{found[name]} {words}".strip()
        else:
            name = ""
    return {name: text for name, text in found.items() if text}


def is_asynchronous(function: Callable[..., Any]) -> bool:
    """Whether calling it takes no time, since it only makes a coroutine."""
    return inspect.iscoroutinefunction(_code(function))


def _taken(function: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """The parameters that are left to give, by name, and whether any other may be given as well."""
    code = _code(function)
    if inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code):
        raise TypeError("a tool returns its result at once, it does not yield")
    try:
        signature = inspect.signature(function)
    except ValueError:
        raise TypeError("it does not say what it takes: wrap it in a function of your own") from None
    given = _without_partial(function)[1]
    taken = {}
    is_open = False
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            is_open = True
        elif parameter.kind not in _NAMED:
            raise TypeError(f"{parameter} cannot be given by name, which is all that a model can do")
        elif name not in given:
            taken[name] = parameter
    return taken, is_open


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The types of its parameters.  What it returns may have a name that exists for type checkers only."""
    code = inspect.unwrap(_code(function))
    written = {name: hint for name, hint in getattr(code, "__annotations__", {}).items() if name != "return"}
    try:
        return get_type_hints(
            types.SimpleNamespace(__annotations__=written), getattr(code, "__globals__", {}), include_extras=True
        )
    except NameError as error:
        raise TypeError(f"the types of its parameters must be names of its module: {error}") from None


def _is_context(name: str, hints: dict[str, Any], context: type) -> bool:
    hint = hints.get(name)
    if hint is None:
        return name == CONTEXT_NAME and name not in hints
    return hint is context or (get_origin(hint) in _UNIONS and context in get_args(hint))


def _docstring(function: Callable[..., Any]) -> str:
    function = _without_partial(function)[0]
    return inspect.cleandoc(_code(function).__doc__ or function.__doc__ or "")


def _code(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function behind a partial one, a method or an object that may be called."""
    function = _without_partial(function)[0]
    if inspect.ismethod(function):
        return function.__func__
    return function if inspect.isroutine(function) else type(function).__call__


def _without_partial(function: Callable[..., Any]) -> tuple[Callable[..., Any], set[str]]:
    """The function, and which of its parameters `functools.partial` gives by name."""
    given: set[str] = set()
    while isinstance(function, functools.partial):
        given |= function.keywords.keys()
        function = function.func
    return function, given
