/*
 * The load generator where a C compiler and libssl-dev are there: lighter than the C broker it drives, which one in
 * JavaScript is not. bench/load-in-c.ts compiles it, makes every octet that it sends, and speaks to it:
 *
 *   load PORT CA_FILE
 *   p CERT_FILE KEY_FILE CONNECT     a publisher connects; likewise s, a subscriber. Octets are in hexadecimal
 *   f NUMBER FRAME                   what that publisher publishes
 *   t PACKET                         to every subscriber, which gets one packet back
 *   r QOS ID_AT BYTES OUT_ID_AT UNDER_WAY MESSAGES MS
 *                                    publishes until there are so many for all subscribers together, or so long: identifiers at ID_AT of the frame; messages come in BYTES, with theirs at
 *                                    OUT_ID_AT, 0 for none -> received, sent, milliseconds, milliseconds of CPU
 *
 * Each command is answered with one line. A publisher writes one message at a time, each a TLS record and a segment of its
 * own, as devices do.
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

enum { max_peers = 2048, max_frame = 4096, chunk = 65536, identifiers = 32, lost_ms = 2000 };

struct peer {
  SSL *ssl;
  unsigned char frame[max_frame];
  int frame_bytes;
  int last_id;
  int owed;
  unsigned char tail[chunk];
  int tail_bytes;
};

static struct peer *publishers[max_peers], *subscribers[max_peers];
static int publisher_count, subscriber_count, poller;
static SSL_CTX *context;
static struct sockaddr_in broker;

static void die(const char *what) {
  fprintf(stderr, "load: %s\n", what);
  exit(1);
}

static double now_ms(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static double cpu_ms(void) {
  struct timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static int octets_of(const char *hex, unsigned char *into) {
  int bytes = 0;
  unsigned int octet;
  while (bytes < max_frame && sscanf(hex + 2 * bytes, "%2x", &octet) == 1) into[bytes++] = (unsigned char)octet;
  return bytes;
}

static void set_blocking(struct peer *peer, int is_blocking) {
  int fd = SSL_get_fd(peer->ssl), flags = fcntl(fd, F_GETFL);
  fcntl(fd, F_SETFL, is_blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK);
}

/* One packet of less than 128 octets; nothing else is on its way. */
static void exchange(struct peer *peer, const unsigned char *packet, int bytes, int expected) {
  unsigned char answer[256];
  set_blocking(peer, 1);
  if (SSL_write(peer->ssl, packet, bytes) != bytes) die("cannot write");
  int got = 0;
  while (got < 2 || got < 2 + answer[1]) {
    int more = SSL_read(peer->ssl, answer + got, (int)sizeof answer - got);
    if (more <= 0) die("disconnected");
    got += more;
  }
  if (answer[0] != expected) die("another answer than expected");
  set_blocking(peer, 0);
}

static struct peer *attach(const char *cert, const char *key, const char *hex) {
  struct peer *peer = calloc(1, sizeof *peer);
  int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(fd, (struct sockaddr *)&broker, sizeof broker) != 0) die("cannot connect");
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  peer->ssl = SSL_new(context);
  SSL_use_certificate_chain_file(peer->ssl, cert);
  SSL_use_PrivateKey_file(peer->ssl, key, SSL_FILETYPE_PEM);
  SSL_set_fd(peer->ssl, fd);
  if (SSL_connect(peer->ssl) != 1) die("no TLS");
  unsigned char packet[max_frame];
  int bytes = octets_of(hex, packet);
  exchange(peer, packet, bytes, 0x20);
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = peer};
  epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
  return peer;
}

/* Everything that is there, behind what was left over. @returns the octets, 0 for nothing new */
static int fill(struct peer *peer) {
  int got = SSL_read(peer->ssl, peer->tail + peer->tail_bytes, chunk - peer->tail_bytes);
  if (got > 0) return peer->tail_bytes += got;
  if (SSL_get_error(peer->ssl, got) != SSL_ERROR_WANT_READ) die("disconnected");
  return 0;
}

static void keep(struct peer *peer, int from) {
  peer->tail_bytes -= from;
  memmove(peer->tail, peer->tail + from, (size_t)peer->tail_bytes);
}

static void hear_acknowledgements(struct peer *peer) {
  int bytes;
  while ((bytes = fill(peer)) > 0) {
    int at = 0;
    while (at + 1 < bytes && at + 2 + peer->tail[at + 1] <= bytes) {
      at += 2 + peer->tail[at + 1];
      peer->owed--;
    }
    keep(peer, at);
  }
}

