/* A WebSocket load client that costs next to nothing, speaking `everstream.v1.json` to any server on loopback.
 *
 *   load MODE PORT MODEL CONNECTIONS STREAMS_EACH LIMIT_S WARM_MS REPEATS PREFIX
 *
 * MODE is one of
 *   run     every connection starts STREAMS_EACH streams at once; ends when each has ended
 *   ttft    REPEATS answers one after the other on one connection: command -> first stamped delta
 *   cancel  one endless stream a connection; when all run, they are cancelled one after the other:
 *           command -> fence, and what came after the stream's end; one that takes over PATIENCE_MS is given up
 *   resume  one stream runs to its end; then REPEATS new connections resume it from 0: hello -> last byte
 *   listen  every connection reads the stream MODEL, which has REPEATS deltas, to its end
 *   stuck   one connection asks for the streams MODEL and PREFIX, and never reads again
 *
 * A delta is a `@` and 15 hex digits: the provider's clock when it was made (see provider.c).  Latency is the clock at
 * the read that brought it, less the stamp; deltas of the first WARM_MS are counted but not timed.  A stream has ended
 * when `"type":"stream_end"` came, wherever it stands in a frame.  Nothing else of the JSON is looked at, but for the
 * stream's name and epoch in `accepted`.  One JSON object on stdout tells all; the program ends after LIMIT_S at the
 * latest, and says in `ended` how many streams did.
 */
#include "wire.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/time.h>

#define READ_BYTES 262144
#define SAMPLES 8000000
#define NAME_BYTES 128
#define HANDSHAKE_S 10
#define PATIENCE_MS 500

typedef struct {
  int fd, index;
  bytes in;
  int welcomed, accepted, fenced, started, ended, errors;
  long deltas, late; /* late: deltas after the stream's end, where it holds one stream */
  int64_t sent_ns, first_ns, fence_ns, end_ns, last_stamp;
  char stream[NAME_BYTES];
  long long epoch;
} connection;

static int epoll, port, streams_each, no_two_alike;
static const char *model, *prefix;
static int64_t deadline_ns, warm_from_ns;
static uint32_t *latency; /* in 100 ns */
static long sampled, deltas, frames, delta_frames, reads, received, disordered, errors, requests;
static char first_error[256];

static void send_frame(connection *c, int opcode, const char *format, ...) {
  char message[2048 + 14], *payload = message + 14;
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(payload, 2048, format, arguments);
  va_end(arguments);
  unsigned char header[14];
  size_t size = ws_header(header, opcode, length, 1);
  memcpy(payload - size, header, size);
  if (send(c->fd, payload - size, size + length, MSG_NOSIGNAL) != (ssize_t)(size + length)) die("cannot send a command");
}

/* ------------------------------------------------------------------ reading */

static void note_stamp(connection *c, int64_t stamp, int64_t now_ns) {
  deltas++;
  c->deltas++;
  if (!c->first_ns) c->first_ns = now_ns;
  if (streams_each == 1) {
    if (stamp < c->last_stamp + no_two_alike) disordered++;
    if (c->ended) c->late++;
    c->last_stamp = stamp;
  }
  if (now_ns < warm_from_ns || sampled == SAMPLES) return;
  int64_t taken = (now_ns - stamp) / 100;
  latency[sampled++] = taken < 0 ? 0 : taken > UINT32_MAX ? UINT32_MAX : taken;
}

/* The 15 digits behind an '@', or -1. */
static int64_t stamp_at(const char *at) {
  int64_t value = 0;
  for (int i = 1; i < STAMP_BYTES; i++) {
    int digit = at[i] >= '0' && at[i] <= '9' ? at[i] - '0' : at[i] >= 'a' && at[i] <= 'f' ? at[i] - 'a' + 10 : -1;
    if (digit < 0) return -1;
    value = value << 4 | digit;
  }
  return value;
}

static int has(const char *data, size_t length, const char *text) { return memmem(data, length, text, strlen(text)) != NULL; }

/* Copies the string or number behind `"key":` into `out`. */
static void value_of(const char *data, size_t length, const char *key, char *out) {
  const char *p = memmem(data, length, key, strlen(key)), *end = data + length;
  size_t n = 0;
  if (p)
    for (p += strlen(key), p += p < end && *p == '"'; p < end && !strchr("\",}", *p) && n < NAME_BYTES - 1; p++) out[n++] = *p;
  out[n] = 0;
}

