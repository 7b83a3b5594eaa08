"""The desk of a library: one tool that may be called freely, and one that somebody has to allow now and then.

    everstream serve docs.examples.tools_app:app

`app/desk` stands for a real model, so that this runs without a key: it calls the tool whose name begins with the first
word that it is told ("find emma", "order 3 dracula").  Any other model is offered the same tools.
"""

from collections.abc import AsyncIterator
from typing import Annotated, TypedDict

from pydantic import Field

import everstream

SHELVES = {"Emma": 4, "Dracula": 7, "Ulysses": 9}
ORDERS: list[tuple[str, str, int]] = []

app = everstream.create_app()


class Found(TypedDict):
    title: str
    shelf: int


@app.tool(repeatable=True)
async def find_book(title: str) -> list[Found]:
    """Look up on which shelf a book stands.

    Args:
        title: The title, or a part of it.
    """
    return [Found(title=name, shelf=shelf) for name, shelf in SHELVES.items() if title.lower() in name.lower()]


@app.tool(approval=lambda arguments: arguments["copies"] > 1, timeout_s=10)
def order_book(title: str, copies: Annotated[int, Field(ge=1, le=9)] = 1, *, context: everstream.ToolContext) -> str:
    """Order copies of a book from another library.

    Args:
        title: The whole title.
        copies: How many; more than one must be allowed by a librarian.
    """
    name = title.title()
    if name not in SHELVES:
        raise everstream.ToolError(f"No library has {name}. There are: {', '.join(SHELVES)}.")
    ORDERS.append((context.user, name, copies))
    return f"{copies} of {name} will come on Monday."


@app.model("desk", tools=True)
async def desk(request: everstream.Request, stream: everstream.ModelStream) -> AsyncIterator[str]:
    last = request.messages[-1]
    if last.role == "tool":
        yield f"Here is what I was told: {last.content}"
        return
    verb, *words = str(last.content).split()
    tools = [tool.name for tool in request.params.tools or () if tool.name.startswith(verb.lower())]
    if not tools or not words:
        yield "Tell me to find or to order a book."
        return
    copies = {"copies": int(words.pop(0))} if words[0].isdigit() else {}
    yield "One moment. "
    stream.tool_call(tools[0], {"title": " ".join(words), **copies})
