/*
 * The other process that is crashed: as `victim`, but with a C library and several shared ones to load and to relocate
 * before its main(), as a real program has them. Its first act in main() is to read the clock.
 */
#include <fcntl.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);

    uint64_t record[2] = {(uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec, (uint64_t)getpid()};
    int file = argc >= 2 ? open(argv[1], O_WRONLY | O_APPEND | O_CLOEXEC) : -1;
    if (write(file, record, sizeof record) != sizeof record)
        return 1;
    if (file != 3 && write(3, "\n", 1) != 1) {
        /* Nobody wants to know whether it is ready. */
    }
    for (;;)
        pause();
}
