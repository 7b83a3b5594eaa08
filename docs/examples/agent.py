"""A pydantic-ai agent as a model.

    pip install pydantic-ai-slim
    everstream serve docs.examples.agent:app

`FunctionModel` stands for a real model, so that this runs without a key; name another, as "openai:gpt-5.5", and nothing
else changes.  An agent's tools may have done something by the time it breaks off, so it is run again only where nothing
was shown yet, which is the default (`continuation="restart"`).
"""

import asyncio
from collections.abc import AsyncIterator

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

import everstream


async def made_up(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
    """What a model would say."""
    asked = [part.content for message in messages for part in message.parts if isinstance(part, UserPromptPart)]
    for word in f"Question {len(asked)} was: {asked[-1]}".split(" "):
        yield f"{word} "
        await asyncio.sleep(0.02)


agent = Agent(FunctionModel(stream_function=made_up), instructions="Be brief.")
app = everstream.create_app()


def history(messages: list[everstream.Message]) -> list[ModelMessage]:
    """The conversation so far, as pydantic-ai keeps it."""
    kept: list[ModelMessage] = []
    for message in messages:
        if message.role == "user":
            kept.append(ModelRequest(parts=[UserPromptPart(str(message.content))]))
        elif message.role == "assistant":
            kept.append(ModelResponse(parts=[TextPart(str(message.content))]))
    return kept


@app.model("agent")
async def ask(request: everstream.Request, stream: everstream.ModelStream) -> AsyncIterator[str]:
    *before, last = request.messages
    async with agent.run_stream(str(last.content), message_history=history(before)) as answer:
        async for words in answer.stream_text(delta=True, debounce_by=None):
            yield words
        usage = answer.usage
        stream.usage(usage.input_tokens, usage.output_tokens)
