/*
 * What a restart costs at least where each life has its own cgroup: `cgroup-loop CGROUP PROGRAM ARGUMENT... [-- PROGRAM
 * ARGUMENT...]...` starts every program, waits for the end of any, looks whether anything is left in the cgroup of that
 * life, and starts the program again in another one. No log, no policy, no window for descriptors: what is left out here
 * no such supervisor can leave out. It gives up when it cannot start a program, or when one ends by itself.
 *
 * CGROUP is a folder of cgroup v2. Each program has two leaves below it, made and opened before anything is started, and
 * used in turn. Processes are born in them (CLONE_INTO_CGROUP, Linux 5.7).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { VM = 0x100, VFORK = 0x4000, STACK = 65536 };
static const unsigned long long INTO_CGROUP = 0x200000000ULL;

struct leaf { int folder, events; };
struct service { char **argv; pid_t pid; int turn; struct leaf leaves[2]; };
struct clone_args { unsigned long long flags, pidfd, child_tid, parent_tid, exit_signal, stack, size, tls, set_tid, set_tid_size, cgroup; };

extern char **environ;
static char stack[STACK] __attribute__((aligned(16)));
static int null;

static void give_up(const char *what, const char *of) {
    fprintf(stderr, "cgroup-loop: %s %s: %s\n", what, of, strerror(errno));
    exit(1);
}

/* The child, on a stack of its own in the memory of its parent, which waits meanwhile. */
static void child(char **argv) {
    sigset_t none;
    sigemptyset(&none);
    setsid();
    for (int stream = 0; stream < 3; stream++)
        dup2(null, stream);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execve(argv[0], argv, environ);
    _exit(127);
}

/* The C library has no clone3 for others. */
static long clone3(const struct clone_args *args, char **argv) {
    long result;
#if defined(__x86_64__)
    register char **argument __asm__("r8") = argv;
    register void (*function)(char **) __asm__("r9") = child;
    __asm__ volatile("syscall\n test %%rax, %%rax\n jnz 1f\n xor %%ebp, %%ebp\n mov %%r8, %%rdi\n call *%%r9\n hlt\n1:"
                     : "=a"(result) : "a"(SYS_clone3), "D"(args), "S"(sizeof *args), "r"(argument), "r"(function)
                     : "rcx", "r11", "memory", "cc");
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = SYS_clone3, x0 __asm__("x0") = (long)args, x1 __asm__("x1") = sizeof *args;
    register char **argument __asm__("x9") = argv;
    register void (*function)(char **) __asm__("x10") = child;
    __asm__ volatile("svc 0\n cbnz x0, 1f\n mov x29, xzr\n mov x0, x9\n blr x10\n brk 0\n1:"
                     : "+r"(x0) : "r"(x8), "r"(x1), "r"(argument), "r"(function) : "memory", "cc");
    result = x0;
#else
#error "clone3 of this architecture is missing"
#endif
    return result;
}

static struct leaf leaf(const char *cgroup, int service, int turn) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%d", cgroup, service);
    mkdir(path, 0755);
    snprintf(path, sizeof path, "%s/%d/%d", cgroup, service, turn);
    if (mkdir(path, 0755) != 0)
        give_up("cannot make", path);
    struct leaf made = {.folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), .events = -1};
    if (made.folder >= 0)
        made.events = openat(made.folder, "cgroup.events", O_RDONLY | O_CLOEXEC);
    if (made.events < 0)
        give_up("cannot open", path);
    return made;
}

/* Whether nothing is left in it; if there is, waits until that has gone. */
static void expect_empty(const struct leaf *leaf) {
    for (;;) {
        char text[128];
        ssize_t length = pread(leaf->events, text, sizeof text - 1, 0);
        if (length < 0)
            give_up("cannot read", "cgroup.events");
        text[length] = 0;
        if (strstr(text, "populated 1") == NULL)
            return;
        struct pollfd change = {.fd = leaf->events, .events = POLLPRI};
        poll(&change, 1, -1);
    }
}

static void start(struct service *service) {
    service->turn ^= 1;
    struct clone_args args = {
        .flags = VM | VFORK | INTO_CGROUP, .exit_signal = SIGCHLD, .stack = (unsigned long long)stack, .size = STACK,
        .cgroup = service->leaves[service->turn].folder,
    };
    long pid = clone3(&args, service->argv);
    if (pid < 0) {
        errno = -pid;
        give_up("cannot start", service->argv[0]);
    }
    service->pid = pid;
}

int main(int argc, char **argv) {
    struct service *services = calloc((size_t)argc, sizeof *services);
    sigset_t all;
    if (services == NULL || argc < 3) {
        fprintf(stderr, "usage: cgroup-loop CGROUP PROGRAM ARGUMENT... [-- PROGRAM ARGUMENT...]...\n");
        return 2;
    }
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int count = 0;
    services[count++].argv = argv + 2;
    for (int n = 2; n < argc - 1; n++)
        if (strcmp(argv[n], "--") == 0) {
            argv[n] = NULL;
            services[count++].argv = argv + ++n;
        }
    for (int n = 0; n < count; n++)
        for (int turn = 0; turn < 2; turn++)
            services[n].leaves[turn] = leaf(argv[1], n, turn);
    for (int n = 0; n < count; n++)
        start(&services[n]);
    for (;;) {
        int status, n = 0;
        pid_t pid = waitpid(-1, &status, 0);
        if (pid < 0 && errno != EINTR)
            return 1;
        while (n < count && services[n].pid != pid)
            n++;
        if (n == count)
            continue;
        if (WIFEXITED(status)) {
            fprintf(stderr, "cgroup-loop: %s exited with code %d\n", services[n].argv[0], WEXITSTATUS(status));
            return 1;
        }
        expect_empty(&services[n].leaves[services[n].turn]);
        start(&services[n]);
    }
}
