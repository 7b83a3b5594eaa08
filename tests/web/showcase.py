"""Two models that answer like real ones, for pictures: `everstream serve tests.web.showcase:app`.

Both say the same; one thinks first and writes at the pace of a large model, the other is quick.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import everstream

THINKING = (
    "The question is about a lost connection in the middle of an answer. Two things matter: what was already shown, "
    "and what the model goes on writing meanwhile. Both lie in one log, so the place in it is all that has to be said."
)
ANSWER = """Your browser asks for **everything after the last word it has**, and gets it in one piece. Nothing is \
shown twice, and nothing is lost.

| while you were away | what happens to the answer |
|---|---|
| the network broke off | it is written on, and kept |
| you reloaded the page | it is shown again, as far as it is |
| the server was restarted | another one carries it on |
| you pressed *Stop* elsewhere | it ends at that word |

In a program it is four lines:

```python
async with Client("wss://chat.example/ws") as client:
    stream = await client.generate("app/guide", "How does a lighthouse work?")
    async for text in stream.text_deltas():  # whatever breaks off in between
        print(text, end="", flush=True)
```

The place is a pair of numbers, `epoch` and `offset`. [The protocol](https://example.com/protocol) says more.
"""

app = everstream.create_app()


@app.model("guide", continuation="replay", thinking=True)
async def guide(request: everstream.Request, stream: everstream.ModelStream) -> AsyncIterator[str]:
    await asyncio.sleep(0.45)  # pause: so does a model
    for word in _words(THINKING):
        stream.thinking(word)
        await asyncio.sleep(0.01)  # pause: the pace of a model
    for word in _words(ANSWER):
        yield word
        await asyncio.sleep(0.02)  # pause: the pace of a model


@app.model("guide-mini", continuation="replay")
async def guide_mini(request: everstream.Request, stream: everstream.ModelStream) -> AsyncIterator[str]:
    await asyncio.sleep(0.2)  # pause: so does a model
    for word in _words(ANSWER):
        yield word
        await asyncio.sleep(0.008)  # pause: the pace of a smaller one


def _words(text: str) -> list[str]:
    return re.findall(r"\S+\s*|\s+", text)
