/* Preloaded into a process, lets the N-th call of a kind fail that concerns files of one directory.
 *
 * A kind is the name of a call, as strace shows it; variants of it (open, open64, openat) are one kind. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

static char directory[4096];
static char kind[32];
static long number;
static int reason;
static atomic_long count;

/* From now on the call `at` of this kind fails with `error`, the first one being 1; with 0 none does. */
void faults_arm(const char *where, const char *what, long at, int error) {
    snprintf(directory, sizeof directory, "%s", where);
    snprintf(kind, sizeof kind, "%s", what);
    number = at;
    reason = error;
    atomic_store(&count, 0);
}

/* How many calls there were. */
long faults_count(void) { return atomic_load(&count); }

static int fails(const char *what, const char *path) {
    if (strcmp(what, kind) != 0 || strncmp(path, directory, strlen(directory)) != 0) return 0;
    if (atomic_fetch_add(&count, 1) + 1 != number) return 0;
    errno = reason;
    return 1;
}

static int fails_for(const char *what, int file) {
    char name[64], path[4096];
    if (strcmp(what, kind) != 0) return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", file);
    ssize_t length = readlink(name, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return fails(what, path);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int file, const void *data, size_t size) {
    return fails_for("write", file) ? -1 : NEXT(write)(file, data, size);
}
ssize_t read(int file, void *data, size_t size) {
    return fails_for("read", file) ? -1 : NEXT(read)(file, data, size);
}
ssize_t pread(int file, void *data, size_t size, off_t at) {
    return fails_for("read", file) ? -1 : NEXT(pread)(file, data, size, at);
}
ssize_t pread64(int file, void *data, size_t size, off64_t at) {
    return fails_for("read", file) ? -1 : NEXT(pread64)(file, data, size, at);
}
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags) {
    return fails_for("copy_file_range", out) ? -1 : NEXT(copy_file_range)(in, from, out, to, size, flags);
}
int fsync(int file) { return fails_for("fsync", file) ? -1 : NEXT(fsync)(file); }
int rename(const char *old, const char *new) { return fails("rename", new) ? -1 : NEXT(rename)(old, new); }
int link(const char *old, const char *new) { return fails("link", new) ? -1 : NEXT(link)(old, new); }
void *mmap(void *at, size_t size, int protection, int flags, int file, off_t offset) {
    return file >= 0 && fails_for("mmap", file) ? MAP_FAILED
                                                : NEXT(mmap)(at, size, protection, flags, file, offset);
}
void *mmap64(void *at, size_t size, int protection, int flags, int file, off64_t offset) {
    return file >= 0 && fails_for("mmap", file) ? MAP_FAILED
                                                : NEXT(mmap64)(at, size, protection, flags, file, offset);
}

#define OPEN(name)                                            \
    int name(const char *path, int flags, ...) {              \
        va_list rest;                                         \
        va_start(rest, flags);                                \
        mode_t mode = va_arg(rest, mode_t);                   \
        va_end(rest);                                         \
        return fails("open", path) ? -1 : NEXT(name)(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
