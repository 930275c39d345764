/* A file for each library, from which the dynamic loader can load it.

   As a rule they are anonymous files in memory (memfd_create), which end with the process: nothing
   is written anywhere, so even kill -9 leaves nothing behind, and a read-only or noexec system is
   no obstacle. Where memory files or /proc are missing, or code in them is forbidden, they are
   files in a temporary directory; each name is removed as soon as the file is loaded or
   the launcher fails.

   Small files are filled at once. Large ones (OpenBLAS, NumPy's core) are filled by two threads
   while Python starts; a byte in the pipe `ready` says that one of the threads is done. */

enum { MAX_FILES = 256, LARGE = 1 << 20, WORKERS = 2, LONGEST_PATH = 1024 };

typedef struct {
    const Entry *entry;
    int fd, loaded;
    char path[LONGEST_PATH]; /* /proc/self/fd/N for a file in memory */
} File;

static File files[MAX_FILES]; /* extension modules and what they need */
static File python, base;     /* Python's own library, and base_library.zip */
static int n_files, next_file;
static int on_disk; /* set once, by the first file that cannot be in memory */
static int ready[2];

static void remove_files(void) {
    if (!on_disk) return;
    for (int i = 0; i < n_files; i++) unlink(files[i].path);
    unlink(python.path);
    unlink(base.path);
}

/* ------------------------------------------------------------------ making them */

/* Whether code can be loaded from a file; hardened systems and noexec directories forbid it. */
static int can_hold_code(int fd) {
    void *code = mmap(NULL, 1, PROT_EXEC, MAP_PRIVATE, fd, 0);
    if (code == MAP_FAILED && errno == ENOMEM) no_memory();
    return code != MAP_FAILED && !munmap(code, 1);
}

/* It takes some forty files: where so many may not be open, no other place for them would help. */
static void check_descriptors(int fd) {
    if (fd < 0 && (errno == EMFILE || errno == ENFILE))
        fail("too many open files: allow more (ulimit -n 256)");
}

static int create_in_memory(File *f) {
    enum { EXECUTABLE = 0x10 }; /* MFD_EXEC: unknown before Linux 6.3, wanted where hardened */
    struct stat info;
    f->fd = syscall(SYS_memfd_create, f->entry->name, EXECUTABLE);
    if (f->fd < 0 && errno == EINVAL) f->fd = syscall(SYS_memfd_create, f->entry->name, 0);
    check_descriptors(f->fd);
    if (f->fd < 0) return 0;
    snprintf(f->path, sizeof f->path, "/proc/self/fd/%d", f->fd);
    if (!stat(f->path, &info) && can_hold_code(f->fd)) return 1;
    close(f->fd);
    return 0;
}

/* Not where a name would be taken apart: by LD_PRELOAD (space, colon), or by boot.py's table. */
static int create_in(File *f, const char *directory) {
    if (!directory || strpbrk(directory, " :\t\n")) return 0;
    int n = snprintf(f->path, sizeof f->path, "%s/run-XXXXXX", directory);
    if (n >= (int)sizeof f->path) return 0;
    f->fd = mkstemp(f->path);
    check_descriptors(f->fd);
    if (f->fd < 0) return 0;
    if (can_hold_code(f->fd)) return 1;
    close(f->fd);
    unlink(f->path);
    return 0;
}

static void create(File *f, const Entry *e) {
    const char *places[] = {secure_getenv("TMPDIR"), "/dev/shm", "/tmp", "/var/tmp"};
    f->entry = e;
    if (!on_disk && create_in_memory(f)) return;
    on_disk = 1;
    for (int i = 0; i < 4; i++)
        if (create_in(f, places[i])) return;
    f->path[0] = 0;
    fail(
        "programs may not be unpacked to /dev/shm or /tmp: set TMPDIR to a directory that can be "
        "written and is not mounted noexec");
}

/* ------------------------------------------------------------------ filling them */

static void cannot_unpack(const File *f, int error) {
    const char *hint = error == EFBIG ? ": allow larger files (ulimit -f)" : "";
    fail("cannot unpack %s: %s%s", f->entry->name, error ? strerror(error) : "cut short", hint);
}

static void fill_stored(const File *f) {
    off_t offset = pkg + ntohl(f->entry->offset);
    for (size_t left = ntohl(f->entry->packed); left;) {
        ssize_t n = sendfile(f->fd, self, &offset, left);
        if (n <= 0) cannot_unpack(f, n ? errno : 0);
        left -= n;
    }
}

static void fill_compressed(const File *f) {
    size_t packed = ntohl(f->entry->packed), size = ntohl(f->entry->size);
    uint8_t *in = memory(packed), *out = MAP_FAILED;
    read_at(in, packed, pkg + ntohl(f->entry->offset));
    if (!ftruncate(f->fd, size))
        out = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
    if (out == MAP_FAILED) cannot_unpack(f, errno);
    inflate(in, packed, out, size);
    munmap(out, size);
    free(in);
}

static void fill(const File *f) { f->entry->compressed ? fill_compressed(f) : fill_stored(f); }

static int is_large(const File *f) { return ntohl(f->entry->size) > LARGE; }

/* A worker: takes the next large file until none is left. */
static void *work(void *unused) {
    int i;
    while ((i = __atomic_fetch_add(&next_file, 1, __ATOMIC_RELAXED)) < n_files)
        if (is_large(&files[i])) fill(&files[i]);
    if (write(ready[1], "", 1) != 1) fail("cannot write to a pipe: %s", strerror(errno));
    return unused;
}

static void fill_files(void) {
    pthread_t thread;
    if (pipe(ready)) {
        check_descriptors(-1);
        fail("cannot open a pipe: %s", strerror(errno));
    }
    for (int i = 0; i < WORKERS; i++) {
        if (!pthread_create(&thread, NULL, work, NULL)) continue;
        work(NULL);                             /* no thread: do it here */
        setenv("OPENBLAS_NUM_THREADS", "1", 1); /* which ends the process when it gets none */
    }
    for (int i = 0; i < n_files; i++)
        if (!is_large(&files[i])) fill(&files[i]);
}

/* ------------------------------------------------------------------ loading them */

static void cannot_load(const File *f) {
    const char *error = dlerror(), *hint = "";
    struct rlimit space;
    if (strstr(error, "map segment") && !getrlimit(RLIMIT_AS, &space) &&
        space.rlim_cur != RLIM_INFINITY)
        no_memory();
    if (strstr(error, "GLIBC_"))
        hint = ": this system is older than the program; build it with --portable";
    fail("cannot load %s: %s%s", f->entry->name, error, hint);
}

/* One round over the libraries that are not loaded -> how many are left. A library loads once
   those that it needs are there, which the loader then finds by their names (DT_SONAME). */
static int load_round(void) {
    int left = 0;
    for (int i = 0; i < n_files; i++) {
        if (files[i].loaded) continue;
        files[i].loaded = dlopen(files[i].path, RTLD_NOW) != NULL;
        left += !files[i].loaded;
    }
    return left;
}

/* Files on disk: all are loaded at once, so that their names can go before the story begins. */
static void load_files(void) {
    char byte;
    for (int done = 0; done < WORKERS;) done += read(ready[0], &byte, 1) == 1;
    for (int left = n_files, before = left + 1; left && left < before;) {
        before = left;
        left = load_round();
    }
    for (int i = 0; i < n_files; i++) {
        if (!files[i].loaded && !dlopen(files[i].path, RTLD_NOW)) cannot_load(&files[i]);
        unlink(files[i].path);
    }
    unlink(python.path);
}
