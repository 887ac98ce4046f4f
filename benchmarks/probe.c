/* probe: the small measuring program that scripts/bench runs on both sides of an engine. Linux, C11, no library but libc.
 *
 * Servers (IPv4 and IPv6 on one dual-stack socket; they run until killed unless said otherwise):
 *   probe hold TOKEN               keep a namespace alive until the parent ends; the harness finds it by TOKEN
 *   probe echo PORT                echo, TCP and UDP, one epoll loop
 *   probe sink PORT                accept TCP connections and keep them open, unread
 *   probe count PORT               count UDP datagrams until 0.4 s pass without one, print the count, exit
 *   probe push PORT                wait for one request of `pull`, flood its sender with UDP, print the count, exit
 * Clients (each prints one JSON object; times are microseconds):
 *   probe reach HOST PORT SECONDS            retry a one-byte TCP echo until it succeeds
 *   probe rtt   HOST PORT SECONDS            TCP ping-pong of one byte on one connection
 *   probe urtt  HOST PORT SECONDS            UDP ping-pong of one byte, 0.5 s loss timeout
 *   probe crr   HOST PORT SECONDS            connect, one request, one response, close; one after the other
 *   probe flood HOST PORT SIZE SECONDS RATE  send UDP datagrams, RATE per second (0: as fast as it goes)
 *   probe pull  HOST PORT SIZE SECONDS RATE  ask `push` for such a flood and count it
 *   probe flows HOST PORT COUNT              open COUNT TCP connections, print, hold them until stdin ends
 * TAP devices, with the header of virtio-net and all offloads where not said otherwise:
 *   probe tap PID NAME FD COMMAND...         make NAME in the network of process PID, become COMMAND with it as FD
 *   probe relay FD NAME                      make NAME here, hand frames to and fro between both, whatever they are
 *   probe bare  FD NAME                      the same between a datagram socket and a TAP without header and offloads
 *
 * A flood uses plain send() as applications do; a counter uses recvmmsg() so that it is not the part that is measured.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, SLOT = 65536 + 64, MAX_SAMPLES = 4000000, WARM_UP = 50 };
static const double QUIET_SECONDS = 0.4, FIRST_SECONDS = 8.0;

static char buffer[SLOT];

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static socklen_t parse_address(const char *host, int port, struct sockaddr_storage *out)
{
	struct sockaddr_in *v4 = (void *)out;
	struct sockaddr_in6 *v6 = (void *)out;

	memset(out, 0, sizeof *out);
	if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons((uint16_t)port);
		return sizeof *v4;
	}
	if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons((uint16_t)port);
		return sizeof *v6;
	}
	fprintf(stderr, "not an address: %s\n", host);
	exit(2);
}

static void set_timeout(int fd, double seconds)
{
	struct timeval tv = { (time_t)seconds, (suseconds_t)((seconds - (double)(time_t)seconds) * 1e6) };
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
}

static int open_server(int type, int port)
{
	int one = 1, zero = 0, fd = socket(AF_INET6, type | SOCK_CLOEXEC, 0);
	struct sockaddr_in6 any = { .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port) };

	if (fd < 0)
		die("socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
	if (bind(fd, (void *)&any, sizeof any))
		die("bind");
	if (type == SOCK_STREAM && listen(fd, 4096))
		die("listen");
	return fd;
}

static int open_client(int type, const char *host, int port, double timeout)
{
	struct sockaddr_storage to;
	socklen_t length = parse_address(host, port, &to);
	int one = 1, fd = socket(to.ss_family, type | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	set_timeout(fd, timeout);
	if (connect(fd, (void *)&to, length)) {
		close(fd);
		return -1;
	}
	if (type == SOCK_STREAM)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	return fd;
}

static int exchange_byte(int fd)
{
	return send(fd, buffer, 1, MSG_NOSIGNAL) == 1 && recv(fd, buffer, 1, 0) == 1;
}

/* --- samples ------------------------------------------------------------------------------------------------- */

