/* Runs a program, and records or fails its system calls on files of one folder. Linux on x86-64.
 *
 *   calls FOLDER record LOG PROGRAM ARGUMENT...
 *   calls FOLDER CALL:N:FAULT LOG PROGRAM ARGUMENT...
 *
 * CALL is one of the names in `calls` below. The N-th such call on a file of FOLDER (from 1, over all threads) does not
 * happen: it returns the error FAULT (EIO, ENOSPC, EINTR, ENOMEM), or moves half of its bytes (SHORT), or the program is
 * killed instead (KILL). Calls on other files are never counted or failed: shared libraries, /proc, /sys, /dev, pipes and
 * memory without a file.
 *
 * LOG gets a line for each call on a file of FOLDER, before it happens: its name, path, second path or offset, and for
 * `record` the bytes of a write in hex, separated by tabs. The exit code is the program's, 128 + N for signal N.
 *
 * A seccomp filter stops the program at these calls alone, so that it runs at its speed otherwise. Raw system calls are
 * seen too, which a preloaded library would miss.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#if !defined(__x86_64__)
#error "x86-64 only"
#endif

enum shape { AT_FD, AT_PATH, AT_DIR_PATH, TWO_PATHS, TWO_DIR_PATHS, FIFTH_FD };

/* What is watched: number, name, where its files are named. */
static const struct call {
    long number;
    const char *name;
    enum shape shape;
} calls[] = {
    {SYS_open, "open", AT_PATH},           {SYS_creat, "open", AT_PATH},
    {SYS_openat, "open", AT_DIR_PATH},     {SYS_read, "read", AT_FD},
    {SYS_pread64, "read", AT_FD},          {SYS_readv, "read", AT_FD},
    {SYS_write, "write", AT_FD},           {SYS_pwrite64, "write", AT_FD},
    {SYS_writev, "write", AT_FD},          {SYS_copy_file_range, "write", AT_FD}, {SYS_sendfile, "write", AT_FD},
    {SYS_fsync, "fsync", AT_FD},           {SYS_fdatasync, "fsync", AT_FD},
    {SYS_ftruncate, "truncate", AT_FD},    {SYS_fallocate, "truncate", AT_FD},
    {SYS_rename, "rename", TWO_PATHS},     {SYS_renameat, "rename", TWO_DIR_PATHS},
    {SYS_renameat2, "rename", TWO_DIR_PATHS}, {SYS_link, "link", TWO_PATHS},
    {SYS_linkat, "link", TWO_DIR_PATHS},   {SYS_unlink, "unlink", AT_PATH},
    {SYS_unlinkat, "unlink", AT_DIR_PATH}, {SYS_mmap, "mmap", FIFTH_FD},
};
#define N_CALLS (sizeof calls / sizeof *calls)

static const char *folder;
static int recording;
static const char *failing = "";
static long failing_at;
static const char *fault = "";
static long seen;
static FILE *journal;

static void die(const char *what) {
    fprintf(stderr, "calls: %s: %s\n", what, strerror(errno));
    exit(125);
}

static int read_memory(pid_t pid, unsigned long at, void *into, size_t n) {
    struct iovec local = {into, n}, remote = {(void *)at, n};
    return process_vm_readv(pid, &local, 1, &remote, 1, 0) == (ssize_t)n;
}

static void read_string(pid_t pid, unsigned long at, char *into) {
    size_t n = 0;
    while (n < PATH_MAX - 1 && read_memory(pid, at + n, into + n, 1) && into[n])
        n++;
    into[n] = 0;
}

static void link_of(pid_t pid, const char *what, int fd, char *into) {
    char name[64];
    if (fd >= 0)
        snprintf(name, sizeof name, "/proc/%d/fd/%d", pid, fd);
    else
        snprintf(name, sizeof name, "/proc/%d/%s", pid, what);
    ssize_t n = readlink(name, into, PATH_MAX - 1);
    into[n < 0 ? 0 : n] = 0;
}

/* The absolute path of `name`, beginning at the folder `fd` or the working directory. */
static void absolute(pid_t pid, int fd, unsigned long name, char *into) {
    char relative[PATH_MAX], base[PATH_MAX];
    read_string(pid, name, relative);
    if (relative[0] == '/') {
        strcpy(into, relative);
        return;
    }
    link_of(pid, "cwd", fd == AT_FDCWD ? -1 : fd, base);
    const char *rest = strncmp(relative, "./", 2) ? relative : relative + 2;
    if (snprintf(into, PATH_MAX, "%s/%s", base, strcmp(rest, ".") ? rest : "") >= PATH_MAX)
        into[0] = 0;
    size_t n = strlen(into);
    if (n > 1 && into[n - 1] == '/')
        into[n - 1] = 0;
}

