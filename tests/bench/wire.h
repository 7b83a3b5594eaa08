/* What the three C programs of the bench share: a clock, sockets, WebSocket framing, a growing byte string.
 *
 * All of it is for loopback and for one thread.  A failed allocation or a socket that cannot be made ends the program
 * with a message: a bench that limps on measures something else.
 */
#ifndef EVERSTREAM_BENCH_WIRE_H
#define EVERSTREAM_BENCH_WIRE_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000LL
#define STAMP_BYTES 16 /* '@' and 15 hex digits of CLOCK_MONOTONIC in ns */

static int64_t clock_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * NS_PER_S + t.tv_nsec;
}

static void die(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
  exit(1);
}

/* ------------------------------------------------------------------ byte strings */

typedef struct {
  char *data;
  size_t from, upto, room; /* data[from..upto) is unread */
} bytes;

static size_t bytes_held(const bytes *b) { return b->upto - b->from; }

/* Makes room for `count` more bytes behind the held ones; returns where they go. */
static char *bytes_space(bytes *b, size_t count) {
  if (b->from == b->upto) b->from = b->upto = 0;
  if (b->upto + count > b->room) {
    if (b->from) {
      memmove(b->data, b->data + b->from, bytes_held(b));
      b->upto -= b->from;
      b->from = 0;
    }
    if (b->upto + count > b->room) {
      b->room = (b->upto + count) * 2;
      b->data = realloc(b->data, b->room);
      if (!b->data) die("out of memory");
    }
  }
  return b->data + b->upto;
}

static void bytes_put(bytes *b, const void *data, size_t count) {
  memcpy(bytes_space(b, count), data, count);
  b->upto += count;
}

/* ------------------------------------------------------------------ sockets */

/* The bench's programs must not outlive the one that started them, whatever happens to it. */
static void die_with_parent(void) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  signal(SIGPIPE, SIG_IGN);
}

static struct sockaddr_in loopback(int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

static void without_delay(int fd) {
  int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

/* Listens on a port the kernel chooses and prints "ready PORT". */
__attribute__((unused)) static int listen_and_tell(void) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  struct sockaddr_in address = loopback(0);
  socklen_t size = sizeof address;
  if (fd < 0 || bind(fd, (void *)&address, size) || listen(fd, 4096)) die("cannot listen: %s", strerror(errno));
  getsockname(fd, (void *)&address, &size);
  printf("ready %d\n", ntohs(address.sin_port));
  fflush(stdout);
  return fd;
}

__attribute__((unused)) static int connect_to(int port) {
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in address = loopback(port);
  if (fd < 0 || connect(fd, (void *)&address, sizeof address)) die("cannot connect to %d: %s", port, strerror(errno));
  without_delay(fd);
  return fd;
}

static void watch(int epoll, int fd, uint32_t events, void *owner, int operation) {
  struct epoll_event event = {.events = events, .data.ptr = owner};
  if (epoll_ctl(epoll, operation, fd, &event)) die("epoll: %s", strerror(errno));
}

/* ------------------------------------------------------------------ WebSocket framing */

enum { WS_TEXT = 1, WS_CLOSE = 8, WS_PING = 9, WS_PONG = 10 };

typedef struct {
  int opcode;
  size_t header, length; /* bytes of the header (mask included) and of the payload */
  const unsigned char *mask;
} ws_frame;

/* Reads the header at `data`: 1 when the whole frame is there, 0 when more bytes are needed. */
__attribute__((unused)) static int ws_read(const char *data, size_t held, ws_frame *frame) {
  const unsigned char *b = (const unsigned char *)data;
  if (held < 2) return 0;
  size_t header = 2, length = b[1] & 127, wide = length == 126 ? 2 : length == 127 ? 8 : 0;
  if (held < header + wide) return 0;
  if (wide) {
    length = 0;
    for (size_t i = 0; i < wide; i++) length = length << 8 | b[2 + i];
    header += wide;
  }
  frame->mask = b[1] & 128 ? b + header : NULL;
  if (frame->mask) header += 4;
  frame->opcode = b[0] & 15;
  frame->header = header;
  frame->length = length;
  return held >= header + length;
}

/* Writes a header for `length` bytes at `out` (14 bytes at most) and returns its size.  A client masks with zeroes. */
__attribute__((unused)) static size_t ws_header(unsigned char *out, int opcode, size_t length, int is_client) {
  size_t n = 0;
  int mask_bit = is_client ? 128 : 0;
  out[n++] = 128 | opcode;
  if (length < 126) {
    out[n++] = mask_bit | length;
  } else if (length < 65536) {
    out[n++] = mask_bit | 126;
    out[n++] = length >> 8;
    out[n++] = length;
  } else {
    out[n++] = mask_bit | 127;
    for (int shift = 56; shift >= 0; shift -= 8) out[n++] = length >> shift;
  }
  if (is_client) {
    memset(out + n, 0, 4);
    n += 4;
  }
  return n;
}

#endif
