/*
 * A slow file system, for one process: preloaded, it makes every call wait that creates or
 * opens for writing, writes, resizes or flushes a file below the directory SLOW_DIRECTORY,
 * SLOW_MICROSECONDS each. The call itself is then made as always.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define HANDLES 65536

static atomic_bool slow[HANDLES];
static const char *directory;
static size_t length;
static useconds_t delay;

__attribute__((constructor)) static void start(void)
{
    const char *time = getenv("SLOW_MICROSECONDS");
    directory = getenv("SLOW_DIRECTORY");
    length = directory ? strlen(directory) : 0;
    delay = time ? atoi(time) : 0;
}

static int is_below(const char *path)
{
    return length && path && !strncmp(path, directory, length) && path[length] == '/';
}

static void wait_for(int handle)
{
    if (handle >= 0 && handle < HANDLES && slow[handle])
        usleep(delay);
}

static int opened(const char *path, int flags, int handle)
{
    int below = is_below(path) && (flags & O_ACCMODE) != O_RDONLY;
    if (handle >= 0 && handle < HANDLES)
        slow[handle] = below;
    if (below)
        usleep(delay);
    return handle;
}

#define NEXT(name) \
    static __typeof__(name) *next; \
    if (!next) \
        next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define OPEN(name) \
    int name(const char *path, int flags, ...) \
    { \
        va_list rest; \
        NEXT(name); \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        return opened(path, flags, next(path, flags, mode)); \
    }

#define CALL(type, name, parameters, arguments) \
    type name parameters \
    { \
        NEXT(name); \
        wait_for(handle); \
        return next arguments; \
    }

OPEN(open)
OPEN(open64)
CALL(ssize_t, pwrite, (int handle, const void *data, size_t size, off_t at), (handle, data, size, at))
CALL(ssize_t, pwrite64, (int handle, const void *data, size_t size, off64_t at), (handle, data, size, at))
CALL(ssize_t, pwritev, (int handle, const struct iovec *data, int count, off_t at), (handle, data, count, at))
CALL(ssize_t, pwritev64, (int handle, const struct iovec *data, int count, off64_t at), (handle, data, count, at))
CALL(int, ftruncate, (int handle, off_t size), (handle, size))
CALL(int, ftruncate64, (int handle, off64_t size), (handle, size))
CALL(int, posix_fallocate64, (int handle, off64_t at, off64_t size), (handle, at, size))
CALL(int, fallocate64, (int handle, int mode, off64_t at, off64_t size), (handle, mode, at, size))
CALL(int, fdatasync, (int handle), (handle))
CALL(int, fsync, (int handle), (handle))
