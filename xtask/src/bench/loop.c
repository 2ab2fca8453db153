/*
 * What a restart costs at least: `loop PROGRAM ARGUMENT...` starts the program, waits for its end, and starts it again.
 * No log, no policy, no cgroup. It gives up when it cannot start the program, or when the program ends by itself.
 */
#include <errno.h>
#include <spawn.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

extern char **environ;

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: loop PROGRAM ARGUMENT...\n");
        return 2;
    }
    for (;;) {
        pid_t pid;
        int status;
        int error = posix_spawn(&pid, argv[1], NULL, NULL, argv + 1, environ);
        if (error != 0) {
            fprintf(stderr, "loop: cannot start %s: %s\n", argv[1], strerror(error));
            return 1;
        }
        while (waitpid(pid, &status, 0) != pid)
            if (errno != EINTR)
                return 1;
        if (WIFEXITED(status)) {
            fprintf(stderr, "loop: %s exited with code %d\n", argv[1], WEXITSTATUS(status));
            return 1;
        }
    }
}
