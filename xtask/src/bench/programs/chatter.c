/* Writes numbered lines of 64 bytes to standard output for so many milliseconds, at so many bytes a second (0: as fast as
 * it can), then tells in a file how many bytes there were and how long it took, and stays.
 *
 * usage: chatter REPORT RATE MILLISECONDS */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE 64
#define LINES 1024

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv) {
    static char block[LINE * LINES];
    if (argc != 4) return 64;
    double rate = atof(argv[2]);
    long long begun = now(), time = atoll(argv[3]) * 1000000LL, took;
    unsigned long long number = 0, bytes = 0;
    memset(block, 'x', sizeof block);
    while ((took = now() - begun) < time) {
        if (rate > 0 && bytes > rate * took / 1e9) {
            usleep(1000);
            continue;
        }
        for (int i = 0; i < LINES; i++, number++) {
            char *line = block + i * LINE, digits = 16;
            for (unsigned long long rest = number; digits-- > 0; rest /= 10) line[(int)digits] = '0' + rest % 10;
            line[LINE - 1] = '\n';
        }
        for (size_t done = 0; done < sizeof block;) {
            ssize_t count = write(1, block + done, sizeof block - done);
            if (count <= 0) return 1;
            done += count;
        }
        bytes += sizeof block;
    }
    char name[4096];
    snprintf(name, sizeof name, "%s.new", argv[1]);
    FILE *report = fopen(name, "w");
    if (!report || fprintf(report, "%llu %lld", bytes, took) < 0 || fclose(report) || rename(name, argv[1])) return 1;
    for (;;) pause();
}