static void take_answer(connection *c, const char *data, size_t length, int64_t now_ns) {
  if (has(data, length, "\"type\":\"welcome\"")) c->welcomed = 1;
  else if (has(data, length, "\"type\":\"accepted\"")) {
    char epoch[NAME_BYTES];
    value_of(data, length, "\"stream\":", c->stream);
    value_of(data, length, "\"epoch\":", epoch);
    c->epoch = atoll(epoch);
    c->accepted++;
  } else if (has(data, length, "\"type\":\"cancelled\"")) {
    c->fenced = 1;
    c->fence_ns = now_ns;
  } else if (has(data, length, "\"type\":\"snapshot\"") && has(data, length, "\"status\":\"ended\"")) {
    c->ended++;
    c->end_ns = now_ns;
  } else if (has(data, length, "\"type\":\"error\"")) {
    if (!errors++) snprintf(first_error, sizeof first_error, "%.*s", (int)(length < 200 ? length : 200), data);
    c->errors++;
  }
}

static void take_frame(connection *c, const char *data, size_t length, int64_t now_ns) {
  static const char end_mark[] = "\"type\":\"stream_end\"";
  const char *p = data, *end = data + length;
  long before = deltas;
  frames++;
  while ((p = memchr(p, '@', end - p)) && end - p >= STAMP_BYTES) {
    int64_t stamp = stamp_at(p);
    if (stamp >= 0) note_stamp(c, stamp, now_ns);
    p += stamp >= 0 ? STAMP_BYTES : 1;
  }
  delta_frames += deltas > before;
  for (p = data; (p = memmem(p, end - p, end_mark, sizeof end_mark - 1)); p += sizeof end_mark - 1) {
    c->ended++;
    c->end_ns = now_ns;
  }
  if (deltas == before || !c->accepted) take_answer(c, data, length, now_ns);
}

static void read_from(connection *c) {
  ssize_t n = recv(c->fd, bytes_space(&c->in, READ_BYTES), READ_BYTES, 0);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) die("the server closed connection %d after %ld deltas (%s)", c->index, c->deltas, first_error);
  int64_t now_ns = clock_ns();
  reads++;
  received += n;
  c->in.upto += n;
  ws_frame frame;
  while (ws_read(c->in.data + c->in.from, bytes_held(&c->in), &frame)) {
    const char *payload = c->in.data + c->in.from + frame.header;
    if (frame.opcode == WS_PING) send_frame(c, WS_PONG, "%.*s", (int)frame.length, payload);
    else if (frame.opcode == WS_CLOSE) die("the server sent a close frame on connection %d (%s)", c->index, first_error);
    else if (frame.opcode != WS_PONG) take_frame(c, payload, frame.length, now_ns);
    c->in.from += frame.header + frame.length;
  }
}

/* One turn: reads whatever is there, waits 100 ms at most.  Returns 0 when the time is up. */
static int turn(void) {
  static struct epoll_event events[512];
  int count = epoll_wait(epoll, events, 512, 100);
  for (int i = 0; i < count; i++) read_from(events[i].data.ptr);
  return clock_ns() < deadline_ns;
}

/* ------------------------------------------------------------------ commands */

static void open_connection(connection *c, int index) {
  memset(c, 0, sizeof *c);
  c->index = index;
  c->fd = connect_to(port);
  struct timeval patience = {.tv_sec = HANDSHAKE_S};
  setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  char upgrade[512];
  int size = snprintf(upgrade, sizeof upgrade,
                      "GET /ws HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                      "Sec-WebSocket-Key: ZXZlcnN0cmVhbS1iZW5jaA==\r\nSec-WebSocket-Version: 13\r\n"
                      "Sec-WebSocket-Protocol: everstream.v1.json\r\n\r\n", port);
  if (send(c->fd, upgrade, size, MSG_NOSIGNAL) != size) die("cannot ask for the upgrade");
  for (char *end = NULL; !end;) {
    ssize_t n = recv(c->fd, bytes_space(&c->in, 4096), 4096, 0);
    if (n <= 0) die("no answer to the upgrade of connection %d", index);
    c->in.upto += n;
    end = memmem(c->in.data, c->in.upto, "\r\n\r\n", 4);
    if (end && memcmp(c->in.data, "HTTP/1.1 101", 12)) die("upgrade refused: %.*s", (int)(end - c->in.data), c->in.data);
    if (end) c->in.from = end + 4 - c->in.data;
  }
  fcntl(c->fd, F_SETFL, fcntl(c->fd, F_GETFL) | O_NONBLOCK);
  watch(epoll, c->fd, EPOLLIN, c, EPOLL_CTL_ADD);
}

