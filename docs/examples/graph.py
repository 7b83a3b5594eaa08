"""A LangGraph graph as a model.

    pip install langgraph
    everstream serve docs.examples.graph:app

Nodes say their words through LangGraph's stream writer; what a node has found out is shown as thinking.  The facts are
kept as a checkpoint as soon as there are words beside them, so that a server which takes the answer over need not look
them up again: it starts the graph at `write`, with the facts, and leaves out the words that were sent.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import TypedDict

from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph

import everstream


class State(TypedDict):
    question: str
    facts: list[str]


async def look_up(state: State) -> dict[str, list[str]]:
    await asyncio.sleep(0.1)  # as a search would take
    return {"facts": [f"It was asked: {state['question']}", "A graph has nodes.", "A graph has edges."]}


async def write(state: State) -> dict[str, str]:
    say = get_stream_writer()
    for fact in state["facts"]:
        for word in fact.split(" "):
            say(f"{word} ")
            await asyncio.sleep(0.02)  # as a model would take
    return {}


builder = StateGraph(State)
builder.add_node("look_up", look_up)
builder.add_node("write", write)
builder.add_conditional_edges(START, lambda state: "write" if state["facts"] else "look_up")
builder.add_edge("look_up", "write")
builder.add_edge("write", END)
graph = builder.compile()

app = everstream.create_app()


@app.model("graph", continuation="exact", thinking=True)
async def ask(request: everstream.Request, stream: everstream.ModelStream) -> AsyncIterator[str]:
    sent = stream.resume_from
    facts: list[str] = sent.checkpoint or [] if sent else []
    to_skip = len(sent.text) if sent else 0
    state = {"question": str(request.messages[-1].content), "facts": facts}
    async for mode, part in graph.astream(state, stream_mode=["updates", "custom"]):
        if mode == "custom":
            words, to_skip = part[to_skip:], max(to_skip - len(part), 0)
            yield words
        elif part.get("look_up"):
            facts = part["look_up"]["facts"]
            if not sent:
                stream.thinking(f"Found {len(facts)} facts. ")
            stream.checkpoint(facts)
