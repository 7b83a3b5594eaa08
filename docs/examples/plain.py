"""A chain in plain Python: look something up, then say it, with the source.

    everstream serve docs.examples.plain:app

Where a "model" comes from is nobody's business but its own: here it is a handful of notes and a function.  The same
question always gives the same answer, so a server that dies in mid-answer is no loss: `replay` runs the function again
elsewhere, checks that it says what was shown, and goes on from there.
"""

import asyncio
import re
from collections.abc import AsyncIterator

import everstream

NOTES = {
    "opening": "The library opens at nine on weekdays and at eleven on Sundays.",
    "cards": "A card costs nothing. Bring something that shows your name and your address.",
    "fines": "There are no fines. A book that is late for a year is taken for lost.",
    "printing": "Printing is ten cents a page, in colour or not.",
}

app = everstream.create_app()


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[a-z]{4,}", text.lower()))


async def look_up(question: str) -> list[str]:
    """The notes that share words with the question, the best first."""
    await asyncio.sleep(0.1)  # as a search would take
    shared = {name: len(words_of(question) & words_of(f"{name} {note}")) for name, note in NOTES.items()}
    return sorted((name for name in NOTES if shared[name]), key=lambda name: -shared[name])


@app.model("librarian", continuation="replay", thinking=True)
async def librarian(request: everstream.Request, stream: everstream.ModelStream) -> AsyncIterator[str]:
    question = str(request.messages[-1].content)
    stream.thinking(f"Looking for {', '.join(sorted(words_of(question))) or 'nothing'}. ")
    found = await look_up(question)
    if not found:
        yield "I have no note about that. Ask about " + ", ".join(NOTES) + "."
        return
    for word in re.findall(r"\S+\s*", NOTES[found[0]]):
        yield word
        await asyncio.sleep(0.02)  # as a model would take
    yield f"\n\n*From the note on {found[0]}.*"