static int is_ours(const char *path) {
    size_t n = strlen(folder);
    return strncmp(path, folder, n) == 0 && (path[n] == '/' || path[n] == 0);
}

static long position(pid_t pid, int fd) {
    char name[64];
    long at = 0;
    snprintf(name, sizeof name, "/proc/%d/fdinfo/%d", pid, fd);
    FILE *info = fopen(name, "r");
    if (!info || fscanf(info, "pos: %ld", &at) != 1)
        at = 0;
    if (info)
        fclose(info);
    return at;
}

static void hex(pid_t pid, unsigned long at, size_t n) {
    unsigned char block[4096];
    while (n > 0) {
        size_t part = n < sizeof block ? n : sizeof block;
        if (!read_memory(pid, at, block, part))
            die("cannot read what is written");
        for (size_t i = 0; i < part; i++)
            fprintf(journal, "%02x", block[i]);
        at += part, n -= part;
    }
}

static void record_write(pid_t pid, const struct user_regs_struct *regs) {
    long at = regs->orig_rax == SYS_pwrite64 ? (long)regs->r10 : position(pid, (int)regs->rdi);
    fprintf(journal, "\t%ld\t", at);
    if (regs->orig_rax == SYS_writev) {
        for (unsigned long i = 0; i < regs->rdx; i++) {
            struct iovec part;
            if (!read_memory(pid, regs->rsi + i * sizeof part, &part, sizeof part))
                die("cannot read what is written");
            hex(pid, (unsigned long)part.iov_base, part.iov_len);
        }
    } else {
        hex(pid, regs->rsi, regs->rdx);
    }
}

static void answer(pid_t pid, struct user_regs_struct *regs, int error) {
    regs->orig_rax = (unsigned long)-1;
    regs->rax = (unsigned long)-error;
    if (ptrace(PTRACE_SETREGS, pid, 0, regs) < 0)
        die("cannot change a call");
}

static void fail(pid_t pid, struct user_regs_struct *regs) {
    static const struct {
        const char *name;
        int number;
    } errors[] = {{"EIO", EIO}, {"ENOSPC", ENOSPC}, {"EINTR", EINTR}, {"ENOMEM", ENOMEM}};
    if (strcmp(fault, "KILL") == 0) {
        kill(pid, SIGKILL);
        return;
    }
    if (strcmp(fault, "SHORT") == 0) {
        int sized = regs->orig_rax == SYS_write || regs->orig_rax == SYS_pwrite64 || regs->orig_rax == SYS_read ||
                    regs->orig_rax == SYS_pread64;
        if (sized && regs->rdx > 1)
            regs->rdx /= 2;
        else
            return;
        if (ptrace(PTRACE_SETREGS, pid, 0, regs) < 0)
            die("cannot change a call");
        return;
    }
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (strcmp(errors[i].name, fault) == 0)
            answer(pid, regs, errors[i].number);
}

