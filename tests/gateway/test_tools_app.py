"""An application's tools: how they are registered, what a model will be told of them, and what cannot be one."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field
from tests.gateway.applications import QUICK, under_ours, under_uvicorn
from tests.gateway.conftest import client_of

from everstream import App, ToolContext, ToolError, create_app
from everstream.core.events import Tool
from everstream.runtime.node import Node
from everstream.runtime.tools import ServerTool, ToolOutcome, ToolRunner, Tools


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Place(BaseModel):
    """Somewhere in the house."""

    room: str
    shelf: int = Field(default=1, description="Counted from below.")


def tool_of(function: Callable[..., Any], **declared: Any) -> ServerTool:
    return Tools().add(function, **declared)


def properties_of(function: Callable[..., Any]) -> Any:
    return tool_of(function).parameters["properties"]


# --------------------------------------------------------------------------- registering


def test_a_decorated_function_is_a_tool_and_stays_a_function() -> None:
    app = create_app(QUICK)

    @app.tool
    def bare(word: str) -> str:
        return word.upper()

    @app.tool()
    def called(word: str) -> str:
        return word

    @app.tool(name="other-name", description="Says it.", approval=True, timeout_s=5, repeatable=True)
    def declared(word: str) -> str:
        return word

    assert bare("still") == "STILL"
    assert list(app.tools) == ["bare", "called", "other-name"]
    tool = app.tools["other-name"]
    assert (tool.description, tool.approval, tool.timeout_s, tool.repeatable) == ("Says it.", True, 5, True)
    tool = app.tools["bare"]
    assert (tool.description, tool.approval, tool.timeout_s, tool.repeatable) == ("", False, None, False)


def test_tools_may_be_given_when_the_application_is_made() -> None:
    def first() -> None: ...
    def second() -> None: ...

    for app in (create_app(QUICK, tools=[first, second]), App(QUICK, tools=[first, second])):
        assert list(app.tools) == ["first", "second"]


def test_a_tool_is_described_as_a_model_is_offered_it() -> None:
    def find(book: str) -> str:
        """Look for a book,
        in the whole house.

        It is not fast.
        """
        return book

    assert tool_of(find).described() == Tool(
        "find",
        "Look for a book, in the whole house.",
        {
            "type": "object",
            "properties": {"book": {"type": "string"}},
            "additionalProperties": False,
            "required": ["book"],
        },
    )


@contextlib.contextmanager
def nodes_noted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Node]]:
    noted: list[Node] = []
    start = Node.start

    async def noting(node: Node) -> None:
        noted.append(node)
        await start(node)

    with monkeypatch.context() as patch:
        patch.setattr(Node, "start", noting)
        yield noted


@pytest.mark.parametrize("under", [under_ours, under_uvicorn])
async def test_the_node_has_the_application_s_tools_also_those_that_come_later(
    monkeypatch: pytest.MonkeyPatch, under: Callable[[App], AsyncIterator[str]]
) -> None:
    app = create_app(QUICK)
    with nodes_noted(monkeypatch) as nodes:
        async with under(app):  # type: ignore[attr-defined]
            app.tool(name="late")(lambda: None)
    assert [list(node.tools) for node in nodes] == [["late"]]


# --------------------------------------------------------------------------- the schema


def test_types_become_json_schema() -> None:
    def order(
        book: str,
        copies: Annotated[int, Field(ge=1, le=9)] = 1,
        colour: Colour = Colour.RED,
        speed: Literal["slow", "fast"] | None = None,
        places: list[Place] = [],  # noqa: B006  it is only told
    ) -> None: ...

    schema = tool_of(order).parameters
    assert schema["properties"] == {
        "book": {"type": "string"},
        "copies": {"type": "integer", "minimum": 1, "maximum": 9, "default": 1},
        "colour": {"$ref": "#/$defs/Colour", "default": "red"},
        "speed": {"anyOf": [{"enum": ["slow", "fast"], "type": "string"}, {"type": "null"}], "default": None},
        "places": {"type": "array", "items": {"$ref": "#/$defs/Place"}, "default": []},
    }
    assert (schema["required"], schema["additionalProperties"]) == (["book"], False)
    assert schema["$defs"]["Colour"] == {"enum": ["red", "blue"], "type": "string"}
    assert schema["$defs"]["Place"]["description"] == "Somewhere in the house."
    assert schema["$defs"]["Place"]["properties"]["shelf"]["description"] == "Counted from below."


def test_a_function_without_parameters_has_an_empty_object() -> None:
    assert tool_of(lambda: None, name="nothing").parameters == {
        "type": "object",
        "properties": {},
        "additionalProperties": False,
    }


def test_names_that_pydantic_keeps_for_itself_are_fine() -> None:
    def odd(copy: str, model_config: str, _id: int, schema: int = 1) -> None: ...

    assert list(properties_of(odd)) == ["copy", "model_config", "_id", "schema"]
    assert tool_of(odd).signature.arguments('{"copy":"c","model_config":"m","_id":1}') == {
        "copy": "c",
        "model_config": "m",
        "_id": 1,
    }


def google(a: int, b: int, c: Annotated[int, Field(description="Its own.")], d: int = 1) -> None:
    """Add them.

    Args:
        a (int): The first,
            note: the most important.
        b:
            The second.
        c: Not this.
        *rest: There are none.

    Returns:
        d: nothing to do with it.

    d: nor has this.
    """


def rest(a: int, b: int, c: Annotated[int, Field(description="Its own.")], d: int = 1) -> None:
    """Add them.
    :param a: The first,
      note: the most important.
    :param int b: The second.
    :param c: Not this.
    :returns: Nothing.
    """


@pytest.mark.parametrize("function", [google, rest])
def test_parameters_are_described_by_the_docstring_or_better(function: Callable[..., Any]) -> None:
    tool = tool_of(function)
    assert tool.description == "Add them."
    told = {name: part.get("description") for name, part in tool.parameters["properties"].items()}
    assert told == {"a": "The first, note: the most important.", "b": "The second.", "c": "Its own.", "d": None}


def test_a_field_as_default_is_pydantic_s_way_to_say_both() -> None:
    def pick(n: int = Field(3, le=9, description="How many."), of: list[str] = Field(default_factory=list)) -> None: ...  # noqa: B008

    tool = tool_of(pick)
    assert tool.parameters["properties"]["n"] == {
        "type": "integer",
        "maximum": 9,
        "default": 3,
        "description": "How many.",
    }
    assert tool.signature.arguments("{}") == {"n": 3, "of": []}


def test_the_server_s_own_parameters_are_no_business_of_the_model() -> None:
    def keep(text: str, database: object, context: ToolContext) -> None: ...

    assert list(properties_of(functools.partial(keep, database=object()))) == ["text"]


def test_a_schema_of_one_s_own_is_offered_as_it_is() -> None:
    schema = {"type": "object", "properties": {"anything": {"type": "string", "title": "Anything"}}}
    tool = tool_of(lambda **arguments: arguments, name="open", parameters=schema)
    assert tool.parameters == schema
    assert tool.signature.arguments('{"anything": "goes", "more": 1}') == {"anything": "goes", "more": 1}


# --------------------------------------------------------------------------- approval


def test_approval_is_needed_always_never_or_by_the_arguments() -> None:
    def pay(amount: int, dry: bool = False) -> None: ...

    def always_or_never(approval: bool) -> ServerTool:
        return tool_of(pay, approval=approval)

    assert always_or_never(True).needs_approval("{}")
    assert not always_or_never(False).needs_approval("no JSON")
    over_100 = tool_of(pay, approval=lambda arguments: arguments["amount"] > 100 and not arguments["dry"])
    assert over_100.needs_approval('{"amount": 101}')
    assert not over_100.needs_approval('{"amount": 100}')
    assert not over_100.needs_approval('{"amount": 101, "dry": true}')


def test_a_predicate_sees_what_the_function_will_get() -> None:
    def erase(path: str, force: bool = False) -> None: ...

    tool = tool_of(erase, approval=lambda arguments: arguments["force"] is True)
    assert tool.needs_approval('{"path": "a", "force": "yes"}'), "a text that the function is given as true"
    assert not tool.needs_approval('{"path": "a", "force": "no"}')
    assert not tool.needs_approval('{"path": "a"}'), "the default"


@pytest.mark.parametrize("arguments", ["", "[]", "no JSON", '{"amount": "much"}', '{"amount": 1, "more": 2}'])
def test_where_a_predicate_cannot_be_asked_approval_is_needed(arguments: str) -> None:
    def pay(amount: int) -> None: ...

    assert tool_of(pay, approval=lambda arguments: False).needs_approval(arguments)


def test_a_predicate_that_fails_has_not_said_that_it_is_harmless() -> None:
    def pay(amount: int) -> None: ...

    tool = tool_of(pay, approval=lambda arguments: arguments["nothing"])
    assert tool.needs_approval(json.dumps({"amount": 1}))


# --------------------------------------------------------------------------- what cannot be


def fine() -> None: ...


async def judges(arguments: dict[str, Any]) -> bool:
    return True


def yields() -> Iterator[str]:
    yield ""


async def yields_later() -> AsyncIterator[str]:
    yield ""


def takes_a_function(then: Callable[[], None]) -> None: ...


def takes_what_no_json_is(tools: Tools) -> None: ...


def takes_what_nobody_knows(what: Nobody) -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("function", "declared", "why"),
    [
        (fine, {"name": "two words"}, "no name for a tool"),
        (fine, {"name": ""}, "no name for a tool"),
        (fine, {"name": "n" * 65}, "no name for a tool"),
        (lambda: None, {}, "'<lambda>' is no name for a tool"),
        (fine, {"timeout_s": 0}, "timeout_s"),
        (fine, {"timeout_s": float("inf")}, "timeout_s"),
        (fine, {"timeout_s": float("nan")}, "timeout_s"),
        (fine, {"parameters": {"properties": {}}}, '"type": "object"'),
        (fine, {"parameters": {"type": "object", "properties": {"a": {}}}}, "does not take a"),
    ],
)
def test_a_value_that_cannot_be_is_refused(function: Any, declared: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        tool_of(function, **declared)


@pytest.mark.parametrize(
    ("function", "declared", "why"),
    [
        ("fine", {}, "must be a function"),
        (Place, {}, "must be a function"),
        (fine, {"approval": "always"}, "approval of the tool 'fine'"),
        (fine, {"approval": judges}, "approval of the tool 'fine'"),
        (yields, {}, "'yields' cannot be a tool: a tool returns its result at once"),
        (yields_later, {}, "a tool returns its result at once"),
        (lambda *words: None, {"name": "a"}, r"\*words cannot be given by name"),
        (lambda word, /: None, {"name": "a"}, "word cannot be given by name"),
        (lambda **words: None, {"name": "a"}, "give their schema"),
        (takes_a_function, {}, "its parameters are no JSON"),
        (takes_what_no_json_is, {}, "its parameters are no JSON"),
        (takes_what_nobody_knows, {}, "name 'Nobody' is not defined"),
    ],
)
def test_what_is_no_such_function_is_refused(function: Any, declared: dict[str, Any], why: str) -> None:
    with pytest.raises(TypeError, match=why):
        tool_of(function, **declared)


def test_a_name_is_taken_once() -> None:
    app = create_app(QUICK, tools=[fine])
    with pytest.raises(ValueError, match="there is a tool 'fine' already"):
        app.tool(fine)
    with pytest.raises(ValueError, match="already"):
        create_app(QUICK, tools=[fine, fine])


# --------------------------------------------------------------------------- the example


async def test_the_example_s_tools_do_what_it_says() -> None:
    module = importlib.import_module("docs.examples.tools_app")
    tools, context = module.app.tools, ToolContext("s_1", "t_1", "call_1", "ann", "bob")
    module.ORDERS.clear()
    runner = ToolRunner(tools, timeout_s=10)
    found = await runner.run("find_book", '{"title": "dra"}', context)
    assert found == ToolOutcome('[{"title":"Dracula","shelf":7}]', is_error=False)
    assert [tools["order_book"].needs_approval(f'{{"title": "emma", "copies": {n}}}') for n in (1, 2)] == [False, True]
    ordered = await runner.run("order_book", '{"title": "emma", "copies": 2}', context)
    assert (ordered.content, module.ORDERS) == ("2 of Emma will come on Monday.", [("ann", "Emma", 2)])
    refused = await runner.run("order_book", '{"title": "It"}', context)
    assert refused == ToolOutcome("No library has It. There are: Emma, Dracula, Ulysses.", is_error=True)
    with pytest.raises(ToolError):
        module.order_book("It", context=context)
    await runner.stop()


async def test_a_model_is_offered_no_tools_where_the_client_sends_the_whole_history() -> None:
    app = importlib.import_module("docs.examples.tools_app").app
    async with under_ours(app) as place, client_of(f"ws://{place}/ws") as client:
        stream = await client.generate("app/desk", messages=[{"role": "user", "content": "find emma"}])
        assert (await client.ended(stream))["reason"] == "complete"
        assert client.streams[stream].text == "Tell me to find or to order a book."
