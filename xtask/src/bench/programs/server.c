/*
 * A service that is connected to: `server RECORDS PORT` accepts, writes one byte, and closes. It takes the listening
 * socket that it is handed (LISTEN_FDS, from descriptor 3 on), or makes its own. At each start it appends {time, pid}
 * to its file, as the other victims do, as soon as it can accept.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int bound(uint16_t port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int on = 1, socket_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(socket_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(socket_, (struct sockaddr *)&address, sizeof address) != 0 || listen(socket_, 128) != 0) {
        perror("server: cannot listen");
        exit(1);
    }
    return socket_;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: server RECORDS PORT\n");
        return 2;
    }
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    const char *handed = getenv("LISTEN_FDS");
    int listener = handed && atoi(handed) > 0 ? 3 : bound((uint16_t)atoi(argv[2]));

    uint64_t record[2] = {(uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec, (uint64_t)getpid()};
    int file = open(argv[1], O_WRONLY | O_APPEND | O_CLOEXEC);
    if (write(file, record, sizeof record) != sizeof record)
        return 1;
    for (;;) {
        int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (client < 0)
            continue;
        if (write(client, "!", 1) != 1) {
            /* It has gone: its own affair. */
        }
        close(client);
    }
}
