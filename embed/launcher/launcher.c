/* The head of a Linux executable: starts the Python that is packed behind it, from memory.

   [this program][zip: model.bin, ..., app.pkg]      app.pkg is PyInstaller's archive (CArchive)

   PyInstaller's own bootloader unpacks 50 MB into a temporary directory, starts a second process
   and deletes the directory at the end. This one puts the shared libraries into anonymous memory
   files, a second thread meanwhile, and loads them from there: nothing is written anywhere, so
   nothing is left behind, even by kill -9, and a read-only or noexec system is no obstacle.
   Only where memory files or /proc are missing it uses files in TMPDIR, deleted once loaded.

   The interpreter is a shared library (libpython3.x.so), or a program with Python linked into it.
   A program must be started by the kernel, so then this file, built as a shared library and
   preloaded into it, takes the place of its main(). boot.py goes on from Py_BytesMain.
   The universal file keeps a launcher for each system and sets RUN_ARCHIVE, the file to read
   instead of this one, and RUN_PKG, the name that app.pkg has in it.

   cc -O2 -DBOOT='"boot.py"' launcher.c -o launcher -ldl -lpthread
   cc -O2 -DBOOT='"boot.py"' -DPRELOADED=1 -shared -fPIC launcher.c -o launcher.so -ldl -lpthread */

#define _GNU_SOURCE
#ifndef PRELOADED
#define PRELOADED 0
#endif

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

__asm__(".section .rodata\n.global boot_source\nboot_source:\n.incbin \"" BOOT "\"\n.byte 0\n.previous\n");
extern const char boot_source[];

typedef struct { /* a row of app.pkg's table of contents; numbers are big-endian */
    uint32_t row, offset, packed, size;
    uint8_t compressed;
    char type; /* b: shared library, x: data, z: Python modules, m: one module, s: script */
    char name[];
} __attribute__((packed)) Entry;

typedef struct {
    const Entry *entry;
    int fd, loaded;
    char path[96];
} File;

static int self;       /* this executable, open for reading */
static off_t pkg;      /* offset of app.pkg in it */
static char *contents; /* app.pkg's table of contents */
static uint32_t contents_size;
enum { MAX_FILES = 256, LARGE = 1 << 20 };
static File files[MAX_FILES], python, base;
static int n_files, next_file, on_disk, n_spare, spare[3];
static int ready[2]; /* a pipe: one byte arrives for every worker that is done */
extern char **environ;

static void fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    for (int i = 0; on_disk && i < n_files; i++)
        unlink(files[i].path);
    if (on_disk) {
        unlink(python.path);
        unlink(base.path);
    }
    fprintf(stderr, "run: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    _exit(1);
}

static void read_at(void *data, size_t size, off_t offset)
{
    for (ssize_t n; size; size -= n, offset += n, data = (char *)data + n)
        if ((n = pread(self, data, size, offset)) <= 0)
            fail("this file is damaged or cut short");
}

/* ------------------------------------------------------------------ deflate, for --small */

typedef struct {
    const uint8_t *in, *end;
    uint64_t bits;
    int n_bits;
    uint8_t *start, *out, *limit;
} Stream;

enum { FAST = 10 }; /* codes up to this long are decoded by one look-up */

typedef struct {
    uint16_t fast[1 << FAST]; /* symbol << 4 | length, 0 for a longer code */
    uint16_t count[16], symbols[288];
} Huffman;

static void damaged(void)
{
    fail("this file is damaged");
}

static void refill(Stream *s)
{
    while (s->n_bits <= 56 && s->in < s->end) {
        s->bits |= (uint64_t)*s->in++ << s->n_bits;
        s->n_bits += 8;
    }
}

static unsigned take(Stream *s, int n)
{
    if (s->n_bits < n)
        refill(s);
    if (s->n_bits < n)
        damaged();
    unsigned value = s->bits & ((1u << n) - 1);
    s->bits >>= n;
    s->n_bits -= n;
    return value;
}

