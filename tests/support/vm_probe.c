/* The guest's end of test transfers: what busybox's nc cannot do: half-closing, datagrams kept apart. Static.
 *
 *   vm_probe make SIZE TARGET                      a file of bytes that look random and are others each time
 *   vm_probe tcp-ask ADDRESS PORT SOURCE           sends the file, shuts down, copies what comes to standard output
 *   vm_probe tcp-connect ADDRESS PORT TARGET SOURCE   writes what comes until its end, then sends the file
 *   vm_probe tcp-listen PORT TARGET SOURCE         the same on the first connection that comes
 *   vm_probe udp-connect ADDRESS PORT SIZE SOURCE  sends the file in datagrams of that size, then an empty one
 *   vm_probe udp-fetch ADDRESS PORT TARGET         asks with one datagram, then writes what comes
 *   vm_probe udp-listen PORT TARGET                writes what comes
 *
 * `listen` answers for both families. It goes to the background when it is bound, complains in /tmp/vm_probe.log and
 * leaves its exit status in TARGET.done. A sender of datagrams has at most WINDOW of them under way and gets the number
 * of each back; an empty one ends the transfer. One that is lost, repeated or out of order ends it with status 1, as
 * does PATIENCE without progress.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PATIENCE = 10, WINDOW = 4, LARGEST = 1 << 18 };

static char buffer[LARGEST];

static void die(const char *what)
{
    fprintf(stderr, "vm_probe: %s: %s\n", what, errno ? strerror(errno) : "not as agreed");
    exit(1);
}

static ssize_t sure(ssize_t result, const char *what)
{
    if (result < 0)
        die(what);
    return result;
}

static int make_socket(int family, int kind)
{
    struct timeval patience = {PATIENCE, 0};
    int sock = sure(socket(family, kind | SOCK_CLOEXEC, 0), "socket");
    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    return sock;
}

/* An IPv6 address may have %INTERFACE behind it. */
static int connected(int kind, char *address, const char *port)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(port))};
    char *scope = strchr(address, '%');
    int sock;
    if (scope) {
        *scope = 0;
        v6.sin6_scope_id = if_nametoindex(scope + 1);
    }
    if (inet_pton(AF_INET, address, &v4.sin_addr) == 1) {
        sock = make_socket(AF_INET, kind);
        sure(connect(sock, (struct sockaddr *)&v4, sizeof v4), "connect");
    } else if (inet_pton(AF_INET6, address, &v6.sin6_addr) == 1) {
        sock = make_socket(AF_INET6, kind);
        sure(connect(sock, (struct sockaddr *)&v6, sizeof v6), "connect");
    } else {
        die("address");
    }
    return sock;
}

static int bound(int kind, const char *port)
{
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(port))};
    int sock = make_socket(AF_INET6, kind), on = 1;
    setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (kind == SOCK_DGRAM)
        sure(setsockopt(sock, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on), "IPV6_RECVPKTINFO");
    sure(bind(sock, (struct sockaddr *)&any, sizeof any), "bind");
    return sock;
}

static void write_all(int target, const char *bytes, ssize_t size)
{
    while (size > 0) {
        ssize_t done = sure(write(target, bytes, size), "write");
        bytes += done;
        size -= done;
    }
}

static void copy_all(int source, int target)
{
    ssize_t size;
    while ((size = sure(read(source, buffer, sizeof buffer), "read")) > 0)
        write_all(target, buffer, size);
}

static void copy_file(const char *source, int target)
{
    int file = sure(open(source, O_RDONLY | O_CLOEXEC), source);
    copy_all(file, target);
    close(file);
}

static void send_datagrams(int sock, int size, const char *source)
{
    int file = sure(open(source, O_RDONLY | O_CLOEXEC), source);
    uint32_t sent = 0, answered = 0;
    ssize_t length = size;
    while (length > 0 || answered < sent) {
        if (length > 0 && sent - answered < WINDOW) {
            length = sure(read(file, buffer, size), source);
            sure(send(sock, buffer, length, 0), "send");
            sent++;
        } else {
            uint32_t number;
            errno = 0;
            if (sure(recv(sock, &number, sizeof number, 0), "answer") != sizeof number || ntohl(number) != answered)
                die("answer");
            answered++;
        }
    }
}

