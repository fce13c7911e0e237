// Loaded before libc (LD_PRELOAD): counts the calls that write below a folder, and strikes at one of them.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { NEVER = 0, KILL = -1 }; // otherwise an errno, for this call and those after it
enum kind { CREATE, MAKE, WRITE, ALLOCATE, SYNC, RENAME, REMOVE, CHANGE };
static const char *const NAMES[] = {"create", "make", "write", "allocate", "sync", "rename", "remove", "change"};

static atomic_int count;
static int strike_at, strike_mode, trace = -1;
static char root[PATH_MAX];

void tinyscene_strike(int at, int mode, const char *folder, int trace_handle) {
    strike_at = at;
    strike_mode = mode;
    trace = trace_handle;
    count = 0;
    snprintf(root, sizeof root, "%s", folder);
}

static int below(const char *path) {
    return root[0] && strncmp(path, root, strlen(root)) == 0;
}

// The path of a file: absolute, or relative to an open folder. Empty where it cannot be told.
static void resolve(int folder, const char *path, char out[PATH_MAX]) {
    char link[64], base[PATH_MAX / 2];
    out[0] = 0;
    if (path && path[0] == '/') {
        snprintf(out, PATH_MAX, "%s", path);
        return;
    }
    snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
    ssize_t size = readlink(link, base, sizeof base - 1);
    if (size <= 0)
        return;
    base[size] = 0;
    snprintf(out, PATH_MAX, path ? "%s/%.2000s" : "%s", base, path);
}

// Whether the call must fail. A write that is struck is let through by half, if it has a half.
static int strikes(enum kind kind, int folder, const char *path, size_t *half) {
    char whole[PATH_MAX];
    int kept = errno;
    resolve(folder, path, whole);
    errno = kept;
    if (!below(whole))
        return 0;
    int number = atomic_fetch_add(&count, 1) + 1;
    if (trace >= 0)
        dprintf(trace, "%s %s\n", NAMES[kind], whole);
    if (strike_mode == NEVER || number < strike_at)
        return 0;
    if (strike_mode == KILL) {
        if (number == strike_at && half && *half > 1) {
            *half = *half / 2;
            return 2;
        }
        if (number >= strike_at)
            kill(getpid(), SIGKILL);
        return 0;
    }
    if (strike_mode == ENOSPC && (kind == REMOVE || kind == CHANGE))
        return 0; // a full disk allows these
    if (strike_mode == ENOSPC && number == strike_at && half && *half > 1) {
        *half = *half / 2;
        return 2;
    }
    errno = strike_mode;
    return 1;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int handle, const void *bytes, size_t size) {
    size_t part = size;
    int struck = trace == handle && trace >= 0 ? 0 : strikes(WRITE, handle, NULL, &part);
    if (struck == 1)
        return -1;
    ssize_t written = NEXT(write)(handle, bytes, part);
    if (struck == 2 && strike_mode == KILL)
        kill(getpid(), SIGKILL);
    return written;
}

static int opens(int folder, const char *path, int flags) {
    if (!(flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)) || (flags & O_TMPFILE) == O_TMPFILE)
        return 0;
    int is_there = faccessat(folder, path, F_OK, 0) == 0;
    return strikes(is_there ? CHANGE : CREATE, folder, path, NULL);
}

static mode_t mode_of(int flags, va_list *more) {
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(*more, mode_t) : 0;
}

#define OPEN(name)                                           \
    int name(const char *path, int flags, ...) {             \
        va_list more;                                        \
        va_start(more, flags);                               \
        mode_t mode = mode_of(flags, &more);                 \
        va_end(more);                                        \
        return opens(AT_FDCWD, path, flags) ? -1 : NEXT(name)(path, flags, mode); \
    }
#define OPENAT(name)                                         \
    int name(int folder, const char *path, int flags, ...) { \
        va_list more;                                        \
        va_start(more, flags);                               \
        mode_t mode = mode_of(flags, &more);                 \
        va_end(more);                                        \
        return opens(folder, path, flags) ? -1 : NEXT(name)(folder, path, flags, mode); \
    }
#define CALL(kind, type, name, folder, path, parameters, arguments)                    \
    type name parameters {                                                             \
        return strikes(kind, folder, path, NULL) ? -1 : NEXT(name) arguments;          \
    }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
int mkdir(const char *, mode_t);
int mkdirat(int, const char *, mode_t);
int chmod(const char *, mode_t);
int fchmod(int, mode_t);
CALL(MAKE, int, mkdir, AT_FDCWD, path, (const char *path, mode_t mode), (path, mode))
CALL(MAKE, int, mkdirat, folder, path, (int folder, const char *path, mode_t mode), (folder, path, mode))
CALL(CHANGE, int, chmod, AT_FDCWD, path, (const char *path, mode_t mode), (path, mode))
CALL(CHANGE, int, fchmod, handle, NULL, (int handle, mode_t mode), (handle, mode))
CALL(RENAME, int, rename, AT_FDCWD, from, (const char *from, const char *to), (from, to))
CALL(RENAME, int, renameat, folder, from, (int folder, const char *from, int other, const char *to),
     (folder, from, other, to))
CALL(REMOVE, int, unlink, AT_FDCWD, path, (const char *path), (path))
CALL(REMOVE, int, unlinkat, folder, path, (int folder, const char *path, int flags), (folder, path, flags))
CALL(REMOVE, int, rmdir, AT_FDCWD, path, (const char *path), (path))
CALL(SYNC, int, fsync, handle, NULL, (int handle), (handle))
CALL(SYNC, int, fdatasync, handle, NULL, (int handle), (handle))
CALL(ALLOCATE, int, ftruncate, handle, NULL, (int handle, off_t size), (handle, size))
CALL(ALLOCATE, int, ftruncate64, handle, NULL, (int handle, off64_t size), (handle, size))
CALL(WRITE, ssize_t, pwrite, handle, NULL, (int handle, const void *bytes, size_t size, off_t at),
     (handle, bytes, size, at))
CALL(WRITE, ssize_t, pwrite64, handle, NULL, (int handle, const void *bytes, size_t size, off64_t at),
     (handle, bytes, size, at))

// Returns the errno itself.
int posix_fallocate64(int handle, off64_t at, off64_t size) {
    return strikes(ALLOCATE, handle, NULL, NULL) ? strike_mode : NEXT(posix_fallocate64)(handle, at, size);
}
int posix_fallocate(int handle, off_t at, off_t size) {
    return strikes(ALLOCATE, handle, NULL, NULL) ? strike_mode : NEXT(posix_fallocate)(handle, at, size);
}