static void build(Huffman *h, const uint8_t *lengths, int n)
{
    uint16_t offset[16] = {0}, code[16] = {0};
    memset(h, 0, sizeof *h);
    for (int i = 0; i < n; i++)
        h->count[lengths[i]]++;
    h->count[0] = 0;
    for (int i = 1; i < 15; i++) {
        offset[i + 1] = offset[i] + h->count[i];
        code[i + 1] = (code[i] + h->count[i]) << 1;
    }
    for (int i = 0; i < n; i++) {
        int length = lengths[i];
        if (!length)
            continue;
        h->symbols[offset[length]++] = i;
        unsigned reversed = 0, c = code[length]++;
        for (int b = 0; b < length; b++)
            reversed |= (c >> b & 1) << (length - 1 - b);
        for (; length <= FAST && reversed < 1 << FAST; reversed += 1 << length)
            h->fast[reversed] = i << 4 | length;
    }
}

static int decode(Stream *s, const Huffman *h)
{
    if (s->n_bits < 15)
        refill(s);
    unsigned found = h->fast[s->bits & ((1 << FAST) - 1)];
    if (found) {
        take(s, found & 15);
        return found >> 4;
    }
    int code = 0, first = 0, index = 0; /* canonical codes: count up, length by length */
    for (int length = 1; length < 16; length++) {
        code |= take(s, 1);
        if (code - h->count[length] < first)
            return h->symbols[index + code - first];
        index += h->count[length];
        first = (first + h->count[length]) << 1;
        code <<= 1;
    }
    damaged();
    return -1;
}

static void read_tables(Stream *s, Huffman *literal, Huffman *distance)
{
    static const uint8_t order[] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    uint8_t lengths[320] = {0};
    int n_literal = take(s, 5) + 257, n_distance = take(s, 5) + 1, n = take(s, 4) + 4;
    for (int i = 0; i < n; i++)
        lengths[order[i]] = take(s, 3);
    build(literal, lengths, 19);
    for (int i = 0; i < n_literal + n_distance;) {
        int symbol = decode(s, literal), repeat = 1, value = symbol;
        if (symbol == 16) {
            value = i ? lengths[i - 1] : 0;
            repeat = 3 + take(s, 2);
        } else if (symbol > 16) {
            value = 0;
            repeat = symbol == 17 ? 3 + take(s, 3) : 11 + take(s, 7);
        }
        while (repeat-- && i < 320)
            lengths[i++] = value;
    }
    uint8_t *distances = lengths + n_literal;
    build(distance, distances, n_distance);
    build(literal, lengths, n_literal);
}

static void inflate_block(Stream *s, const Huffman *literal, const Huffman *distance)
{
    static const uint16_t base[] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                    31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    static const uint8_t extra[] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                    2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
    for (int symbol; (symbol = decode(s, literal)) != 256;) {
        if (symbol < 256) {
            if (s->out == s->limit)
                damaged();
            *s->out++ = symbol;
            continue;
        }
        if (symbol > 285)
            damaged();
        int length = base[symbol - 257] + take(s, extra[symbol - 257]);
        int d = decode(s, distance), back = d + 1;
        if (d > 3) /* 4, 5: 1 extra bit, 6, 7: 2 bits, ... */
            back = ((2 + (d & 1)) << (d / 2 - 1)) + 1 + take(s, d / 2 - 1);
        if (back > s->out - s->start || length > s->limit - s->out)
            damaged();
        for (; length--; s->out++)
            *s->out = s->out[-back];
    }
}