/* The answer comes from the address that was asked, of which there may be several: the control message goes back. */
static void receive_datagrams(int sock, int target)
{
    for (uint32_t count = 0;; count++) {
        char control[CMSG_SPACE(sizeof(struct in6_pktinfo))];
        struct sockaddr_storage peer;
        struct iovec part = {buffer, sizeof buffer};
        struct msghdr message = {&peer, sizeof peer, &part, 1, control, sizeof control, 0};
        uint32_t number = htonl(count);
        ssize_t size = sure(recvmsg(sock, &message, 0), "datagram");
        write_all(target, buffer, size);
        part = (struct iovec){&number, sizeof number};
        sure(sendmsg(sock, &message, 0), "answer");
        if (size == 0)
            return;
    }
}

/* The parent ends, so that who started it knows that the socket is there; the child's child does the work. */
static void work_in_background(const char *target)
{
    char name[256];
    int status = 0;
    snprintf(name, sizeof name, "%s.done", target);
    unlink(name);
    if (sure(fork(), "fork") > 0)
        exit(0);
    setsid();
    int log = sure(open("/tmp/vm_probe.log", O_WRONLY | O_CREAT | O_TRUNC, 0644), "log");
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    pid_t worker = sure(fork(), "fork");
    if (worker == 0)
        return;
    waitpid(worker, &status, 0);
    int file = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    dprintf(file, "%d\n", status);
    exit(0);
}

static int opened(const char *target)
{
    return sure(open(target, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644), target);
}

static void receive_and_send(int sock, int target, const char *source)
{
    copy_all(sock, target);
    copy_file(source, sock);
    sure(shutdown(sock, SHUT_WR), "shutdown");
}

/* Steps of xorshift64: no piece of a file is like another. */
static void make(long size, int target)
{
    static uint64_t block[LARGEST / 8];
    uint64_t state;
    sure(getrandom(&state, sizeof state, 0), "getrandom");
    for (state |= 1; size > 0; size -= sizeof block) {
        for (unsigned at = 0; at < LARGEST / 8; at++) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            block[at] = state;
        }
        write_all(target, (char *)block, size < (long)sizeof block ? size : (long)sizeof block);
    }
}

int main(int count, char **words)
{
    const char *verb = count > 1 ? words[1] : "";
    if (!strcmp(verb, "make") && count == 4) {
        make(atol(words[2]), opened(words[3]));
    } else if (!strcmp(verb, "tcp-ask") && count == 5) {
        int sock = connected(SOCK_STREAM, words[2], words[3]);
        copy_file(words[4], sock);
        sure(shutdown(sock, SHUT_WR), "shutdown");
        copy_all(sock, STDOUT_FILENO);
    } else if (!strcmp(verb, "tcp-connect") && count == 6) {
        receive_and_send(connected(SOCK_STREAM, words[2], words[3]), opened(words[4]), words[5]);
    } else if (!strcmp(verb, "tcp-listen") && count == 5) {
        int listener = bound(SOCK_STREAM, words[2]), target = opened(words[3]);
        sure(listen(listener, 1), "listen");
        work_in_background(words[3]);
        receive_and_send(sure(accept(listener, NULL, NULL), "accept"), target, words[4]);
    } else if (!strcmp(verb, "udp-connect") && count == 6) {
        send_datagrams(connected(SOCK_DGRAM, words[2], words[3]), atoi(words[4]), words[5]);
    } else if (!strcmp(verb, "udp-fetch") && count == 5) {
        int sock = connected(SOCK_DGRAM, words[2], words[3]);
        sure(send(sock, "?", 1, 0), "send");
        receive_datagrams(sock, opened(words[4]));
    } else if (!strcmp(verb, "udp-listen") && count == 4) {
        int sock = bound(SOCK_DGRAM, words[2]), target = opened(words[3]);
        work_in_background(words[3]);
        receive_datagrams(sock, target);
    } else {
        fprintf(stderr, "vm_probe: unknown words\n");
        return 2;
    }
    return 0;
}
