/*
 * What a busy host does: `churn COUNT` makes that many processes, one after the other, each of which executes this
 * program and exits at once. Prints how many nanoseconds it took. It stays on one CPU, so that this is the kernel's work,
 * and not the waking of an idle CPU, which costs a virtual machine ten times as much.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc < 2)
        return 2;
    long count = atol(argv[1]);
    if (count == 0)
        _exit(0);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    if (sched_setaffinity(0, sizeof one, &one) != 0)
        return 1;
    char *child[] = {argv[0], "0", NULL}, *environ[] = {NULL};
    long long begin = now();
    for (long n = 0; n < count; n++) {
        pid_t pid;
        int status;
        if (posix_spawn(&pid, argv[0], NULL, NULL, child, environ) != 0 || waitpid(pid, &status, 0) != pid)
            return 1;
    }
    printf("%lld\n", now() - begin);
    return 0;
}
