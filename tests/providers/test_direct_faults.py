"""The faults of `test_faults`, with the providers that ask their services directly."""

from __future__ import annotations

import json

import pytest
from tests.providers.test_faults import (  # noqa: F401  the tests are collected here, with this module's dialects
    Dialect,
    event,
    poured,
    server,
    test_a_body_that_ends_in_order_but_without_a_terminal_event_is_a_cut,
    test_a_cancel_before_the_first_byte_closes_the_connection_too,
    test_a_connection_lost_before_the_answer_is_no_timeout,
    test_a_cut_answer_is_never_called_complete,
    test_a_finished_answer_gives_its_connection_back,
    test_a_last_event_without_its_line_end_counts,
    test_a_line_of_ten_megabytes_arrives_whole,
    test_a_long_wait_is_told_and_not_sat_out,
    test_a_message_never_shows_a_key,
    test_a_refused_connection_is_a_connection_error,
    test_a_request_is_tried_again_but_an_answer_never,
    test_an_error_inside_the_stream_keeps_what_came_before,
    test_an_error_status_gets_its_code,
    test_cancelling_the_task_closes_the_providers_connection,
    test_closing_the_generator_closes_the_providers_connection,
    test_comments_and_pings_are_life_signs_without_content,
    test_data_over_two_lines_is_one_event,
    test_deltas_of_one_read_are_one_entry,
    test_line_ends_of_windows_and_split_characters_change_nothing,
    test_the_end_is_told_at_the_terminal_event_and_not_at_the_end_of_the_body,
    test_what_arrived_before_a_reset_is_kept_even_when_nobody_had_read_it_yet,
)
from tests.providers.wire_server import Reply, WireServer
from tests.providers.wires import drain

from everstream.core.events import Message, Request
from everstream.providers.cohere import CohereProvider
from everstream.providers.ollama import OllamaProvider

OLLAMA_END = b'{"message": {"role": "assistant", "content": ""}, "done": true, "done_reason": "stop"}\n'
COHERE_END = event({"type": "message-end", "delta": {"finish_reason": "COMPLETE"}})
DIALECTS = [
    Dialect(
        "ollama",
        lambda url, **rest: OllamaProvider("k", url, **{"max_retries": 0, **rest}),
        lambda text: json.dumps({"message": {"content": text}, "done": False}, ensure_ascii=False).encode() + b"\n",
        OLLAMA_END,
        OLLAMA_END,
    ),
    Dialect(
        "cohere",
        lambda url, **rest: CohereProvider("k", url, **{"max_retries": 0, **rest}),
        lambda text: event({"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": text}}}}),
        COHERE_END + b"data: [DONE]\n\n",
        COHERE_END,
    ),
]
GARBAGE = {
    "ollama": [
        b'data: {not json}\n\n{"done": true}\n',
        b'{"message": 7}\n',
        b"upstream gave up\n",
        b'data: "\xff\xfe"\n\n',
    ],
    "cohere": [b"data: {not json}\n\n", b'data: {"type": 7}\n\n', b'data: "\xff\xfe"\n\n'],
}


@pytest.fixture(params=DIALECTS, ids=lambda dialect: dialect.name)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    assert isinstance(request.param, Dialect)
    return request.param


async def test_garbage_in_the_stream_keeps_what_came_before(dialect: Dialect, server: WireServer) -> None:  # noqa: F811
    provider = dialect.make(server.url)
    for garbage in GARBAGE[dialect.name]:
        server.reply = Reply(dialect.say("one") + garbage + dialect.end, segments=(1, 9))
        outcome = await drain(provider, Request("any/model", [Message("user", "hello")]))
        assert outcome.error is not None
        assert (outcome.text, outcome.error.code, outcome.error.retryable) == ("one", "provider.invalid", True)
    await provider.aclose()
