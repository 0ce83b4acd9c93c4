/* Counts the file operations of a process below one folder, and makes the n-th of them fail or fatal.
 *
 * Loaded with LD_PRELOAD it stands in front of libc, so that what Rust and C++ libraries do counts too.
 * Nothing happens before `faults_arm` is called. Every counted operation is a line in a log.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { WATCH = 0, KILL = 1, TORN = 2, FAIL = 3, FAIL_ON = 4, TERM = 5 };

static char root[PATH_MAX];
static size_t root_length;
static long at, count;
static int mode, error_number, log_fd = -1;

void faults_arm(const char *folder, long number, int what, int error, int log) {
    snprintf(root, sizeof root, "%s/", folder);
    root_length = strlen(root);
    at = number, mode = what, error_number = error, log_fd = log, count = 0;
}

static void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
}

/* Send SIGTERM to the process, and note when in the log. */
static void ask_to_stop(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (log_fd >= 0) {
        char line[64];
        int n = snprintf(line, sizeof line, "SIGTERM %lld.%09ld\n", (long long)now.tv_sec, now.tv_nsec);
        syscall(SYS_write, log_fd, line, n);
    }
    syscall(SYS_kill, getpid(), SIGTERM);
}

static int counts(const char *path) {
    return root_length && strncmp(path, root, root_length) == 0;
}

static void whole_path(int folder, const char *path, char *into) {
    char base[PATH_MAX] = "", link[64];
    if (path[0] != '/') {
        if (folder == AT_FDCWD) {
            if (!getcwd(base, sizeof base)) base[0] = 0;
        } else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
            ssize_t n = readlink(link, base, sizeof base - 1);
            base[n < 0 ? 0 : n] = 0;
        }
        strncat(base, "/", sizeof base - strlen(base) - 1);
    }
    snprintf(into, PATH_MAX, "%.2000s%.2000s", base, path);
}

static void path_of(int fd, char *into) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, into, PATH_MAX - 1);
    into[n < 0 ? 0 : n] = 0;
}

/* Count an operation; return what is to be done to it: 0 nothing, KILL is done here, else TORN or FAIL. */
static int meet(const char *name, const char *path) {
    if (!counts(path)) return 0;
    int kept = errno;
    long number = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    if (log_fd >= 0) {
        char line[PATH_MAX + 32];
        int n = snprintf(line, sizeof line, "%s %s\n", name, path + root_length);
        syscall(SYS_write, log_fd, line, n);
    }
    errno = kept;
    /* A full disk still lets go of things. */
    int frees = strcmp(name, "unlink") == 0 || strcmp(name, "rmdir") == 0;
    if (mode == FAIL_ON) return number >= at && !frees ? FAIL : 0;
    if (number != at) return 0;
    if (mode == KILL) die();
    if (mode == TERM) {
        ask_to_stop();
        errno = kept;
        return 0;
    }
    return mode;
}

static int meet_at(const char *name, int folder, const char *path) {
    if (!root_length || !path) return 0;
    char whole[PATH_MAX];
    whole_path(folder, path, whole);
    return meet(name, whole);
}

