/* A provider that costs next to nothing: OpenAI's chat completions as SSE over chunked HTTP/1.1, with keep-alive.
 *
 * The model's name says what the answer is: `sim-n1000-r50-b1-t1-x7` means 1000 deltas, 50 a second (0: as fast as the
 * socket takes them), 1 delta a write, each text the time it was made (`@<15 hex digits of CLOCK_MONOTONIC ns> `), and
 * 7 as the number under which an early close is recorded.  Every part but `n` may be left out.
 *
 * One thread, one epoll set.  Paced connections wait in a heap by their next due time, with a random phase, so that
 * streams started together do not write together.  A flood writes about 32 KiB, then waits until the socket wants more.
 *
 * GET /stats answers {"requests","deltas","closes":[[x,ns],…],"answer_ns"}: `closes` are the connections that the
 * other side shut in the middle of an answer, with the clock's time; `answer_ns` is the provider's own time from the
 * request to the first byte written, in sum.
 */
#include "wire.h"

#define WRITE_BYTES 32768      /* what a flood writes in one go */
#define UNSENT_BYTES (1 << 20) /* a paced stream makes nothing new while this much waits for the reader */
#define REQUEST_BYTES (4 << 20)
#define CLOSES 4096

typedef struct {
  int fd, place; /* place in the heap, -1 outside */
  int is_streaming, wants_out, wants_usage;
  long count, per_s, per_write, is_stamped, number, made;
  int64_t due_ns, period_ns;
  bytes in, out;
} connection;

static int epoll;
static connection **heap;
static int heap_count, heap_room;
static long requests, deltas;
static int64_t answer_ns;
static struct {
  long number;
  int64_t at_ns;
} closes[CLOSES];
static int close_count;

/* ------------------------------------------------------------------ the heap of due times */

static void heap_set(int place, connection *c) {
  heap[place] = c;
  c->place = place;
}

static void heap_settle(int place) {
  connection *c = heap[place];
  for (int parent; place && heap[parent = (place - 1) / 2]->due_ns > c->due_ns; place = parent) heap_set(place, heap[parent]);
  for (int child; (child = 2 * place + 1) < heap_count; place = child) {
    if (child + 1 < heap_count && heap[child + 1]->due_ns < heap[child]->due_ns) child++;
    if (heap[child]->due_ns >= c->due_ns) break;
    heap_set(place, heap[child]);
  }
  heap_set(place, c);
}

static void heap_add(connection *c) {
  if (heap_count == heap_room) {
    heap_room = heap_room ? 2 * heap_room : 256;
    heap = realloc(heap, heap_room * sizeof *heap);
    if (!heap) die("out of memory");
  }
  heap_set(heap_count++, c);
  heap_settle(c->place);
}

static void heap_remove(connection *c) {
  int place = c->place;
  if (place < 0) return;
  c->place = -1;
  connection *last = heap[--heap_count];
  if (last == c) return;
  heap_set(place, last);
  heap_settle(place);
}

/* ------------------------------------------------------------------ what an answer is made of */

#define CHUNK_OPEN                                                                                      \
  "data: {\"id\":\"chatcmpl-Bm9kQ3vTz7LxWc2RfYh5NdPs8uJ1a\",\"object\":\"chat.completion.chunk\","      \
  "\"created\":1763700000,\"model\":\"sim\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_5e1a0c93d7\"," \
  "\"choices\":["
#define CHUNK_CLOSE ",\"obfuscation\":\"k3Vd9QxZ\"}\n\n"

static const char *WORDS[] = {" Every", " token", " that", " a", " person", " saw", ",", " stays", " seen", ".",
                              " A", " stream", " is", " a", " log", ";", " each", " reader", " a", " cursor",
                              " on", " it", ".", " caf\xc3\xa9", "\\n\\n", "##", " End", "ings", ":", " none"};

static void put_chunk(connection *c, const char *data, int length) {
  char size[16];
  bytes_put(&c->out, size, snprintf(size, sizeof size, "%x\r\n", length));
  bytes_put(&c->out, data, length);
  bytes_put(&c->out, "\r\n", 2);
}

static void put_event(connection *c, const char *choice, const char *usage) {
  char event[1024];
  put_chunk(c, event, snprintf(event, sizeof event, CHUNK_OPEN "%s],\"usage\":%s" CHUNK_CLOSE, choice, usage));
}

