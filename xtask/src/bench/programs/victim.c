/*
 * The process that is crashed. Its first act is to read the clock; it appends {time, pid} to the file that its first
 * argument names, and waits for its end. Further arguments are what a `#!` line and some supervisors add.
 *
 * No libc and nothing to relocate, so that what is measured is the supervisor and the kernel, not a start-up of its
 * own. It says that it is ready by a newline on descriptor 3, as s6 wants it; others have nothing there.
 */
typedef unsigned long word;

#if defined(__x86_64__)
enum { SYS_write = 1, SYS_getpid = 39, SYS_clock_gettime = 228 };
enum { SYS_exit_group = 231, SYS_openat = 257, SYS_ppoll = 271 };

__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call life");

static word sys(word number, word a, word b, word c, word d, word e) {
    register word r10 __asm__("r10") = d, r8 __asm__("r8") = e;
    __asm__ volatile("syscall" : "+a"(number) : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
    return number;
}
#elif defined(__aarch64__)
enum { SYS_openat = 56, SYS_write = 64, SYS_ppoll = 73 };
enum { SYS_exit_group = 94, SYS_clock_gettime = 113, SYS_getpid = 172 };

__asm__(".globl _start\n_start: mov x0, sp\n bl life");

static word sys(word number, word a, word b, word c, word d, word e) {
    register word x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    register word x3 __asm__("x3") = d, x4 __asm__("x4") = e;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
    return x0;
}
#else
#error "the system call numbers of this architecture are missing"
#endif

enum { CLOCK_MONOTONIC = 1, AT_FDCWD = -100, O_WRONLY = 1, O_APPEND = 02000 };

/* `stack` is what the kernel leaves there: argc, the arguments, NULL, the environment. */
void life(const word *stack) {
    struct { word seconds, nanoseconds; } now;
    sys(SYS_clock_gettime, CLOCK_MONOTONIC, (word)&now, 0, 0, 0);

    const word record[2] = {now.seconds * 1000000000 + now.nanoseconds, sys(SYS_getpid, 0, 0, 0, 0, 0)};
    word file = sys(SYS_openat, AT_FDCWD, stack[0] >= 2 ? stack[2] : 0, O_WRONLY | O_APPEND, 0, 0);
    if (sys(SYS_write, file, (word)record, sizeof record, 0, 0) != sizeof record)
        sys(SYS_exit_group, 1, 0, 0, 0, 0);
    if (file != 3)
        sys(SYS_write, 3, (word)"\n", 1, 0, 0);
    for (;;)
        sys(SYS_ppoll, 0, 0, 0, 0, 0);
}