static double *samples;
static long sample_count;

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static void print_samples(double seconds, long failed)
{
	long n = sample_count;

	if (!n) {
		fprintf(stderr, "no exchange succeeded (%ld failed)\n", failed);
		exit(1);
	}
	qsort(samples, (size_t)n, sizeof *samples, compare);
	printf("{\"count\": %ld, \"failed\": %ld, \"seconds\": %.6f, \"min\": %.2f, \"median\": %.2f, \"p99\": %.2f}\n",
	       n, failed, seconds, samples[0], samples[n / 2], samples[(long)((double)n * 0.99)]);
}

/* --- servers ------------------------------------------------------------------------------------------------- */

static void watch(int epoll, int fd)
{
	struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };
	epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static void echo_datagram(int fd)
{
	struct sockaddr_storage from;
	socklen_t length = sizeof from;
	ssize_t n = recvfrom(fd, buffer, sizeof buffer, 0, (void *)&from, &length);
	if (n >= 0)
		sendto(fd, buffer, (size_t)n, 0, (void *)&from, length);
}

static void echo_stream(int fd)
{
	ssize_t n = recv(fd, buffer, sizeof buffer, 0);
	if (n <= 0 || send(fd, buffer, (size_t)n, MSG_NOSIGNAL) != n)
		close(fd);
}