static void close_connection(connection *c) {
  close(c->fd);
  free(c->in.data);
}

static connection *open_all(int count) {
  connection *all = calloc(count, sizeof *all);
  if (!all) die("out of memory");
  for (int i = 0; i < count; i++) {
    open_connection(all + i, i);
    send_frame(all + i, WS_TEXT, "{\"type\":\"hello\",\"id\":1,\"client\":\"bench/1\"}");
    while (!all[i].welcomed)
      if (!turn()) die("no welcome on connection %d (%s)", i, first_error);
  }
  return all;
}

static void start_stream(connection *c, const char *suffix) {
  c->sent_ns = clock_ns();
  c->started++;
  send_frame(c, WS_TEXT, "{\"type\":\"generate\",\"id\":2,\"request_id\":\"%s-%ld\",\"model\":\"%s%s\","
                     "\"messages\":[{\"role\":\"user\",\"content\":\"go\"}]}", prefix, requests++, model, suffix);
}

static int sum_ended(connection *all, int count) {
  int sum = 0;
  for (int i = 0; i < count; i++) sum += all[i].ended + all[i].errors;
  return sum;
}

/* ------------------------------------------------------------------ the modes */

static int run(int count, FILE *extra) {
  connection *all = open_all(count);
  int64_t begun_ns = clock_ns(), last_ns = begun_ns;
  warm_from_ns += begun_ns;
  for (int i = 0; i < count; i++)
    for (int j = 0; j < streams_each; j++) start_stream(all + i, "");
  while (sum_ended(all, count) < count * streams_each && turn()) continue;
  for (int i = 0; i < count; i++) last_ns = all[i].end_ns > last_ns ? all[i].end_ns : last_ns;
  fprintf(extra, ",\"elapsed_s\":%.6f", (last_ns - begun_ns) / 1e9);
  return sum_ended(all, count) - (int)errors;
}

static int ttft(int repeats, FILE *extra) {
  connection *c = open_all(1);
  fprintf(extra, ",\"ttft_us\":[");
  for (int i = 0; i < repeats; i++) {
    c->first_ns = 0;
    start_stream(c, "");
    while (c->ended + c->errors <= i && turn()) continue;
    if (c->ended + c->errors <= i) break;
    fprintf(extra, "%s%.1f", i ? "," : "", (c->first_ns - c->sent_ns) / 1e3);
  }
  fprintf(extra, "]");
  return c->ended;
}

static int cancel(int count, FILE *extra) {
  connection *all = open_all(count);
  int running = 0, cancelled = 0;
  long late = 0;
  for (int i = 0; i < count; i++) {
    char number[32];
    snprintf(number, sizeof number, "-x%d", i + 1);
    start_stream(all + i, number);
  }
  for (int alive = 1; alive && running < count; alive = turn()) {
    running = 0;
    for (int i = 0; i < count; i++) running += all[i].accepted && all[i].deltas > 0;
  }
  fprintf(extra, ",\"cancels\":[");
  for (int i = 0; i < count && running == count; i++) {
    connection *c = all + i;
    c->sent_ns = clock_ns();
    send_frame(c, WS_TEXT, "{\"type\":\"cancel\",\"id\":3,\"stream\":\"%s\"}", c->stream);
    while (!(c->fenced && c->ended) && clock_ns() < c->sent_ns + PATIENCE_MS * 1000000LL && turn()) continue;
    if (!c->fenced || !c->ended) continue;
    fprintf(extra, "%s[%d,%lld,%.1f]", cancelled ? "," : "", i + 1, (long long)c->sent_ns, (c->fence_ns - c->sent_ns) / 1e3);
    cancelled++;
  }
  /* What a server still sends after an end shows within a few of the provider's periods. */
  for (int64_t until_ns = clock_ns() + NS_PER_S / 5; clock_ns() < until_ns && turn();) continue;
  for (int i = 0; i < count; i++) late += all[i].late;
  fprintf(extra, "],\"late\":%ld", late);
  return cancelled;
}