static void inflate(const uint8_t *in, size_t packed, uint8_t *out, size_t size)
{
    Stream s = {in + 2, in + packed, 0, 0, out, out, out + size}; /* 2: zlib's header */
    Huffman literal, distance;
    for (int last = 0; !last;) {
        last = take(&s, 1);
        int type = take(&s, 2);
        if (type == 0) {
            take(&s, s.n_bits & 7);
            unsigned n = take(&s, 16);
            if (n > s.limit - s.out)
                damaged();
            for (take(&s, 16); n--;)
                *s.out++ = take(&s, 8);
            continue;
        }
        if (type == 2)
            read_tables(&s, &literal, &distance);
        else {
            uint8_t lengths[288];
            for (int i = 0; i < 288; i++)
                lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
            build(&literal, lengths, 288);
            memset(lengths, 5, 30);
            build(&distance, lengths, 30);
        }
        inflate_block(&s, &literal, &distance);
    }
    if (s.out != s.limit)
        damaged();
}

/* ------------------------------------------------------------------ finding app.pkg */

static uint64_t number(const uint8_t *p, int n) /* little-endian, as zip has them */
{
    return n ? number(p + 1, n - 1) << 8 | *p : 0;
}

/* The zip's central directory -> offset of a member's bytes, and their number. */
static off_t find_member(const char *wanted, off_t *size)
{
    static uint8_t tail[65557], h[64];
    struct stat info;
    fstat(self, &info);
    off_t n = info.st_size < (off_t)sizeof tail ? info.st_size : (off_t)sizeof tail;
    read_at(tail, n, info.st_size - n);
    off_t at = n - 22;
    while (at >= 0 && memcmp(tail + at, "PK\5\6", 4))
        at--;
    if (at < 0)
        fail("there is no %s behind this program: it was cut short", wanted);
    uint64_t count = number(tail + at + 10, 2), start = number(tail + at + 16, 4);
    if (at >= 20 && !memcmp(tail + at - 20, "PK\6\7", 4)) { /* zip64 */
        read_at(h, 56, number(tail + at - 12, 8));
        count = number(h + 32, 8), start = number(h + 48, 8);
    }
    while (count--) {
        read_at(h, 46, start);
        int name = number(h + 28, 2), extra = number(h + 30, 2), comment = number(h + 32, 2);
        uint64_t offset = number(h + 42, 4);
        uint8_t text[4096] = {0};
        read_at(text, name + extra < 4096 ? name + extra : 0, start + 46);
        if (name == (int)strlen(wanted) && !memcmp(text, wanted, name)) {
            if (number(h + 10, 2))
                fail("%s is compressed: change the model with zip -0, which stores", wanted);
            *size = number(h + 20, 4); /* always below 4 GB; only its offset can be larger */
            if (offset == 0xffffffff)
                offset = number(text + name + 4, 8);
            read_at(h, 30, offset);
            return offset + 30 + number(h + 26, 2) + number(h + 28, 2);
        }
        start += 46 + name + extra + comment;
    }
    fail("there is no %s in this file", wanted);
    return 0;
}

static void open_pkg(void)
{
    off_t size;
    uint32_t cookie[22]; /* magic (8 bytes), length, offset and length of the contents, ... */
    const char *name = getenv("RUN_PKG");
    pkg = find_member(name && *name ? name : "app.pkg", &size);
    read_at(cookie, sizeof cookie, pkg + size - sizeof cookie);
    if (memcmp(cookie, "MEI\014\013\012\013\016", 8))
        fail("app.pkg is not what this program was built with");
    contents_size = ntohl(cookie[4]);
    contents = malloc(contents_size);
    read_at(contents, contents_size, pkg + ntohl(cookie[3]));
}

static const Entry *next_entry(const Entry *e)
{
    const char *p = e ? (const char *)e + ntohl(e->row) : contents;
    return p < contents + contents_size ? (const Entry *)p : NULL;
}

/* ------------------------------------------------------------------ files in memory */

/* Whether code can be loaded from a file; hardened systems and noexec directories forbid it. */
static int can_hold_code(int fd)
{
    void *code = mmap(NULL, 1, PROT_EXEC, MAP_PRIVATE, fd, 0);
    return code != MAP_FAILED && !munmap(code, 1);
}