static void put_head(connection *c) {
  static const char head[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
                             "transfer-encoding: chunked\r\nx-request-id: req_bench\r\ncache-control: no-cache\r\n\r\n";
  bytes_put(&c->out, head, sizeof head - 1);
  put_event(c, "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null},\"logprobs\":null,"
               "\"finish_reason\":null}", "null");
}

static void put_delta(connection *c) {
  char stamp[32], choice[256];
  const char *text = WORDS[c->made % (sizeof WORDS / sizeof *WORDS)];
  if (c->is_stamped) {
    snprintf(stamp, sizeof stamp, "@%015llx ", (unsigned long long)clock_ns());
    text = stamp;
  }
  snprintf(choice, sizeof choice, "{\"index\":0,\"delta\":{\"content\":\"%s\"},\"logprobs\":null,\"finish_reason\":null}", text);
  put_event(c, choice, "null");
  c->made++;
  deltas++;
}

static void put_end(connection *c) {
  static const char done[] = "data: [DONE]\n\n";
  put_event(c, "{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}", "null");
  if (c->wants_usage) {
    char usage[256];
    snprintf(usage, sizeof usage, "{\"prompt_tokens\":12,\"completion_tokens\":%ld,\"total_tokens\":%ld}", c->made, c->made + 12);
    put_event(c, "", usage);
  }
  put_chunk(c, done, sizeof done - 1);
  bytes_put(&c->out, "0\r\n\r\n", 5);
  c->is_streaming = 0;
}

static void put_stats(connection *c) {
  char *body = NULL;
  size_t size = 0;
  FILE *text = open_memstream(&body, &size);
  fprintf(text, "{\"requests\":%ld,\"deltas\":%ld,\"answer_ns\":%lld,\"closes\":[", requests, deltas, (long long)answer_ns);
  for (int i = 0; i < close_count; i++) fprintf(text, "%s[%ld,%lld]", i ? "," : "", closes[i].number, (long long)closes[i].at_ns);
  fprintf(text, "]}");
  fclose(text);
  char head[128];
  bytes_put(&c->out, head,
            snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n", size));
  bytes_put(&c->out, body, size);
  free(body);
}

/* ------------------------------------------------------------------ a connection's life */

static void want_out(connection *c, int wanted) {
  if (c->wants_out == wanted) return;
  c->wants_out = wanted;
  watch(epoll, c->fd, EPOLLIN | (wanted ? EPOLLOUT : 0), c, EPOLL_CTL_MOD);
}

/* Writes what is held.  Returns 0 when the connection is lost. */
static int flush(connection *c) {
  while (bytes_held(&c->out)) {
    ssize_t n = send(c->fd, c->out.data + c->out.from, bytes_held(&c->out), MSG_NOSIGNAL);
    if (n < 0 && errno == EAGAIN) break;
    if (n < 0) return 0;
    c->out.from += n;
  }
  want_out(c, bytes_held(&c->out) || (c->is_streaming && !c->per_s));
  return 1;
}

static int write_flood(connection *c) {
  while (bytes_held(&c->out) < WRITE_BYTES && c->made < c->count) put_delta(c);
  if (c->made >= c->count) put_end(c);
  return flush(c);
}

static int write_due(connection *c, int64_t now_ns) {
  if (bytes_held(&c->out) < UNSENT_BYTES)
    for (long i = 0; i < c->per_write && c->made < c->count; i++) put_delta(c);
  if (c->made >= c->count) {
    put_end(c);
    heap_remove(c);
  } else {
    c->due_ns += c->period_ns;
    if (c->due_ns < now_ns - NS_PER_S) c->due_ns = now_ns; /* more than a second late: forget the debt */
    heap_settle(c->place);
  }
  return flush(c);
}

static long part_of(const char *spec, const char *end, char letter, long otherwise) {
  for (const char *p = spec; p + 2 < end && *p != '"'; p++)
    if (p[0] == '-' && p[1] == letter) return strtol(p + 2, NULL, 10);
  return otherwise;
}

/* Begins the answer that the request at in[0..size) asks for.  Returns 0 when the connection is lost. */
static int answer(connection *c, const char *request, size_t size) {
  int64_t begun_ns = clock_ns();
  const char *spec = memmem(request, size, "sim-n", 5), *end = request + size;
  if (!spec) {
    static const char missing[] = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
    if (memmem(request, size < 32 ? size : 32, "/stats", 6)) put_stats(c);
    else bytes_put(&c->out, missing, sizeof missing - 1);
    return flush(c);
  }
  c->count = part_of(spec, end, 'n', 1);
  c->per_s = part_of(spec, end, 'r', 0);
  c->per_write = part_of(spec, end, 'b', 1);
  c->is_stamped = part_of(spec, end, 't', 0);
  c->number = part_of(spec, end, 'x', 0);
  c->wants_usage = memmem(request, size, "include_usage", 13) != NULL;
  if (c->per_write < 1) c->per_write = 1;
  c->made = 0;
  c->is_streaming = 1;
  requests++;
  put_head(c);
  int alive = 1;
  if (c->per_s) {
    c->period_ns = NS_PER_S * c->per_write / c->per_s;
    c->due_ns = begun_ns + (int64_t)(drand48() * c->period_ns);
    heap_add(c);
    alive = flush(c);
  } else {
    alive = write_flood(c);
  }
  answer_ns += clock_ns() - begun_ns;
  return alive;
}

/* Answers the requests that have wholly come, one after the other.  Returns 0 when the connection is lost. */
static int take_requests(connection *c) {
  while (!c->is_streaming && bytes_held(&c->in)) {
    char *data = c->in.data + c->in.from;
    size_t held = bytes_held(&c->in);
    char *end = memmem(data, held, "\r\n\r\n", 4);
    if (!end) return held < REQUEST_BYTES;
    size_t head = end + 4 - data, body = 0;
    *end = 0;
    char *field = strcasestr(data, "\r\ncontent-length:");
    if (field) body = strtoul(field + 17, NULL, 10);
    *end = '\r';
    if (body > REQUEST_BYTES) return 0;
    if (held < head + body) return 1;
    c->in.from += head + body;
    if (!answer(c, data, head + body)) return 0;
  }
  return 1;
}

static void forget(connection *c) {
  if (c->is_streaming && close_count < CLOSES) {
    closes[close_count].number = c->number;
    closes[close_count++].at_ns = clock_ns();
  }
  heap_remove(c);
  close(c->fd);
  free(c->in.data);
  free(c->out.data);
  free(c);
}

static void welcome(int listener) {
  for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
    connection *c = calloc(1, sizeof *c);
    if (!c) die("out of memory");
    without_delay(fd);
    c->fd = fd;
    c->place = -1;
    watch(epoll, fd, EPOLLIN, c, EPOLL_CTL_ADD);
  }
}

static void serve(connection *c, uint32_t events) {
  int alive = 1;
  if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
    ssize_t n = recv(c->fd, bytes_space(&c->in, 65536), 65536, 0);
    if (n > 0) c->in.upto += n;
    alive = n > 0 || (n < 0 && errno == EAGAIN);
  }
  if (alive && events & EPOLLOUT) alive = c->is_streaming && !c->per_s ? write_flood(c) : flush(c);
  if (!alive || !take_requests(c)) forget(c);
}

int main(void) {
  die_with_parent();
  int listener = listen_and_tell();
  epoll = epoll_create1(0);
  watch(epoll, listener, EPOLLIN, NULL, EPOLL_CTL_ADD);
  struct epoll_event events[256];
  for (;;) {
    struct timespec wait, *bound = NULL;
    if (heap_count) {
      int64_t left_ns = heap[0]->due_ns - clock_ns();
      if (left_ns < 0) left_ns = 0;
      wait = (struct timespec){.tv_sec = left_ns / NS_PER_S, .tv_nsec = left_ns % NS_PER_S};
      bound = &wait;
    }
    int count = epoll_pwait2(epoll, events, 256, bound, NULL);
    for (int i = 0; i < count; i++) {
      if (events[i].data.ptr) serve(events[i].data.ptr, events[i].events);
      else welcome(listener);
    }
    int64_t now_ns = clock_ns();
    while (heap_count && heap[0]->due_ns <= now_ns) {
      connection *c = heap[0];
      if (!write_due(c, now_ns)) forget(c);
    }
  }
}
