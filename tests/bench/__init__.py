"""What a token costs: the server measured beside a naive relay and beside the floor, in one run.

A figure alone means nothing on a shared machine, so every figure here has company from the same minute: the *naive*
relay (`naive.py`, what most people write first) and the *floor* (`floor.c`, bytes passed on without a look).  The
three take turns, there and back again (naive, server, floor, floor, server, naive, …), and medians are compared.

    load.c  <-- WebSocket -->  naive | server | floor  <-- SSE -->  provider.c
                                   |        |
                                 valkey   valkey        each its own, AOF everysec

The provider and the load client are C, compiled when first needed: in Python they would measure themselves.  Each
delta carries the clock at its making, so latency needs no bookkeeping; CPU is read from the kernel's clock of each
process.  The files: `process` starts, watches and ends processes; `build` compiles; `targets` knows how to start the
three; `scenarios` what is done to them; `report` the medians, the table and the JSON; `micro` needs no sockets at all.

How one stream comes to thousands of readers is measured apart, since it needs readers inside the server's process:
`fanout` says what is played and what is made of it, `hall` is that process, `audience` who listens there.  `idle` and
`attack` are about the doors: very many connections that do nothing, or harm; `crowd` is a process of such clients,
`besiege` what they do that does harm, `clients` how they are told.
"""
