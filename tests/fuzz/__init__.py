"""What nobody meant to send, sent: mutated commands, frames and requests against the codec and against a real server.

`inputs` makes them, from a seed; `codec` feeds them to the protocol in this process, a million in a minute or two;
`frames` and `requests` send them over sockets, while a `neighbour` streams and notes how long its tokens take; `siege`
puts that together around a server and says what has come of it.  `python -m tests.fuzz` runs any of them.
"""