static void echo(int port)
{
	int one = 1, epoll = epoll_create1(0), tcp = open_server(SOCK_STREAM, port), udp = open_server(SOCK_DGRAM, port);

	watch(epoll, tcp);
	watch(epoll, udp);
	for (;;) {
		struct epoll_event events[BATCH];
		int ready = epoll_wait(epoll, events, BATCH, -1);
		for (int i = 0; i < ready; i++) {
			int fd = events[i].data.fd;
			if (fd == udp) {
				echo_datagram(fd);
			} else if (fd != tcp) {
				echo_stream(fd);
			} else if ((fd = accept4(tcp, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
				setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
				watch(epoll, fd);
			}
		}
	}
}

static void sink(int port)
{
	int tcp = open_server(SOCK_STREAM, port);
	for (;;)
		if (accept4(tcp, NULL, NULL, SOCK_CLOEXEC) < 0 && errno != EINTR && errno != ECONNABORTED)
			die("accept");
}

/* Count datagrams on fd: `first` seconds for the first one, then until QUIET_SECONDS without any. Prints the result. */
static void count_datagrams(int fd, double first, long already)
{
	static char slots[BATCH][SLOT];
	static struct iovec parts[BATCH];
	static struct mmsghdr batch[BATCH];
	long packets = already;
	double started = now(), ended = started;

	for (int i = 0; i < BATCH; i++) {
		parts[i] = (struct iovec){ slots[i], SLOT };
		batch[i].msg_hdr = (struct msghdr){ .msg_iov = &parts[i], .msg_iovlen = 1 };
	}
	set_timeout(fd, first);
	for (;;) {
		int n = recvmmsg(fd, batch, BATCH, MSG_WAITFORONE, NULL);
		if (n < 0 && errno == ECONNREFUSED)
			continue;
		if (n <= 0)
			break;
		ended = now();
		if (!packets) {
			started = ended;
			set_timeout(fd, QUIET_SECONDS);
		}
		packets += n;
	}
	printf("{\"packets\": %ld, \"seconds\": %.6f}\n", packets, ended - started);
}

/* Send datagrams on a connected socket, at most `rate` per second if rate is not 0. Returns how many the kernel took. */
static long flood(int fd, size_t size, double seconds, double rate)
{
	double started = now(), end = started + seconds, at;
	long sent = 0;

	for (;;) {
		at = now();
		if (at >= end)
			return sent;
		if (rate > 0 && (double)sent >= (at - started) * rate) {
			struct timespec nap = { 0, 50000 };
			nanosleep(&nap, NULL);
			continue;
		}
		for (int i = 0; i < 8; i++)
			if (send(fd, buffer, size, 0) == (ssize_t)size)
				sent++;
	}
}

static void push(int port)
{
	struct sockaddr_storage from;
	socklen_t length = sizeof from;
	char request[64] = "";
	unsigned size = 0;
	double seconds = 0, rate = 0;
	int fd = open_server(SOCK_DGRAM, port);

	set_timeout(fd, FIRST_SECONDS);
	if (recvfrom(fd, request, sizeof request - 1, 0, (void *)&from, &length) < 0)
		die("request");
	if (sscanf(request, "%u %lf %lf", &size, &seconds, &rate) != 3 || size > sizeof buffer)
		exit(2);
	if (connect(fd, (void *)&from, length))
		die("connect");
	printf("{\"sent\": %ld}\n", flood(fd, size, seconds, rate));
}

/* --- clients ------------------------------------------------------------------------------------------------- */

static void reach(const char *host, int port, double seconds)
{
	double end = now() + seconds;
	struct timespec nap = { 0, 20000000 };

	do {
		int fd = open_client(SOCK_STREAM, host, port, 1.0);
		if (fd >= 0 && exchange_byte(fd)) {
			printf("{\"reached\": true}\n");
			return;
		}
		if (fd >= 0)
			close(fd);
		nanosleep(&nap, NULL);
	} while (now() < end);
	fprintf(stderr, "%s port %d cannot be reached: %s\n", host, port, strerror(errno));
	exit(1);
}

static void ping_pong(int type, const char *host, int port, double seconds)
{
	int fd = open_client(type, host, port, type == SOCK_DGRAM ? 0.5 : 3.0);
	long turns = 0, failed = 0;
	double started = now(), before, after = started;

	if (fd < 0)
		die("connect");
	while (after - started < seconds && sample_count < MAX_SAMPLES) {
		before = now();
		int good = exchange_byte(fd);
		after = now();
		if (!good && (type == SOCK_STREAM || ++failed > 20))
			die("exchange");
		if (good && ++turns > WARM_UP)
			samples[sample_count++] = (after - before) * 1e6;
	}
	print_samples(after - started, failed);
}

static void connect_request_response(const char *host, int port, double seconds)
{
	long failed = 0;
	double started = now(), before, after = started;

	while (after - started < seconds && sample_count < MAX_SAMPLES && failed < 20) {
		before = now();
		int fd = open_client(SOCK_STREAM, host, port, 3.0);
		int good = fd >= 0 && exchange_byte(fd);
		if (fd >= 0)
			close(fd);
		after = now();
		if (good)
			samples[sample_count++] = (after - before) * 1e6;
		else
			failed++;
	}
	print_samples(after - started, failed);
}

static void pull(const char *host, int port, size_t size, double seconds, double rate)
{
	char request[64];
	int length = snprintf(request, sizeof request, "%zu %f %f", size, seconds, rate);
	int fd = open_client(SOCK_DGRAM, host, port, 0.5);

	if (fd < 0)
		die("connect");
	for (int attempt = 0; attempt < 6; attempt++) {
		send(fd, request, (size_t)length, 0);
		if (recv(fd, buffer, sizeof buffer, 0) >= 0) {
			count_datagrams(fd, QUIET_SECONDS, 1);
			return;
		}
	}
	die("no datagram came back");
}

static void flows(const char *host, int port, long wanted)
{
	long opened = 0;

	while (opened < wanted && open_client(SOCK_STREAM, host, port, 3.0) >= 0)
		opened++;
	const char *reason = errno == EINPROGRESS ? "no answer for 3 s" : strerror(errno);
	printf("{\"opened\": %ld, \"error\": \"%s\"}\n", opened, opened < wanted ? reason : "");
	fflush(stdout);
	while (read(0, buffer, sizeof buffer) > 0)
		;
}

static int open_tap(const char *name, int bare)
{
	struct ifreq request = { .ifr_flags = (short)(IFF_TAP | IFF_NO_PI | (bare ? 0 : IFF_VNET_HDR)) };
	int header = 12, fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);

	strncpy(request.ifr_name, name, sizeof request.ifr_name - 1);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &request))
		die("TAP");
	if (bare)
		return fd;
	if (ioctl(fd, TUNSETVNETHDRSZ, &header))
		die("TUNSETVNETHDRSZ");
	if (ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | 0x60) && /* both kinds of UDP: Linux 6.2 */
	    ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6))
		die("TUNSETOFFLOAD");
	return fd;
}

