/* Appends its start, as the victim does, waits for SIGUSR1, and then writes to standard output for ever: until nobody reads
 * any more it does not stop.
 *
 * usage: filler STARTS */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv) {
    static char block[4096];
    struct timespec t;
    sigset_t begin;
    int which;
    if (argc != 2) return 64;
    sigemptyset(&begin);
    sigaddset(&begin, SIGUSR1);
    sigprocmask(SIG_BLOCK, &begin, 0);
    clock_gettime(CLOCK_MONOTONIC, &t);
    unsigned long record[2] = {t.tv_sec * 1000000000UL + t.tv_nsec, getpid()};
    int file = open(argv[1], O_WRONLY | O_APPEND);
    if (write(file, record, sizeof record) != sizeof record) return 1;
    memset(block, 'x', sizeof block);
    block[sizeof block - 1] = '\n';
    sigwait(&begin, &which);
    while (write(1, block, sizeof block) > 0) {
    }
    return 1;
}
