"""Arguments that come as values at JSON paths become the JSON text of the same arguments, piece by piece."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from everstream.providers.gemini_arguments import GAP_MAX, Arguments, Step, steps_of

ROUNDS = 3000
NAMES = ("a", "b-c", "d e", "f.g", "h'i", 'j"k', "ü", "l[0]")
VALUES = (1, 0.5, True, None, "", 'he "said"\n', "é😀x", -3)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("$.a", ("a",)),
        ("a.b", ("a", "b")),
        ("$.items[12].name", ("items", 12, "name")),
        ("$['a b'][\"c\"].d", ("a b", "c", "d")),
        (r"$['it\'s']", ("it's",)),
        ("$", ()),
        ("", ()),
        ("$..a", ()),
        ("$.a[*]", ()),
        ("$.a[?@.b]", ()),
    ],
)
def test_a_path_is_read_as_its_steps(path: str, expected: tuple[Step, ...]) -> None:
    assert steps_of(path) == expected


def leaves(value: Any, path: str = "$") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            quoted = name.replace("'", "\\'")
            yield from leaves(inner, f"{path}.{name}" if name.isalnum() else f"{path}['{quoted}']")
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{path}[{index}]")
    else:
        yield path, value


def arguments_of(draw: random.Random, depth: int = 0) -> Any:
    kind = draw.random()
    if depth == 0 or (depth < 4 and kind < 0.3):
        return {
            name: arguments_of(draw, depth + 1) for name in draw.sample(NAMES, draw.randint(0 if depth == 0 else 1, 3))
        }
    if depth < 4 and kind < 0.5:
        return [arguments_of(draw, depth + 1) for _ in range(draw.randint(1, 3))]
    return draw.choice(VALUES)


def test_whatever_the_arguments_are_the_text_says_them() -> None:
    draw = random.Random(7)
    for _ in range(ROUNDS):
        given = arguments_of(draw)
        arguments, text = Arguments(), ""
        for path, value in leaves(given) if given else ():
            if isinstance(value, str):
                cut = draw.randint(0, len(value))
                text += arguments.add(path, value[:cut], True)
                text += arguments.add(path, value[cut:], draw.random() < 0.2)  # some never say that it was the last
            else:
                text += arguments.add(path, value, False)
        assert json.loads(text + arguments.close()) == given


def test_arguments_in_any_order_are_all_there_for_who_takes_the_last_of_a_name() -> None:
    draw = random.Random(8)
    for _ in range(ROUNDS):
        given = arguments_of(draw)
        told = list(leaves(given)) if given else []
        draw.shuffle(told)
        arguments = Arguments()
        text = "".join(arguments.add(path, value, False) for path, value in told) + arguments.close()
        assert json.loads(text) == given


@pytest.mark.parametrize("path", ["", "$", "$[0]", "$..x", f"$.a[{GAP_MAX + 1}]"])
def test_a_place_that_is_none_is_passed_over(path: str) -> None:
    arguments = Arguments()
    text = arguments.add("$.x", 1, False) + arguments.add(path, 2, False) + arguments.close()
    assert json.loads(text) == {"x": 1}


def test_elements_that_are_left_out_are_null() -> None:
    arguments = Arguments()
    text = arguments.add("$.a[1]", 1, False) + arguments.add("$.a[4]", 2, False) + arguments.close()
    assert json.loads(text) == {"a": [None, 1, None, None, 2]}
