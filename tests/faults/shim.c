/* Makes one change of the file system fail, in a process that was started with this library in LD_PRELOAD.
 *
 * Every call of libc that changes a file or folder under a root is a point, numbered from 1 in the order of the calls: those of
 * Rust, of Python and of the libraries alike. fault_arm() says what happens at which point; fault_trace() lists them instead.
 * The point's number is counted by process, and a program that is started by the process is not watched. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum mode { NONE, FAIL, SHORT, KILL, TORN, FULL };
enum act { PASS, REFUSE, HALF, HALF_THEN_KILL };

static char root[PATH_MAX];
static long wanted, error_number;
static enum mode mode;
static atomic_long passed;
static int trace = -1;
static pid_t owner;
/* With FULL, bytes that removals gave back since the point. */
static atomic_long spare;
static atomic_int full;

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

void fault_arm(const char *folder, long number, int how, int error) {
    snprintf(root, sizeof root, "%s", folder);
    wanted = number;
    mode = how;
    error_number = error;
    owner = getpid();
    passed = full = spare = 0;
}
void fault_trace(const char *folder, int fd) {
    fault_arm(folder, 0, NONE, 0);
    trace = fd;
}
void fault_disarm(void) { root[0] = 0; }
long fault_passed(void) { return passed; }

static void die(void) { kill(getpid(), SIGKILL); }

/* What happens at a change of `path`. `grows`: bytes that it writes. */
static enum act at(const char *what, const char *path, size_t grows) {
    size_t length = strlen(root);
    if (!length || owner != getpid() || strncmp(path, root, length) || (path[length] && path[length] != '/')) return PASS;
    long number = ++passed;
    if (trace >= 0) {
        char line[PATH_MAX + 64];
        int size = snprintf(line, sizeof line, "%ld %s %s\n", number, what, path + length);
        if (REAL(write)(trace, line, size) != size) abort();
    }
    if (full) {
        int takes_space = grows > 0 || !strcmp(what, "open") || !strcmp(what, "mkdir");
        if (!takes_space) return PASS;
        if (spare >= (long)grows && spare > 0) { spare -= grows; return PASS; }
        return REFUSE;
    }
    if (number != wanted) return PASS;
    switch (mode) {
        case FAIL: return REFUSE;
        case FULL: full = 1; return grows > 0 || !strcmp(what, "open") || !strcmp(what, "mkdir") ? REFUSE : PASS;
        case SHORT: return HALF;
        case TORN: return HALF_THEN_KILL;
        case KILL: die(); return PASS;
        default: return PASS;
    }
}

static void whole(int folder, const char *path, char out[PATH_MAX]) {
    char base[PATH_MAX] = "";
    if (path[0] == '/') { snprintf(out, PATH_MAX, "%s", path); return; }
    if (folder == AT_FDCWD) { if (!getcwd(base, sizeof base)) base[0] = 0; }
    else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t size = readlink(link, base, sizeof base - 1);
        base[size > 0 ? size : 0] = 0;
    }
    if ((size_t)snprintf(out, PATH_MAX, "%s%s%s", base, path[0] ? "/" : "", path) >= PATH_MAX) out[0] = 0;
}
static enum act at_path(const char *what, int folder, const char *path) {
    char out[PATH_MAX];
    if (!root[0]) return PASS;
    int kept = errno;
    whole(folder, path, out);
    errno = kept;
    return at(what, out, 0);
}
static enum act at_fd(const char *what, int fd, size_t grows) {
    char out[PATH_MAX];
    if (!root[0]) return PASS;
    int kept = errno;
    whole(fd, "", out);
    char *gone = strstr(out, " (deleted)");
    if (gone) *gone = 0;
    errno = kept;
    return at(what, out, grows);
}
static void give_back(int folder, const char *path) {
    struct stat found;
    if (full && !fstatat(folder, path, &found, AT_SYMLINK_NOFOLLOW)) spare += found.st_blocks * 512;
}

/* The call itself, or what is made of it. Only HALF makes it differ, which calls with a size do on their own. */
#define POINT(type, how, call)                                                                                                        \
    do {                                                                                                                               \
        enum act act_ = (how);                                                                                                         \
        if (act_ == REFUSE) { errno = error_number; return (type)-1; }                                                                 \
        type result_ = call;                                                                                                           \
        if (act_ == HALF_THEN_KILL) die();                                                                                             \
        return result_;                                                                                                                \
    } while (0)

static int changes(int flags) { return (flags & (O_CREAT | O_TRUNC)) != 0; }
#define OPEN(name)                                                                                                                     \
    int name(const char *path, int flags, ...) {                                                                                       \
        va_list rest;                                                                                                                  \
        va_start(rest, flags);                                                                                                         \
        mode_t rights = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                                      \
        va_end(rest);                                                                                                                  \
        POINT(int, changes(flags) ? at_path("open", AT_FDCWD, path) : PASS, REAL(name)(path, flags, rights));                          \
    }
OPEN(open)
OPEN(open64)
#define OPENAT(name)                                                                                                                   \
    int name(int folder, const char *path, int flags, ...) {                                                                           \
        va_list rest;                                                                                                                  \
        va_start(rest, flags);                                                                                                         \
        mode_t rights = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                                      \
        va_end(rest);                                                                                                                  \
        POINT(int, changes(flags) ? at_path("open", folder, path) : PASS, REAL(name)(folder, path, flags, rights));                    \
    }
