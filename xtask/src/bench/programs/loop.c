/*
 * What a restart costs at least: `loop PROGRAM ARGUMENT... [-- PROGRAM ARGUMENT...]...` starts every program, waits for
 * the end of any, and starts that again. No log, no policy, no cgroup. It gives up when it cannot start a program, or
 * when one ends by itself.
 */
#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

extern char **environ;

static pid_t start(char **argv) {
    pid_t pid;
    int error = posix_spawn(&pid, argv[0], NULL, NULL, argv, environ);
    if (error != 0) {
        fprintf(stderr, "loop: cannot start %s: %s\n", argv[0], strerror(error));
        exit(1);
    }
    return pid;
}

int main(int argc, char **argv) {
    char ***commands = calloc((size_t)argc, sizeof *commands);
    pid_t *pids = calloc((size_t)argc, sizeof *pids);
    if (commands == NULL || pids == NULL || argc < 2) {
        fprintf(stderr, "usage: loop PROGRAM ARGUMENT... [-- PROGRAM ARGUMENT...]...\n");
        return 2;
    }
    int count = 0;
    commands[count++] = argv + 1;
    for (int n = 1; n < argc - 1; n++)
        if (strcmp(argv[n], "--") == 0) {
            argv[n] = NULL;
            commands[count++] = argv + ++n;
        }
    for (int n = 0; n < count; n++)
        pids[n] = start(commands[n]);
    for (;;) {
        int status, n = 0;
        pid_t pid = waitpid(-1, &status, 0);
        if (pid < 0 && errno != EINTR)
            return 1;
        while (n < count && pids[n] != pid)
            n++;
        if (n == count)
            continue;
        if (WIFEXITED(status)) {
            fprintf(stderr, "loop: %s exited with code %d\n", commands[n][0], WEXITSTATUS(status));
            return 1;
        }
        pids[n] = start(commands[n]);
    }
}
