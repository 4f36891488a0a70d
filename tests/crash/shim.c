/* Stands between a process and the C library, for the tests of crashes (LD_PRELOAD).
 *
 * Calls on files under one folder are counted, and at will written to a trace in the order of
 * their effects, made to fail, or not returned from because the process ends.  Nothing happens
 * until `shim_arm` is called; forked children inherit what was armed, executed programs do not.
 *
 * A trace is a row of records: a `struct head`, then `first` bytes of a path, then `second` bytes
 * of data or of a second path.  A write through a descriptor that was opened with O_DSYNC gives
 * two: the write, and the sync of its range.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN = 1, CLOSE, WRITE, SYNC, SYNC_RANGE, TRUNCATE, RENAME, UNLINK, MKDIR, MARK };
enum { FAIL_WRITE = 1, FAIL_SYNC = 2, FAIL_OPEN = 4, FAIL_RENAME = 8, FAIL_MMAP = 16,
       FAIL_UNLINK = 32 };
#define DESCRIPTORS 4096
#define EXIT_KILLED 137

struct head {
    uint32_t op, handle;
    uint64_t place;
    uint32_t first, second;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[1024];
static int trace = -1;
static long die_at, changes;
static int die_in_commit;
static int fail_kinds, fail_error, fail_stays;
static long fail_at, fail_seen;
static uint32_t handles;
static char failed[256];
static struct { uint32_t handle; int sync, traced; char file[256]; } known[DESCRIPTORS];

#define REAL(type, name, ...)                                   \
    static type (*real)(__VA_ARGS__);                           \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static ssize_t plain_write(int fd, const void *data, size_t n) {
    REAL(ssize_t, "write", int, const void *, size_t);
    return real(fd, data, n);
}

static void record(uint32_t op, uint32_t handle, uint64_t place, const char *path,
                   const void *data, size_t n) {
    if (trace < 0) return;
    struct head head = {op, handle, place, path ? (uint32_t)strlen(path) : 0, (uint32_t)n};
    struct { const void *from; size_t n; } part[] = {{&head, sizeof head}, {path, head.first}, {data, n}};
    for (int i = 0; i < 3; i++)
        for (size_t done = 0; done < part[i].n;) {
            ssize_t wrote = plain_write(trace, (const char *)part[i].from + done, part[i].n - done);
            if (wrote <= 0) abort();
            done += (size_t)wrote;
        }
}

/* One more change is about to reach the files; the process may end instead.  `commit` is the
 * moment when a range was written that is to be synced, and is not yet: LMDB's commit. */
static void change(int commit) {
    if (die_at && (commit || !die_in_commit) && ++changes >= die_at) _exit(EXIT_KILLED);
}

static void copy_name(char *to, const char *path) {
    const char *name = strlen(path) > strlen(root) ? path + strlen(root) + 1 : path;
    strncpy(to, name, 255);
}

/* Whether this call is the one to fail. */
static int fails(int kind, const char *name) {
    if (!(fail_kinds & kind)) return 0;
    fail_seen++;
    if (!fail_at || fail_seen < fail_at || (fail_seen > fail_at && !fail_stays)) return 0;
    if (fail_seen == fail_at) strncpy(failed, name, sizeof failed - 1);
    return 1;
}

static int inside(const char *path) {
    size_t n = strlen(root);
    return n && path && !strncmp(path, root, n) && (path[n] == '/' || !path[n]);
}

static int of_lock(const char *path) {
    const char *name = strrchr(path, '/');
    return name && (!strcmp(name, "/lock.mdb") || !strcmp(name, "/writer.lock"));
}

static int watched(int fd) { return fd >= 0 && fd < DESCRIPTORS && known[fd].handle; }

/* --- what the tests call ------------------------------------------------------------------ */