static int open_network(const char *pid)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%s/ns/net", pid);
	return open(path, O_RDONLY | O_CLOEXEC);
}

static void with_tap(const char *pid, const char *name, int number, char **command)
{
	int here = open_network("self"), there = open_network(pid), tap;

	if (here < 0 || there < 0 || setns(there, CLONE_NEWNET))
		die("setns");
	tap = open_tap(name, 0);
	if (setns(here, CLONE_NEWNET) || dup2(tap, number) < 0)
		die("setns");
	if (tap != number)
		close(tap);
	execvp(command[0], command);
	die(command[0]);
}

static void relay(int guest, int other)
{
	struct pollfd ends[2] = { { guest, POLLIN, 0 }, { other, POLLIN, 0 } };

	while (poll(ends, 2, -1) > 0 && !((ends[0].revents | ends[1].revents) & (POLLERR | POLLNVAL)))
		for (int from = 0; from < 2; from++)
			for (int i = 0; i < BATCH && ends[from].revents & POLLIN; i++) {
				ssize_t size = read(ends[from].fd, buffer, sizeof buffer);
				if (size <= 0 || write(ends[!from].fd, buffer, (size_t)size) < 0)
					break;
			}
}

int main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "", *host = argc > 2 ? argv[2] : "";
	int server_port = atoi(host), port = argc > 3 ? atoi(argv[3]) : 0;
	double number = argc > 4 ? atof(argv[4]) : 0;

	signal(SIGPIPE, SIG_IGN);
	if (!(samples = malloc(MAX_SAMPLES * sizeof *samples)))
		die("malloc");
	if (argc == 3 && !strcmp(verb, "hold")) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* not every engine ends its guest when it is killed */
		for (;;)
			pause();
	} else if (argc == 3 && !strcmp(verb, "echo"))
		echo(server_port);
	else if (argc == 3 && !strcmp(verb, "sink"))
		sink(server_port);
	else if (argc == 3 && !strcmp(verb, "count"))
		count_datagrams(open_server(SOCK_DGRAM, server_port), FIRST_SECONDS, 0);
	else if (argc == 3 && !strcmp(verb, "push"))
		push(server_port);
	else if (argc == 5 && !strcmp(verb, "reach"))
		reach(host, port, number);
	else if (argc == 5 && !strcmp(verb, "rtt"))
		ping_pong(SOCK_STREAM, host, port, number);
	else if (argc == 5 && !strcmp(verb, "urtt"))
		ping_pong(SOCK_DGRAM, host, port, number);
	else if (argc == 5 && !strcmp(verb, "crr"))
		connect_request_response(host, port, number);
	else if (argc == 5 && !strcmp(verb, "flows"))
		flows(host, port, (long)number);
	else if (argc == 7 && !strcmp(verb, "flood")) {
		int fd = open_client(SOCK_DGRAM, host, port, 1.0);
		if (fd < 0)
			die("connect");
		printf("{\"sent\": %ld}\n", flood(fd, (size_t)number, atof(argv[5]), atof(argv[6])));
	} else if (argc == 7 && !strcmp(verb, "pull"))
		pull(host, port, (size_t)number, atof(argv[5]), atof(argv[6]));
	else if (argc > 5 && !strcmp(verb, "tap"))
		with_tap(argv[2], argv[3], (int)number, argv + 5);
	else if (argc == 4 && !strcmp(verb, "relay"))
		relay(server_port, open_tap(argv[3], 0));
	else if (argc == 4 && !strcmp(verb, "bare"))
		relay(server_port, open_tap(argv[3], 1));
	else {
		fprintf(stderr, "usage: probe VERB ARGUMENTS (the head of probe.c lists them)\n");
		return 2;
	}
	return 0;
}
