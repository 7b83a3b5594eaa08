/* The floor: a relay that only passes bytes on.  What it costs, no relay on this machine can go below.
 *
 * It speaks just enough of the protocol for load.c: `hello` -> `welcome`, `generate` -> `accepted`.  Then every read
 * from the provider goes out as one text frame, unparsed and not persisted, and `[DONE]` is followed by a
 * `stream_end`.  A read may cut an SSE line in two; the half line waits for the next read, so that every stamp arrives
 * whole.  One stream a connection at a time; the provider's connection is kept for the next one.
 *
 *   floor PROVIDER_PORT          prints "ready PORT"
 */
#include "wire.h"

#define READ_BYTES 65536
#define HEAD_BYTES 14

enum { LISTENER, CLIENT, PROVIDER };

typedef struct end {
  int fd, kind, is_upgraded, is_closed;
  struct end *peer;
  bytes in;
} end;

static int epoll, provider_port;

static end *add_end(int fd, int kind, end *peer) {
  end *e = calloc(1, sizeof *e);
  if (!e) die("out of memory");
  e->fd = fd;
  e->kind = kind;
  e->peer = peer;
  watch(epoll, fd, EPOLLIN, e, EPOLL_CTL_ADD);
  return e;
}

/* Closes one end and its peer.  The peer may still stand in the current batch of events, so neither is freed. */
static void close_pair(end *e) {
  for (int i = 0; i < 2 && e; i++, e = e->peer) {
    if (e->is_closed) continue;
    e->is_closed = 1;
    close(e->fd);
    free(e->in.data);
    e->in = (bytes){0};
  }
}

static void send_text(end *client, const char *text, size_t length) {
  unsigned char frame[HEAD_BYTES + 256];
  size_t size = ws_header(frame, WS_TEXT, length, 0);
  memcpy(frame + size, text, length);
  send(client->fd, frame, size + length, MSG_NOSIGNAL);
}

/* Sends `length` bytes at `text` as one frame; HEAD_BYTES before `text` are free for the header. */
static void send_in_place(end *client, char *text, size_t length) {
  unsigned char header[HEAD_BYTES];
  size_t size = ws_header(header, WS_TEXT, length, 0);
  memcpy(text - size, header, size);
  send(client->fd, text - size, size + length, MSG_NOSIGNAL);
}

static void ask_provider(end *client, const char *spec) {
  char body[256], request[512];
  int length = snprintf(body, sizeof body, "{\"model\":\"%s\"}", spec);
  int size = snprintf(request, sizeof request,
                      "POST /v1/chat/completions HTTP/1.1\r\nhost: provider\r\ncontent-length: %d\r\n\r\n%s", length, body);
  if (!client->peer) client->peer = add_end(connect_to(provider_port), PROVIDER, client);
  if (send(client->peer->fd, request, size, MSG_NOSIGNAL) != size) die("the provider is gone");
}

static void take_command(end *client, const char *text, size_t length) {
  static const char welcome[] = "{\"type\":\"welcome\",\"id\":1,\"protocol\":1}";
  static const char accepted[] = "{\"type\":\"accepted\",\"id\":2,\"stream\":\"r_floor\",\"epoch\":1}";
  const char *found = memmem(text, length, "sim-n", 5);
  if (!found) {
    send_text(client, welcome, sizeof welcome - 1);
    return;
  }
  char spec[128] = "";
  size_t size = 0;
  while (found + size < text + length && found[size] != '"' && size < sizeof spec - 1) size++;
  memcpy(spec, found, size);
  send_text(client, accepted, sizeof accepted - 1);
  ask_provider(client, spec);
}

static void take_client(end *client) {
  static const char upgrade[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                                "Sec-WebSocket-Protocol: everstream.v1.json\r\n\r\n";
  ssize_t n = recv(client->fd, bytes_space(&client->in, 4096), 4096, 0);
  if (n <= 0) {
    close_pair(client);
    return;
  }
  client->in.upto += n;
  if (!client->is_upgraded) {
    char *stop = memmem(client->in.data, client->in.upto, "\r\n\r\n", 4);
    if (!stop) return;
    client->is_upgraded = 1;
    client->in.from = stop + 4 - client->in.data;
    send(client->fd, upgrade, sizeof upgrade - 1, MSG_NOSIGNAL);
  }
  ws_frame frame;
  while (!client->is_closed && ws_read(client->in.data + client->in.from, bytes_held(&client->in), &frame)) {
    char *text = client->in.data + client->in.from + frame.header;
    for (size_t i = 0; frame.mask && i < frame.length; i++) text[i] ^= frame.mask[i & 3];
    if (frame.opcode == WS_TEXT) take_command(client, text, frame.length);
    client->in.from += frame.header + frame.length;
  }
}

static void take_provider(end *provider) {
  static char area[HEAD_BYTES + 2 * READ_BYTES];
  static const char over[] = "{\"type\":\"stream_end\",\"stream\":\"r_floor\",\"reason\":\"complete\"}";
  char *text = area + HEAD_BYTES;
  size_t carried = bytes_held(&provider->in);
  if (carried) memcpy(text, provider->in.data, carried);
  provider->in.from = provider->in.upto = 0;
  ssize_t n = recv(provider->fd, text + carried, READ_BYTES, 0);
  if (n <= 0) {
    close_pair(provider);
    return;
  }
  size_t length = carried + n;
  char *line = memrchr(text, '\n', length);
  size_t whole = line ? (size_t)(line + 1 - text) : 0;
  if (length > whole) bytes_put(&provider->in, text + whole, length - whole < READ_BYTES ? length - whole : READ_BYTES);
  if (!whole) return;
  int is_over = memmem(text + (whole > 40 ? whole - 40 : 0), whole > 40 ? 40 : whole, "[DONE]", 6) != NULL;
  send_in_place(provider->peer, text, whole);
  if (is_over) send_text(provider->peer, over, sizeof over - 1);
}

int main(int count, char **words) {
  if (count != 2) die("usage: floor PROVIDER_PORT");
  die_with_parent();
  provider_port = atoi(words[1]);
  int listener = listen_and_tell();
  epoll = epoll_create1(0);
  add_end(listener, LISTENER, NULL);
  struct epoll_event events[256];
  for (;;) {
    int found = epoll_wait(epoll, events, 256, -1);
    for (int i = 0; i < found; i++) {
      end *e = events[i].data.ptr;
      if (e->is_closed) continue;
      if (e->kind == CLIENT) take_client(e);
      else if (e->kind == PROVIDER) take_provider(e);
      else {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) continue;
        without_delay(fd);
        add_end(fd, CLIENT, NULL);
      }
    }
  }
}