static int meet_fd(const char *name, int fd) {
    if (!root_length) return 0;
    char path[PATH_MAX];
    path_of(fd, path);
    return meet(name, path);
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

/* Operations that are done whole or not at all: dying in them means dying behind them. */
#define WHOLE(found, call) \
    int fate_ = (found); \
    if (fate_ == FAIL) { errno = error_number; return -1; } \
    long answer = (call); \
    if (fate_ == TORN) die(); \
    return answer

#define OPENER(name, ...) \
    int fate = (flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) ? meet_at("open", FOLDER, path) : 0; \
    WHOLE(fate, real(__VA_ARGS__))

#define FOLDER AT_FDCWD
int open(const char *path, int flags, ...) {
    REAL(int, open, const char *, int, ...);
    va_list rest; va_start(rest, flags); mode_t bits = va_arg(rest, mode_t); va_end(rest);
    OPENER(open, path, flags, bits);
}
int open64(const char *path, int flags, ...) {
    REAL(int, open64, const char *, int, ...);
    va_list rest; va_start(rest, flags); mode_t bits = va_arg(rest, mode_t); va_end(rest);
    OPENER(open64, path, flags, bits);
}
#undef FOLDER
#define FOLDER folder
int openat(int folder, const char *path, int flags, ...) {
    REAL(int, openat, int, const char *, int, ...);
    va_list rest; va_start(rest, flags); mode_t bits = va_arg(rest, mode_t); va_end(rest);
    OPENER(openat, folder, path, flags, bits);
}
int openat64(int folder, const char *path, int flags, ...) {
    REAL(int, openat64, int, const char *, int, ...);
    va_list rest; va_start(rest, flags); mode_t bits = va_arg(rest, mode_t); va_end(rest);
    OPENER(openat64, folder, path, flags, bits);
}

/* Writes can be cut: half of the bytes arrive. */
ssize_t write(int fd, const void *bytes, size_t n) {
    REAL(ssize_t, write, int, const void *, size_t);
    int fate = meet_fd("write", fd);
    WHOLE(fate, real(fd, bytes, fate == TORN ? n / 2 : n));
}
ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t where) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    int fate = meet_fd("write", fd);
    WHOLE(fate, real(fd, bytes, fate == TORN ? n / 2 : n, where));
}
ssize_t pwrite(int fd, const void *bytes, size_t n, off_t where) {
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
    int fate = meet_fd("write", fd);
    WHOLE(fate, real(fd, bytes, fate == TORN ? n / 2 : n, where));
}
ssize_t writev(int fd, const struct iovec *parts, int n) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    int fate = meet_fd("write", fd);
    WHOLE(fate, real(fd, parts, fate == TORN ? (n + 1) / 2 : n));
}
ssize_t sendfile64(int out, int in, off64_t *where, size_t n) {
    REAL(ssize_t, sendfile64, int, int, off64_t *, size_t);
    int fate = meet_fd("write", out);
    WHOLE(fate, real(out, in, where, fate == TORN ? n / 2 : n));
}
ssize_t sendfile(int out, int in, off_t *where, size_t n) {
    REAL(ssize_t, sendfile, int, int, off_t *, size_t);
    int fate = meet_fd("write", out);
    WHOLE(fate, real(out, in, where, fate == TORN ? n / 2 : n));
}
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t n, unsigned flags) {
    REAL(ssize_t, copy_file_range, int, off64_t *, int, off64_t *, size_t, unsigned);
    int fate = meet_fd("write", out);
    WHOLE(fate, real(in, from, out, to, fate == TORN ? n / 2 : n, flags));
}
size_t fwrite(const void *bytes, size_t size, size_t n, FILE *file) {
    REAL(size_t, fwrite, const void *, size_t, size_t, FILE *);
    int fate = meet_fd("write", fileno(file));
    if (fate == FAIL) { errno = error_number; return 0; }
    size_t done = real(bytes, size, fate == TORN ? n / 2 : n, file);
    if (fate == TORN) { fflush(file); die(); }
    return done;
}

int ftruncate(int fd, off_t n) {
    REAL(int, ftruncate, int, off_t);
    WHOLE(meet_fd("truncate", fd), real(fd, n));
}
int ftruncate64(int fd, off64_t n) {
    REAL(int, ftruncate64, int, off64_t);
    WHOLE(meet_fd("truncate", fd), real(fd, n));
}
int fsync(int fd) {
    REAL(int, fsync, int);
    int fate = meet_fd("fsync", fd);
    WHOLE(fate, real(fd));
}
int fdatasync(int fd) {
    REAL(int, fdatasync, int);
    int fate = meet_fd("fsync", fd);
    WHOLE(fate, real(fd));
}
int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    int fate = meet_at("rename", AT_FDCWD, to);
    WHOLE(fate, real(from, to));
}
int renameat(int a, const char *from, int b, const char *to) {
    REAL(int, renameat, int, const char *, int, const char *);
    int fate = meet_at("rename", b, to);
    WHOLE(fate, real(a, from, b, to));
}
int unlink(const char *path) {
    REAL(int, unlink, const char *);
    int fate = meet_at("unlink", AT_FDCWD, path);
    WHOLE(fate, real(path));
}
int unlinkat(int folder, const char *path, int flags) {
    REAL(int, unlinkat, int, const char *, int);
    int fate = meet_at("unlink", folder, path);
    WHOLE(fate, real(folder, path, flags));
}
int rmdir(const char *path) {
    REAL(int, rmdir, const char *);
    int fate = meet_at("rmdir", AT_FDCWD, path);
    WHOLE(fate, real(path));
}
int mkdir(const char *path, mode_t bits) {
    REAL(int, mkdir, const char *, mode_t);
    int fate = meet_at("mkdir", AT_FDCWD, path);
    WHOLE(fate, real(path, bits));
}
int mkdirat(int folder, const char *path, mode_t bits) {
    REAL(int, mkdirat, int, const char *, mode_t);
    int fate = meet_at("mkdir", folder, path);
    WHOLE(fate, real(folder, path, bits));
}
int link(const char *from, const char *to) {
    REAL(int, link, const char *, const char *);
    int fate = meet_at("link", AT_FDCWD, to);
    WHOLE(fate, real(from, to));
}
int symlink(const char *from, const char *to) {
    REAL(int, symlink, const char *, const char *);
    int fate = meet_at("link", AT_FDCWD, to);
    WHOLE(fate, real(from, to));
}