/* A file of its own for an entry: in memory, else with a name in a temporary directory. */
static void create(File *f, const Entry *e)
{
    const char *places[] = {getenv("TMPDIR"), "/dev/shm", "/tmp", "/var/tmp"};
    f->entry = e;
    if (!on_disk) {
        /* 0x10: MFD_EXEC, which kernels before 6.3 do not know and hardened ones want */
        f->fd = syscall(SYS_memfd_create, e->name, 0x10);
        if (f->fd < 0 && errno == EINVAL)
            f->fd = syscall(SYS_memfd_create, e->name, 0);
        snprintf(f->path, sizeof f->path, "/proc/self/fd/%d", f->fd);
        if (f->fd >= 0 && !access(f->path, F_OK) && can_hold_code(f->fd))
            return;
        on_disk = 1;
    }
    for (int i = 0; i < 4; i++) {
        if (!places[i] || strpbrk(places[i], " :")) /* the loader takes these for separators */
            continue;
        snprintf(f->path, sizeof f->path, "%.70s/run-XXXXXX", places[i]);
        if ((f->fd = mkstemp(f->path)) < 0)
            continue;
        if (can_hold_code(f->fd))
            return;
        unlink(f->path);
    }
    fail("programs may not be unpacked to /dev/shm or /tmp: set TMPDIR to a directory that can be "
         "written and is not mounted noexec");
}

static void fill(const File *f)
{
    off_t offset = pkg + ntohl(f->entry->offset);
    size_t packed = ntohl(f->entry->packed), size = ntohl(f->entry->size);
    if (!f->entry->compressed) {
        for (ssize_t n; packed; packed -= n)
            if ((n = sendfile(f->fd, self, &offset, packed)) <= 0)
                fail("cannot unpack %s: %s", f->entry->name, n ? strerror(errno) : "cut short");
        return;
    }
    uint8_t *in = malloc(packed);
    read_at(in, packed, offset);
    uint8_t *out = MAP_FAILED;
    if (!ftruncate(f->fd, size))
        out = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
    if (out == MAP_FAILED)
        fail("cannot unpack %s: %s", f->entry->name, strerror(errno));
    inflate(in, packed, out, size);
    munmap(out, size);
    free(in);
}

static void cannot_load(const File *f)
{
    const char *error = dlerror(), *hint = "";
    if (strstr(error, "GLIBC_"))
        hint = ": this system is older than the program; build it with --portable";
    fail("cannot load %s: %s%s", f->entry->name, error, hint);
}

static int is_large(const Entry *e)
{
    return ntohl(e->size) > LARGE;
}

/* Fills the large files, in turns with the other workers, and tells Python that they are there. */
static void *work(void *unused)
{
    for (int i; (i = __atomic_fetch_add(&next_file, 1, __ATOMIC_RELAXED)) < n_files;)
        if (is_large(files[i].entry))
            fill(&files[i]);
    if (write(ready[1], "", 1) != 1)
        fail("cannot write to a pipe: %s", strerror(errno));
    return unused;
}

/* ------------------------------------------------------------------ starting Python */

/* What boot.py has to know; it says what the rows mean. */
static char *describe(int workers)
{
    char *table = malloc(4096 + 4 * contents_size + n_files * sizeof(File)), *t = table;
    t += sprintf(t, "%d %lld %d %d\n", self, (long long)pkg, ready[0], workers);
    for (const Entry *e = next_entry(NULL); e; e = next_entry(e))
        if (strchr("zms", e->type))
            t += sprintf(t, "%c\t%u\t%s\n", e->type, ntohl(e->offset), e->name);
    for (int i = 0; i < n_files; i++)
        t += sprintf(t, "%c\t%s\t%s\n", is_large(files[i].entry) ? 'B' : 'b', files[i].path,
                     files[i].entry->name);
    return table;
}