OPENAT(openat)
OPENAT(openat64)
#define FOPEN(name)                                                                                                                    \
    FILE *name(const char *path, const char *how) {                                                                                    \
        enum act act_ = strpbrk(how, "wa") ? at_path("open", AT_FDCWD, path) : PASS;                                                   \
        if (act_ == REFUSE) { errno = error_number; return NULL; }                                                                     \
        FILE *made = REAL(name)(path, how);                                                                                            \
        return made;                                                                                                                   \
    }
FOPEN(fopen)
FOPEN(fopen64)

#define SIZED(name, declared, fd, size, part, call)                                                                                    \
    ssize_t name declared {                                                                                                            \
        enum act act_ = at_fd("write", fd, size);                                                                                      \
        if ((act_ == HALF || act_ == HALF_THEN_KILL) && size > 1) part;                                                                \
        POINT(ssize_t, act_, call);                                                                                                    \
    }
SIZED(write, (int fd, const void *from, size_t size), fd, size, size /= 2, REAL(write)(fd, from, size))
SIZED(pwrite, (int fd, const void *from, size_t size, off_t place), fd, size, size /= 2, REAL(pwrite)(fd, from, size, place))
SIZED(pwrite64, (int fd, const void *from, size_t size, off64_t place), fd, size, size /= 2, REAL(pwrite64)(fd, from, size, place))
SIZED(copy_file_range, (int in, off64_t *in_place, int out, off64_t *out_place, size_t size, unsigned flags), out, size, size /= 2,
      REAL(copy_file_range)(in, in_place, out, out_place, size, flags))
SIZED(sendfile, (int out, int in, off_t *place, size_t size), out, size, size /= 2, REAL(sendfile)(out, in, place, size))
SIZED(sendfile64, (int out, int in, off64_t *place, size_t size), out, size, size /= 2, REAL(sendfile64)(out, in, place, size))
static size_t sum(const struct iovec *parts, int count) {
    size_t total = 0;
    for (int i = 0; i < count; i++) total += parts[i].iov_len;
    return total;
}
SIZED(writev, (int fd, const struct iovec *parts, int count), fd, sum(parts, count), count = count > 1 ? count / 2 : 1,
      REAL(writev)(fd, parts, count))

int fsync(int fd) { POINT(int, at_fd("sync", fd, 0), REAL(fsync)(fd)); }
int fdatasync(int fd) { POINT(int, at_fd("sync", fd, 0), REAL(fdatasync)(fd)); }
int ftruncate(int fd, off_t size) { POINT(int, at_fd("truncate", fd, 0), REAL(ftruncate)(fd, size)); }
int ftruncate64(int fd, off64_t size) { POINT(int, at_fd("truncate", fd, 0), REAL(ftruncate64)(fd, size)); }
int mkdir(const char *path, mode_t rights) { POINT(int, at_path("mkdir", AT_FDCWD, path), REAL(mkdir)(path, rights)); }
int mkdirat(int folder, const char *path, mode_t rights) { POINT(int, at_path("mkdir", folder, path), REAL(mkdirat)(folder, path, rights)); }
int rename(const char *from, const char *to) {
    give_back(AT_FDCWD, to);
    POINT(int, at_path("rename", AT_FDCWD, to), REAL(rename)(from, to));
}
int renameat(int a, const char *from, int b, const char *to) { POINT(int, at_path("rename", b, to), REAL(renameat)(a, from, b, to)); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    POINT(int, at_path("rename", b, to), REAL(renameat2)(a, from, b, to, flags));
}
int link(const char *from, const char *to) { POINT(int, at_path("link", AT_FDCWD, to), REAL(link)(from, to)); }
int linkat(int a, const char *from, int b, const char *to, int flags) { POINT(int, at_path("link", b, to), REAL(linkat)(a, from, b, to, flags)); }
int symlink(const char *from, const char *to) { POINT(int, at_path("link", AT_FDCWD, to), REAL(symlink)(from, to)); }
int unlink(const char *path) {
    give_back(AT_FDCWD, path);
    POINT(int, at_path("remove", AT_FDCWD, path), REAL(unlink)(path));
}
int unlinkat(int folder, const char *path, int flags) {
    give_back(folder, path);
    POINT(int, at_path("remove", folder, path), REAL(unlinkat)(folder, path, flags));
}
int rmdir(const char *path) { POINT(int, at_path("remove", AT_FDCWD, path), REAL(rmdir)(path)); }
int chmod(const char *path, mode_t rights) { POINT(int, at_path("chmod", AT_FDCWD, path), REAL(chmod)(path, rights)); }
int fchmod(int fd, mode_t rights) { POINT(int, at_fd("chmod", fd, 0), REAL(fchmod)(fd, rights)); }

/* Files that a mapping changes are written by the kernel: only making the mapping can fail. */
#define MMAP(name, offset_type)                                                                                                        \
    void *name(void *place, size_t size, int rights, int flags, int fd, offset_type from) {                                            \
        int writes = fd >= 0 && (flags & MAP_SHARED) && (rights & PROT_WRITE);                                                         \
        POINT(void *, writes ? at_fd("map", fd, 0) : PASS, REAL(name)(place, size, rights, flags, fd, from));                          \
    }
MMAP(mmap, off_t)
MMAP(mmap64, off64_t)
