/*
 * Devices that connect, are told CONNACK, and go: as many at once as it is told, each over TLS 1.3 with its own certificate, and
 * with a full handshake or by the last session ticket it was given. bench/handshakes.ts compiles it and speaks to it:
 *
 *   handshakes PORT
 *   d CERT_FILE KEY_FILE CONNECT     a device; octets are in hexadecimal
 *   r IS_RESUMED AT_ONCE COUNT MS FAR_MS
 *                                    connects until there were so many, or so long, and waits for those under way; what a
 *                                    device hears it answers after FAR_MS, as one does that is so far away
 *                                    -> connected, resumed, failed, milliseconds, milliseconds of CPU
 *
 * Each command is answered with one line. The server's certificate is not looked at, which leaves the CPU to the broker.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { max_devices = 2048, max_packet = 1024 };

struct device {
  SSL_CTX *context;
  SSL_SESSION *ticket;
  SSL *ssl; /* while it is connected */
  unsigned char connect[max_packet];
  int connect_bytes, is_said, has_heard;
  double heard_at; /* what it has not answered yet, where it has heard something */
};

static struct device devices[max_devices];
static int device_count, poller;
/* Who has heard something, first come first; a device is in it once. */
static struct device *hearing[max_devices];
static unsigned long first_hearing, last_hearing;
static struct sockaddr_in broker;

static void die(const char *what) {
  fprintf(stderr, "handshakes: %s\n", what);
  exit(1);
}

static double ms_of(clockid_t clock) {
  struct timespec time;
  clock_gettime(clock, &time);
  return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static int keep_ticket(SSL *ssl, SSL_SESSION *session) {
  struct device *device = SSL_get_app_data(ssl);
  SSL_SESSION_free(device->ticket);
  device->ticket = session;
  return 1;
}

static void add(const char *cert, const char *key, const char *hex) {
  if (device_count == max_devices) die("too many devices");
  struct device *device = &devices[device_count++];
  unsigned int octet;
  while (device->connect_bytes < max_packet && sscanf(hex + 2 * device->connect_bytes, "%2x", &octet) == 1)
    device->connect[device->connect_bytes++] = (unsigned char)octet;
  SSL_CTX *context = device->context = SSL_CTX_new(TLS_client_method());
  SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
  SSL_CTX_sess_set_new_cb(context, keep_ticket);
  if (SSL_CTX_use_certificate_chain_file(context, cert) != 1) die("no certificate");
  if (SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1) die("no key");
}

static void begin(struct device *device, int is_resumed) {
  int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (connect(fd, (struct sockaddr *)&broker, sizeof broker) != 0 && errno != EINPROGRESS) die("cannot connect");
  device->ssl = SSL_new(device->context);
  device->is_said = device->has_heard = 0;
  SSL_set_app_data(device->ssl, device);
  SSL_set_fd(device->ssl, fd);
  SSL_set_connect_state(device->ssl);
  if (is_resumed && device->ticket != NULL) {
    /* OpenSSL uses a session of TLS 1.3 once and marks it, and a server need not send another when one is resumed: Node does not. */
    SSL_SESSION *copy = SSL_SESSION_dup(device->ticket);
    if (copy == NULL || SSL_set_session(device->ssl, copy) != 1) die("a ticket cannot be used");
    SSL_SESSION_free(copy);
  }
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = device};
  epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
}

/* @returns 1 once it was let in, -1 where it was not, 0 while it is not known */
static int go_on(struct device *device) {
  unsigned char answer[64];
  SSL *ssl = device->ssl;
  int result = device->is_said ? 1 : SSL_do_handshake(ssl);
  if (result == 1 && !device->is_said) {
    result = SSL_write(ssl, device->connect, device->connect_bytes);
    device->is_said = result == device->connect_bytes;
  }
  if (device->is_said) {
    result = SSL_read(ssl, answer, sizeof answer);
    if (result >= 4) return answer[0] == 0x20 && answer[3] == 0 ? 1 : -1;
  }
  int why = SSL_get_error(ssl, result);
  return why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? 0 : -1;
}

static void end(struct device *device, int is_connected) {
  static const unsigned char disconnect[] = {0xe0, 0};
  int fd = SSL_get_fd(device->ssl);
  if (is_connected) {
    SSL_write(device->ssl, disconnect, sizeof disconnect);
    SSL_shutdown(device->ssl);
  }
  SSL_free(device->ssl);
  device->ssl = NULL;
  close(fd);
}

static void hear(struct device *device) {
  if (device->has_heard || device->ssl == NULL) return;
  device->has_heard = 1;
  device->heard_at = ms_of(CLOCK_MONOTONIC);
  hearing[last_hearing++ % max_devices] = device;
}

/* @returns milliseconds until the next one answers; below 1 when it is time */
static double next_answer(double far_ms) {
  if (first_hearing == last_hearing) return 100;
  double rest = hearing[first_hearing % max_devices]->heard_at + far_ms - ms_of(CLOCK_MONOTONIC);
  return rest > 100 ? 100 : rest;
}

static void run(int is_resumed, int at_once, long count, double ms, double far_ms) {
  long begun = 0, connected = 0, resumed = 0, failed = 0;
  double started = ms_of(CLOCK_MONOTONIC), cpu = ms_of(CLOCK_PROCESS_CPUTIME_ID);
  struct epoll_event events[256];
  for (;;) {
    int is_over = begun >= count || ms_of(CLOCK_MONOTONIC) - started >= ms;
    long under_way = begun - connected - failed;
    if (is_over && under_way == 0) break;
    for (; !is_over && under_way < at_once && begun < count; begun++, under_way++) {
      struct device *device = &devices[begun % device_count];
      if (device->ssl != NULL) break; /* the one that has waited longest */
      begin(device, is_resumed);
    }
    double rest = next_answer(far_ms);
    int some = epoll_wait(poller, events, 256, rest < 1 ? 0 : (int)rest);
    for (int i = 0; i < some; i++) hear(events[i].data.ptr);
    while (first_hearing != last_hearing && next_answer(far_ms) <= 0) {
      struct device *device = hearing[first_hearing++ % max_devices];
      device->has_heard = 0;
      int known = go_on(device);
      if (known == 0) continue;
      if (known == 1) {
        connected++;
        resumed += SSL_session_reused(device->ssl);
      } else failed++;
      end(device, known == 1);
    }
  }
  printf("%ld %ld %ld %.1f %.1f\n", connected, resumed, failed, ms_of(CLOCK_MONOTONIC) - started,
         ms_of(CLOCK_PROCESS_CPUTIME_ID) - cpu);
}

int main(int count, char **values) {
  if (count != 2) die("PORT");
  static char line[1 << 14], cert[4096], key[4096], hex[1 << 12];
  int is_resumed, at_once;
  long wanted;
  double ms, far_ms;
  signal(SIGPIPE, SIG_IGN); /* a broker that hangs up is a connection that has failed */
  poller = epoll_create1(0);
  broker.sin_family = AF_INET;
  broker.sin_port = htons((unsigned short)atoi(values[1]));
  broker.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  while (fgets(line, sizeof line, stdin) != NULL) {
    if (sscanf(line, "d %4095s %4095s %4095s", cert, key, hex) == 3) {
      add(cert, key, hex);
      puts("ok");
    } else if (sscanf(line, "r %d %d %ld %lf %lf", &is_resumed, &at_once, &wanted, &ms, &far_ms) == 5) {
      run(is_resumed, at_once, wanted, ms, far_ms);
    } else die("an unknown command");
    fflush(stdout);
  }
  return 0;
}