/* The user's settings for other Pythons are not for this one. */
static void set_environment(const char *base)
{
    for (char **e = environ; *e;) {
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)strcspn(*e, "="), *e);
        if (strncmp(name, "PYTHON", 6) || unsetenv(name))
            e++;
    }
    setenv("PYTHONHOME", "/nowhere", 1); /* not this machine's Python */
    setenv("PYTHONPATH", base, 1);
}

/* Opens this executable and finds what is in it; RUN_SELF is its path. */
static void open_self(void)
{
    char path[PATH_MAX + 1] = "", link[32];
    const char *archive = getenv("RUN_ARCHIVE"), *name = getenv("RUN_PKG");
    const char *file = (const char *)getauxval(AT_EXECFN); /* what was started */
    if (archive && name && *name)
        file = archive;
    else if (!access("/proc/self/exe", R_OK))
        file = "/proc/self/exe";
    if ((self = open(file, O_RDONLY)) < 0)
        fail("cannot read %s: %s", file, strerror(errno));
    snprintf(link, sizeof link, "/proc/self/fd/%d", self);
    if (readlink(link, path, PATH_MAX) < 0 && !realpath(file, path))
        fail("cannot tell where %s lies: %s", file, strerror(errno));
    setenv("RUN_SELF", path, 1);
    open_pkg();
}

/* Python linked into a program: the kernel starts it, with this code preloaded into it. */
static void start_program(const Entry *program, const Entry *preload, char **argv)
{
    static File p, l;
    char *text;
    const char *others = getenv("LD_PRELOAD");
    create(&p, program);
    create(&l, preload);
    fill(&p);
    fill(&l);
    if (asprintf(&text, "%d\n%s\n%s", self, on_disk ? p.path : "", on_disk ? l.path : "") < 0 ||
        setenv("RUN_LAUNCHER", text, 1) ||
        asprintf(&text, "%s:%s", l.path, others ? others : "") < 0 || setenv("LD_PRELOAD", text, 1))
        fail("there is no memory left");
    if (on_disk) {
        fchmod(p.fd, 0700);
        close(p.fd); /* a file open for writing cannot be started */
    }
    execv(p.path, argv);
    int error = errno;
    if (on_disk) {
        unlink(p.path);
        unlink(l.path);
    }
    fail("cannot start %s: %s", p.path, strerror(error));
}

/* The other side of start_program: this code runs in Python's program. */
static void open_inherited(void)
{
    char program[128] = "", preload[128] = "";
    sscanf(getenv("RUN_LAUNCHER"), "%d\n%127[^\n]\n%127[^\n]", &self, program, preload);
    unlink(program);
    unlink(preload);
    unsetenv("RUN_LAUNCHER");
    char *others = strchr(getenv("LD_PRELOAD"), ':') + 1;
    if (*others)
        setenv("LD_PRELOAD", others, 1);
    else
        unsetenv("LD_PRELOAD");
    open_pkg();
}

/* Fills the small files here and starts workers for the large ones -> number of workers. */
static int fill_files(void)
{
    enum { WORKERS = 2 };
    pthread_t thread;
    if (pipe(ready))
        fail("cannot open a pipe: %s", strerror(errno));
    for (int i = 0; i < WORKERS; i++)
        if (pthread_create(&thread, NULL, work, NULL))
            work(NULL);
    for (int i = 0; i < n_files; i++)
        if (!is_large(files[i].entry))
            fill(&files[i]);
    return WORKERS;
}

/* Files on disk: everything is loaded at once and its name deleted. */
static int load_files(int workers)
{
    for (char byte; workers;)
        workers -= read(ready[0], &byte, 1) == 1;
    for (int left = n_files, before = left + 1; left && left < before;) {
        before = left; /* each library after those that it needs: round by round */
        for (int i = 0; i < n_files; i++)
            if (!files[i].loaded && dlopen(files[i].path, RTLD_NOW))
                files[i].loaded = left--;
    }
    for (int i = 0; i < n_files; i++)
        if (!files[i].loaded && !dlopen(files[i].path, RTLD_NOW))
            cannot_load(&files[i]);
        else
            unlink(files[i].path);
    return workers;
}