static long hear_messages(struct peer *peer, int frame_bytes, int id_at) {
  unsigned char acknowledgements[chunk];
  long count = 0;
  int bytes;
  while ((bytes = fill(peer)) > 0) {
    int at = 0, said = 0;
    for (; at + frame_bytes <= bytes; at += frame_bytes, count++) {
      if (peer->tail[at] >> 4 != 3) die("something else where a PUBLISH was to begin");
      if (id_at == 0) continue;
      acknowledgements[said++] = 0x40;
      acknowledgements[said++] = 2;
      acknowledgements[said++] = peer->tail[at + id_at];
      acknowledgements[said++] = peer->tail[at + id_at + 1];
    }
    keep(peer, at);
    if (said > 0 && SSL_write(peer->ssl, acknowledgements, said) != said) die("acknowledgements are not read");
  }
  return count;
}

static int publish(struct peer *peer, int qos, int id_at) {
  if (qos > 0) {
    if (peer->owed >= identifiers) return 0;
    peer->frame[id_at + 1] = (unsigned char)(1 + peer->last_id++ % identifiers);
  }
  if (SSL_write(peer->ssl, peer->frame, peer->frame_bytes) <= 0) return 0; /* the same is written again */
  peer->owed += qos;
  return 1;
}

static int is_subscriber(const struct peer *peer) { return peer->frame_bytes == 0; }

static void run(int qos, int id_at, int frame_bytes, int out_id_at, long under_way, long messages, double ms) {
  long sent = 0, received = 0;
  int turn = 0;
  double started = now_ms(), cpu = cpu_ms(), heard = started, now = started;
  struct epoll_event events[256];
  for (;;) {
    int is_over = now - started >= ms || sent * subscriber_count >= messages, idle = 0;
    if (is_over && (received >= sent * subscriber_count || now - heard >= lost_ms)) break;
    while (!is_over && sent * subscriber_count < messages && idle < publisher_count && sent * subscriber_count - received < under_way * subscriber_count) {
      int did = publish(publishers[turn++ % publisher_count], qos, id_at);
      sent += did;
      idle = did ? 0 : idle + 1;
    }
    int count = epoll_wait(poller, events, 256, 1);
    now = now_ms();
    for (int i = 0; i < count; i++) {
      struct peer *peer = events[i].data.ptr;
      if (is_subscriber(peer)) {
        received += hear_messages(peer, frame_bytes, out_id_at);
        heard = now;
      } else hear_acknowledgements(peer);
    }
  }
  printf("%ld %ld %.1f %.1f\n", received, sent, now_ms() - started, cpu_ms() - cpu);
}

int main(int count, char **values) {
  if (count != 3) die("PORT CA_FILE");
  static char line[1 << 16], cert[4096], key[4096], hex[1 << 14];
  int qos, id_at, frame_bytes, out_id_at, number;
  long under_way, messages;
  double ms;
  poller = epoll_create1(0);
  broker.sin_family = AF_INET;
  broker.sin_port = htons((unsigned short)atoi(values[1]));
  broker.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  context = SSL_CTX_new(TLS_client_method());
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  if (SSL_CTX_load_verify_locations(context, values[2], NULL) != 1) die("no CA");
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
  while (fgets(line, sizeof line, stdin) != NULL) {
    if (sscanf(line, "p %4095s %4095s %16383s", cert, key, hex) == 3) {
      publishers[publisher_count++] = attach(cert, key, hex);
    } else if (sscanf(line, "s %4095s %4095s %16383s", cert, key, hex) == 3) {
      subscribers[subscriber_count++] = attach(cert, key, hex);
    } else if (sscanf(line, "f %d %16383s", &number, hex) == 2) {
      publishers[number]->frame_bytes = octets_of(hex, publishers[number]->frame);
    } else if (sscanf(line, "t %16383s", hex) == 1) {
      unsigned char packet[max_frame];
      int bytes = octets_of(hex, packet);
      for (int i = 0; i < subscriber_count; i++) exchange(subscribers[i], packet, bytes, packet[0] == 0x82 ? 0x90 : 0xb0);
    } else if (sscanf(line, "r %d %d %d %d %ld %ld %lf", &qos, &id_at, &frame_bytes, &out_id_at, &under_way,
                      &messages, &ms) == 7) {
      run(qos, id_at, frame_bytes, out_id_at, under_way, messages, ms);
      fflush(stdout);
      continue;
    } else die("an unknown command");
    puts("ok");
    fflush(stdout);
  }
  return 0;
}