void shim_arm(const char *folder, const char *trace_path, long die, int in_commit) {
    REAL(int, "open", const char *, int, ...);
    strncpy(root, folder, sizeof root - 1);
    if (*trace_path) trace = real(trace_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    die_at = die;
    die_in_commit = in_commit;
    changes = 0;
}

void shim_fail(int kinds, long at, int error, int stays) {
    fail_kinds = kinds, fail_at = at, fail_error = error, fail_stays = stays;
    fail_seen = 0;
    failed[0] = 0;
}

long shim_seen(void) { return fail_seen; }

/* File of the first call that failed. */
const char *shim_failed(void) { return failed; }

void shim_mark(const char *text) {
    pthread_mutex_lock(&lock);
    record(MARK, 0, 0, NULL, text, strlen(text));
    pthread_mutex_unlock(&lock);
}

/* --- opening and closing ------------------------------------------------------------------ */

typedef int (*open_call)(const char *, int, ...);

static int opened(open_call real, const char *path, int flags, mode_t mode) {
    if (!inside(path)) return real(path, flags, mode);
    pthread_mutex_lock(&lock);
    int fd = -1;
    if (fails(FAIL_OPEN, path)) {
        errno = fail_error;
    } else {
        if (flags & (O_CREAT | O_TRUNC)) change(0);
        fd = real(path, flags, mode);
        if (fd >= 0 && fd < DESCRIPTORS) {
            known[fd].handle = ++handles;
            copy_name(known[fd].file, path);
            known[fd].sync = flags & O_DSYNC;
            known[fd].traced = !of_lock(path);
            if (known[fd].traced) record(OPEN, handles, (uint64_t)flags, path, NULL, 0);
        }
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

static mode_t mode_of(int flags, va_list rest) {
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
}

#define DEFINE_OPEN(name)                                \
    int name(const char *path, int flags, ...) {         \
        REAL(int, #name, const char *, int, ...);        \
        va_list rest;                                    \
        va_start(rest, flags);                           \
        mode_t mode = mode_of(flags, rest);              \
        va_end(rest);                                    \
        return opened(real, path, flags, mode);          \
    }
DEFINE_OPEN(open)
DEFINE_OPEN(open64)

#define DEFINE_OPENAT(name, plain)                               \
    int name(int folder, const char *path, int flags, ...) {     \
        REAL(int, #name, int, const char *, int, ...);           \
        va_list rest;                                            \
        va_start(rest, flags);                                   \
        mode_t mode = mode_of(flags, rest);                      \
        va_end(rest);                                            \
        if (inside(path)) return plain(path, flags, mode);       \
        return real(folder, path, flags, mode);                  \
    }
DEFINE_OPENAT(openat, open)
DEFINE_OPENAT(openat64, open64)

int close(int fd) {
    REAL(int, "close", int);
    if (watched(fd)) known[fd].handle = 0;
    return real(fd);
}

/* --- writing ------------------------------------------------------------------------------ */

/* All ways to write, as pieces at a place; the descriptor's own place when `at` is negative. */
static ssize_t written(int fd, const struct iovec *pieces, int count, off_t at) {
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    size_t n = 0;
    for (int i = 0; i < count; i++) n += pieces[i].iov_len;
    char *data = malloc(n ? n : 1);
    if (!data) abort();
    size_t end = 0;
    for (int i = 0; i < count; i++) {
        memcpy(data + end, pieces[i].iov_base, pieces[i].iov_len);
        end += pieces[i].iov_len;
    }
    ssize_t done = -1;
    pthread_mutex_lock(&lock);
    int fail = fails(FAIL_WRITE, known[fd].file);
    if (fail && (fail_error || n < 2)) {
        errno = fail_error ? fail_error : EIO;
    } else {
        if (fail) n /= 2;
        change(0);
        off_t place = at < 0 ? lseek(fd, 0, SEEK_CUR) : at;
        done = real(fd, data, n, place);
        if (done >= 0) {
            if (at < 0) lseek(fd, place + done, SEEK_SET);
            if (known[fd].traced)
                record(WRITE, known[fd].handle, (uint64_t)place, NULL, data, (size_t)done);
            if (known[fd].sync) {
                uint32_t length = (uint32_t)done;
                if (fails(FAIL_SYNC, known[fd].file)) {
                    errno = fail_error ? fail_error : EIO;
                    done = -1;
                } else {
                    change(1);
                    record(SYNC_RANGE, known[fd].handle, (uint64_t)place, NULL, &length, 4);
                }
            }
        }
    }
    int error = errno;
    pthread_mutex_unlock(&lock);
    free(data);
    errno = error;
    return done;
}

ssize_t write(int fd, const void *data, size_t n) {
    if (!watched(fd)) return plain_write(fd, data, n);
    struct iovec piece = {(void *)data, n};
    return written(fd, &piece, 1, -1);
}

ssize_t writev(int fd, const struct iovec *pieces, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    return watched(fd) ? written(fd, pieces, count, -1) : real(fd, pieces, count);
}

#define DEFINE_PWRITE(name)                                              \
    ssize_t name(int fd, const void *data, size_t n, off_t place) {      \
        REAL(ssize_t, #name, int, const void *, size_t, off_t);          \
        if (!watched(fd)) return real(fd, data, n, place);               \
        struct iovec piece = {(void *)data, n};                          \
        return written(fd, &piece, 1, place);                            \
    }
DEFINE_PWRITE(pwrite)
DEFINE_PWRITE(pwrite64)

#define DEFINE_PWRITEV(name)                                                   \
    ssize_t name(int fd, const struct iovec *pieces, int count, off_t place) { \
        REAL(ssize_t, #name, int, const struct iovec *, int, off_t);           \
        return watched(fd) ? written(fd, pieces, count, place) : real(fd, pieces, count, place); \
    }
DEFINE_PWRITEV(pwritev)
DEFINE_PWRITEV(pwritev64)

#define DEFINE_FTRUNCATE(name)                                                   \
    int name(int fd, off_t size) {                                               \
        REAL(int, #name, int, off_t);                                            \
        if (!watched(fd)) return real(fd, size);                                 \
        pthread_mutex_lock(&lock);                                               \
        int done = -1;                                                           \
        if (fails(FAIL_WRITE, known[fd].file)) {                                                 \
            errno = fail_error ? fail_error : EIO;                               \
        } else {                                                                 \
            change(0);                                                            \
            done = real(fd, size);                                               \
            if (!done && known[fd].traced)                                       \
                record(TRUNCATE, known[fd].handle, (uint64_t)size, NULL, NULL, 0); \
        }                                                                        \
        pthread_mutex_unlock(&lock);                                             \
        return done;                                                             \
    }
DEFINE_FTRUNCATE(ftruncate)
DEFINE_FTRUNCATE(ftruncate64)

/* --- making durable ----------------------------------------------------------------------- */

static int synced(int (*real)(int), int fd) {
    if (!watched(fd)) return real(fd);
    pthread_mutex_lock(&lock);
    int done = -1;
    if (fails(FAIL_SYNC, known[fd].file)) {
        errno = fail_error ? fail_error : EIO;
    } else {
        change(0);
        done = real(fd);
        if (!done && known[fd].traced) record(SYNC, known[fd].handle, 0, NULL, NULL, 0);
    }
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

int fsync(int fd) {
    REAL(int, "fsync", int);
    return synced(real, fd);
}

int fdatasync(int fd) {
    REAL(int, "fdatasync", int);
    return synced(real, fd);
}

/* --- names -------------------------------------------------------------------------------- */

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    if (!inside(from)) return real(from, to);
    pthread_mutex_lock(&lock);
    int done = -1;
    if (fails(FAIL_RENAME, from)) {
        errno = fail_error ? fail_error : EIO;
    } else {
        change(0);
        done = real(from, to);
        if (!done) record(RENAME, 0, 0, from, to, strlen(to));
    }
    pthread_mutex_unlock(&lock);
    return done;
}

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    if (!inside(path)) return real(path);
    pthread_mutex_lock(&lock);
    int done = -1;
    if (fails(FAIL_UNLINK, path)) {
        errno = fail_error ? fail_error : EIO;
    } else {
        change(0);
        done = real(path);
        if (!done) record(UNLINK, 0, 0, path, NULL, 0);
    }
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    if (!inside(path)) return real(path, mode);
    pthread_mutex_lock(&lock);
    change(0);
    int done = real(path, mode), error = errno;
    if (!done) record(MKDIR, 0, 0, path, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

#define DEFINE_MMAP(name)                                                               \
    void *name(void *at, size_t n, int protection, int flags, int fd, off_t place) {    \
        REAL(void *, #name, void *, size_t, int, int, int, off_t);                      \
        if (watched(fd)) {                                                              \
            pthread_mutex_lock(&lock);                                                  \
            int fail = fails(FAIL_MMAP, known[fd].file);                                                \
            pthread_mutex_unlock(&lock);                                                \
            if (fail) {                                                                 \
                errno = fail_error ? fail_error : ENOMEM;                               \
                return MAP_FAILED;                                                      \
            }                                                                           \
        }                                                                               \
        return real(at, n, protection, flags, fd, place);                               \
    }
DEFINE_MMAP(mmap)
DEFINE_MMAP(mmap64)