static int resume(int repeats, FILE *extra) {
  connection *first = open_all(1), again;
  start_stream(first, "");
  while (!(first->ended + first->errors) && turn()) continue;
  if (!first->ended) die("the stream to resume did not end (%s)", first_error);
  int resumed = 0;
  fprintf(extra, ",\"resume_deltas\":%ld,\"resume_us\":[", first->deltas);
  for (int i = 0; i < repeats; i++) {
    open_connection(&again, i + 1);
    again.sent_ns = clock_ns();
    send_frame(&again, WS_TEXT, "{\"type\":\"hello\",\"id\":1,\"resume\":[{\"stream\":\"%s\",\"epoch\":%lld,\"offset\":0}]}",
           first->stream, first->epoch);
    while (!(again.ended + again.errors) && turn()) continue;
    if (again.ended && again.deltas == first->deltas) resumed++;
    fprintf(extra, "%s%.1f", i ? "," : "", (again.end_ns - again.sent_ns) / 1e3);
    close_connection(&again);
  }
  fprintf(extra, "]");
  return resumed;
}

static void subscribe(connection *c, const char *stream) {
  c->accepted = 1;
  send_frame(c, WS_TEXT, "{\"type\":\"subscribe\",\"id\":2,\"stream\":\"%s\"}", stream);
}

static int listen_all(int count, int wanted, FILE *extra) {
  connection *all = open_all(count);
  long partial = 0;
  no_two_alike = 1;
  for (int i = 0; i < count; i++) subscribe(all + i, model);
  while (sum_ended(all, count) < count && turn()) continue;
  for (int i = 0; i < count; i++) partial += all[i].deltas != wanted;
  fprintf(extra, ",\"partial\":%ld", partial);
  return sum_ended(all, count) - (int)errors;
}

/* Its small window fills at once with what PREFIX has to say. */
static int stuck(void) {
  connection *c = open_all(1);
  int window = 4096;
  setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &window, sizeof window);
  subscribe(c, model);
  subscribe(c, prefix);
  while (clock_ns() < deadline_ns) usleep(100000);
  return 0;
}

/* ------------------------------------------------------------------ the report */

static int by_value(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return (x > y) - (x < y);
}

static double percentile_us(double part) {
  if (!sampled) return -1;
  long place = part * sampled;
  return latency[place < sampled ? place : sampled - 1] / 10.0;
}

int main(int count, char **words) {
  if (count != 10) die("usage: load MODE PORT MODEL CONNECTIONS STREAMS_EACH LIMIT_S WARM_MS REPEATS PREFIX");
  die_with_parent();
  const char *mode = words[1];
  port = atoi(words[2]);
  model = words[3];
  int connections = atoi(words[4]), repeats = atoi(words[8]);
  streams_each = atoi(words[5]);
  deadline_ns = clock_ns() + (int64_t)(atof(words[6]) * NS_PER_S);
  warm_from_ns = atoll(words[7]) * 1000000;
  prefix = words[9];
  latency = malloc(SAMPLES * sizeof *latency);
  epoll = epoll_create1(0);
  char *extra = NULL;
  size_t extra_size = 0;
  FILE *extra_file = open_memstream(&extra, &extra_size);
  int ended;
  if (!strcmp(mode, "run")) ended = run(connections, extra_file);
  else if (!strcmp(mode, "ttft")) ended = ttft(repeats, extra_file);
  else if (!strcmp(mode, "cancel")) ended = cancel(connections, extra_file);
  else if (!strcmp(mode, "resume")) ended = resume(repeats, extra_file);
  else if (!strcmp(mode, "listen")) ended = listen_all(connections, repeats, extra_file);
  else if (!strcmp(mode, "stuck")) ended = stuck();
  else die("no such mode: %s", mode);
  fclose(extra_file);
  qsort(latency, sampled, sizeof *latency, by_value);
  for (char *p = first_error; *p; p++) if (*p == '"' || *p == '\\' || (unsigned char)*p < 32) *p = '\'';
  struct rusage used;
  getrusage(RUSAGE_SELF, &used);
  printf("{\"mode\":\"%s\",\"started\":%ld,\"ended\":%d,\"errors\":%ld,\"first_error\":\"%s\",\"deltas\":%ld,"
         "\"frames\":%ld,\"delta_frames\":%ld,\"reads\":%ld,\"bytes\":%ld,\"disordered\":%ld,"
         "\"p50_us\":%.1f,\"p90_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f,\"client_cpu_s\":%.4f%s}\n",
         mode, requests, ended, errors, first_error, deltas, frames, delta_frames, reads, received, disordered,
         percentile_us(.5), percentile_us(.9), percentile_us(.99), percentile_us(1),
         used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6, extra);
  return 0;
}