static void stopped_at_call(pid_t pid) {
    struct user_regs_struct regs;
    if (ptrace(PTRACE_GETREGS, pid, 0, &regs) < 0)
        return; /* it was killed in between */
    const struct call *call = NULL;
    for (size_t i = 0; i < N_CALLS; i++)
        if (calls[i].number == (long)regs.orig_rax)
            call = &calls[i];
    if (!call)
        return;
    char path[PATH_MAX] = "", second[PATH_MAX] = "";
    switch (call->shape) {
    case AT_FD:
        link_of(pid, "", regs.orig_rax == SYS_copy_file_range ? (int)regs.rdx : (int)regs.rdi, path);
        break;
    case FIFTH_FD:
        if ((int)regs.r8 >= 0 && !(regs.r10 & MAP_ANONYMOUS))
            link_of(pid, "", (int)regs.r8, path);
        break;
    case AT_PATH:
        absolute(pid, AT_FDCWD, regs.rdi, path);
        break;
    case AT_DIR_PATH:
        absolute(pid, (int)regs.rdi, regs.rsi, path);
        break;
    case TWO_PATHS:
        absolute(pid, AT_FDCWD, regs.rdi, path);
        absolute(pid, AT_FDCWD, regs.rsi, second);
        break;
    case TWO_DIR_PATHS:
        absolute(pid, (int)regs.rdi, regs.rsi, path);
        absolute(pid, (int)regs.rdx, regs.r10, second);
        break;
    }
    if (!is_ours(path) && !is_ours(second))
        return;
    if (recording && (regs.orig_rax == SYS_copy_file_range || regs.orig_rax == SYS_sendfile)) {
        answer(pid, &regs, ENOSYS); /* the program then writes, and that is recorded */
        return;
    }
    fprintf(journal, "%s\t%s", call->name, path);
    if (call->shape == TWO_PATHS || call->shape == TWO_DIR_PATHS)
        fprintf(journal, "\t%s", second);
    if (strcmp(call->name, "open") == 0) {
        unsigned long flags = regs.orig_rax == SYS_openat ? regs.rdx : regs.orig_rax == SYS_open ? regs.rsi : O_CREAT | O_TRUNC;
        fprintf(journal, "\t%s%s", flags & O_CREAT ? "create" : "", flags & O_TRUNC ? " truncate" : "");
    }
    if (strcmp(call->name, "truncate") == 0)
        fprintf(journal, "\t%lld", regs.orig_rax == SYS_ftruncate ? (long long)regs.rsi : -1);
    if (strcmp(call->name, "mmap") == 0)
        fprintf(journal, "\t%s", (regs.r10 & MAP_SHARED) && (regs.rdx & PROT_WRITE) ? "shared" : "");
    if (recording && strcmp(call->name, "write") == 0)
        record_write(pid, &regs);
    fprintf(journal, "\n");
    if (strcmp(call->name, failing) == 0 && ++seen == failing_at) {
        fprintf(journal, "fault\t%s\n", path);
        fail(pid, &regs);
    }
    fflush(journal);
}

static void filter_calls(void) {
    struct sock_filter program[2 * N_CALLS + 2];
    size_t n = 0;
    program[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (size_t i = 0; i < N_CALLS; i++) {
        program[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)calls[i].number, 0, 1);
        program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE);
    }
    program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog filter = {(unsigned short)n, program};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter))
        die("seccomp");
}

static void start(char **command) {
    if (ptrace(PTRACE_TRACEME, 0, 0, 0) < 0)
        die("ptrace");
    raise(SIGSTOP);
    filter_calls();
    execv(command[0], command);
    die(command[0]);
}

int main(int argc, char **argv) {
    if (argc < 5) {
        fprintf(stderr, "usage: calls FOLDER record|CALL:N:FAULT LOG PROGRAM ARGUMENT...\n");
        return 125;
    }
    folder = argv[1];
    recording = strcmp(argv[2], "record") == 0;
    if (!recording) {
        char *first = strchr(argv[2], ':'), *last = strrchr(argv[2], ':');
        if (!first || first == last) {
            fprintf(stderr, "calls: '%s' is not CALL:N:FAULT\n", argv[2]);
            return 125;
        }
        *first = 0;
        failing = argv[2], failing_at = atol(first + 1), fault = last + 1;
    }
    journal = fopen(argv[3], "we");
    if (!journal)
        die(argv[3]);
    pid_t child = fork();
    if (child < 0)
        die("fork");
    if (child == 0)
        start(argv + 4);
    int status;
    if (waitpid(child, &status, 0) < 0 || !WIFSTOPPED(status))
        die("the program does not start");
    long options = PTRACE_O_EXITKILL | PTRACE_O_TRACESECCOMP | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
                   PTRACE_O_TRACEEXEC;
    if (ptrace(PTRACE_SETOPTIONS, child, 0, options) < 0)
        die("ptrace options");
    ptrace(PTRACE_CONT, child, 0, 0);
    for (;;) {
        pid_t pid = waitpid(-1, &status, __WALL);
        if (pid < 0)
            die("wait");
        if (!WIFSTOPPED(status)) {
            if (pid != child)
                continue;
            fclose(journal);
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
        int signal = WSTOPSIG(status), event = status >> 16;
        if (event == PTRACE_EVENT_SECCOMP)
            stopped_at_call(pid);
        if (event || signal == SIGSTOP || signal == SIGTRAP)
            signal = 0;
        ptrace(PTRACE_CONT, pid, 0, signal);
    }
}