/* Takes the places of a closed stdin, stdout or stderr until all files are open. */
static void reserve(void)
{
    int fd;
    while ((fd = open("/", O_RDONLY | O_CLOEXEC)) >= 0 && fd < 3)
        spare[n_spare++] = fd;
    close(fd);
}

/* Opens this program and makes a file for each library in it -> what Python's symbols are in. */
static void *load_python(char **argv, int *workers)
{
    const Entry *program = NULL, *preload = NULL;
    PRELOADED ? open_inherited() : open_self();
    for (const Entry *e = next_entry(NULL); e; e = next_entry(e)) {
        if (!strcmp(e->name, "python"))
            program = e;
        else if (!strcmp(e->name, "launcher.so"))
            preload = e;
    }
    if (program && preload && !PRELOADED)
        start_program(program, preload, argv);
    for (const Entry *e = next_entry(NULL); e; e = next_entry(e)) {
        if (!strncmp(e->name, "libpython3.", 11) && strcmp(e->name, "libpython3.so"))
            create(&python, e);
        else if (!strcmp(e->name, "base_library.zip"))
            create(&base, e);
        else if (e->type == 'b' && e != program && e != preload && n_files < MAX_FILES)
            create(&files[n_files++], e);
    }
    if (!base.entry || !(python.entry || program))
        fail("there is no Python in app.pkg");
    *workers = fill_files();
    fill(&base);
    if (!python.entry)
        return RTLD_DEFAULT;
    fill(&python);
    void *library = dlopen(python.path, RTLD_NOW | RTLD_GLOBAL);
    if (!library)
        cannot_load(&python);
    return library;
}

static int launch(int argc, char **argv, char **unused)
{
    int workers;
    sigset_t interrupt; /* Ctrl-C waits until boot.py can take it: a traceback helps nobody */
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    sigprocmask(SIG_BLOCK, &interrupt, NULL);
    reserve();
    void *library = load_python(argv, &workers);
    int (*python_main)(int, char **) = (int (*)(int, char **))dlsym(library, "Py_BytesMain");
    if (!python_main || argc < 1)
        fail("Python does not start: %s", argc < 1 ? "it was called without a name" : dlerror());
    if (on_disk) {
        workers = load_files(workers);
        unlink(python.path);
    }
    while (n_spare)
        close(spare[--n_spare]);
    set_environment(base.path);
    /* no site module, no user's packages, no byte code written, no docstrings; always UTF-8 */
    char *first[] = {argv[0], "-sSBOO", "-Xutf8", "-c", (char *)boot_source, describe(workers)};
    int n = sizeof first / sizeof *first;
    char **args = calloc(n + argc, sizeof *args);
    memcpy(args, first, sizeof first);
    memcpy(args + n, argv + 1, (argc - 1) * sizeof *args);
    (void)unused;
    return python_main(n + argc - 1, args);
}

#if PRELOADED
typedef int Main(int, char **, char **);

int __libc_start_main(Main *program_main, int argc, char **argv, void (*init)(void),
                      void (*fini)(void), void (*loader_fini)(void), void *stack)
{
    int (*start)(Main *, int, char **, void (*)(void), void (*)(void), void (*)(void), void *);
    *(void **)&start = dlsym(RTLD_NEXT, "__libc_start_main");
    return start(getenv("RUN_LAUNCHER") ? launch : program_main, argc, argv, init, fini,
                 loader_fini, stack);
}
#else
int main(int argc, char **argv, char **environment)
{
    return launch(argc, argv, environment);
}
#endif
