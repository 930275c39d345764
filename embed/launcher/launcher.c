/* The head of a Linux executable: starts the Python that is packed behind it, from memory.

   [this program][zip: model.bin, ..., app.pkg]      app.pkg is PyInstaller's archive (CArchive)

   PyInstaller's own bootloader unpacks 50 MB into a temporary directory, starts a second process
   and deletes the directory at the end. This one
   1. opens its own file and finds app.pkg and its table of contents;
   2. makes a memory file for each shared library, and fills the large ones in threads;
   3. loads Python's library and calls its main (Py_BytesMain) with the text of boot.py, which
      takes over from there: README.md says what is handed to it, and how.
   Where Python is not a library but a program, step 1 ends by starting that: see program.h.

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
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "basics.h"
#include "inflate.h"
#include "archive.h"
#include "files.h"
#include "environment.h"
#include "program.h"

/* The text of boot.py, put into the program by the assembler. */
__asm__(".section .rodata\n.global boot_source\nboot_source:\n.incbin \"" BOOT
        "\"\n.byte 0\n.previous\n");
extern const char boot_source[];

static int n_spare, spare[3];

/* Takes the places of a closed stdin, stdout or stderr: a library's file must not become one.
   Once all files are open the places are given back, and Python finds them closed. */
static void reserve(void) {
    int fd;
    while ((fd = open("/", O_RDONLY | O_CLOEXEC)) >= 0 && fd < 3) spare[n_spare++] = fd;
    close(fd);
}

static void give_back(void) {
    while (n_spare) close(spare[--n_spare]);
}

/* Ctrl-C waits until boot.py can take it: in between, Python would answer with a traceback. The
   threads that are started from here on inherit this, so that none of them is interrupted. */
static void hold_interrupts(void) {
    sigset_t interrupt;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    sigprocmask(SIG_BLOCK, &interrupt, NULL);
}

/* A model is mapped, not read. If its file becomes shorter meanwhile, or its disk goes away, the
   system sends SIGBUS to the thread that looks at what is gone, wherever it is. */
static void bus_error(int number) {
    static const char line[] = "run: a file in use became shorter, or cannot be read any more\n";
    (void)number;
    if (write(2, line, sizeof line - 1)) _exit(1);
    _exit(1);
}

/* Too large a file is to be an error (EFBIG), which somebody reports, and not the end. */
static void set_signals(void) {
    struct sigaction action = {.sa_handler = bus_error};
    sigaction(SIGBUS, &action, NULL);
    signal(SIGXFSZ, SIG_IGN);
}

/* Python's library has its version in its name; libpython3.so is a stub beside it. */
static int is_python(const Entry *e) {
    return !strncmp(e->name, "libpython3.", 11) && strcmp(e->name, "libpython3.so");
}

/* Less than all libraries take, which are mapped: Python would fail in ways of its own. */
static void check_space(void) {
    struct rlimit space;
    rlim_t needed = 0;
    for (int i = 0; i < n_files; i++) needed += ntohl(files[i].entry->size);
    if (!getrlimit(RLIMIT_AS, &space) && space.rlim_cur < needed) no_memory();
}

static void create_files(const Entry *program, const Entry *preload) {
    for (const Entry *e = next_entry(NULL); e; e = next_entry(e)) {
        if (is_python(e)) {
            create(&python, e);
        } else if (!strcmp(e->name, "base_library.zip")) {
            create(&base, e);
        } else if (e->type == 'b' && e != program && e != preload) {
            if (n_files == MAX_FILES) fail("more than %d libraries are in app.pkg", MAX_FILES);
            create(&files[n_files], e);
            n_files++;
        }
    }
    if (!base.entry || !(python.entry || program)) fail("there is no Python in app.pkg");
}

/* Opens app.pkg and makes its files -> the library that has Python's symbols. */
static void *load_python(char **argv) {
    PRELOADED ? open_inherited() : open_self();
    const Entry *program = find_entry("python"), *preload = find_entry("launcher.so");
    if (program && preload && !PRELOADED) start_program(program, preload, argv);
    create_files(program, preload);
    check_space();
    fill_files();
    fill(&base);
    if (!python.entry) return RTLD_DEFAULT;
    fill(&python);
    void *library = dlopen(python.path, RTLD_NOW | RTLD_GLOBAL);
    if (!library) cannot_load(&python);
    return library;
}

/* The table that boot.py reads: README.md says what its rows mean. */
static char *describe(void) {
    char *table = memory(4096 + 4 * contents_size + n_files * sizeof(File)), *t = table;
    t += sprintf(t, "%d %lld %d %d\n", self, (long long)pkg, ready[0], WORKERS);
    for (const Entry *e = next_entry(NULL); e; e = next_entry(e))
        if (strchr("zms", e->type))
            t += sprintf(t, "%c\t%u\t%s\n", e->type, ntohl(e->offset), e->name);
    for (int i = 0; i < n_files; i++) {
        char type = is_large(&files[i]) && !on_disk ? 'B' : 'b';
        t += sprintf(t, "%c\t%s\t%s\n", type, files[i].path, files[i].entry->name);
    }
    return table;
}

static int launch(int argc, char **argv, char **unused) {
    (void)unused;
    if (argc < 1) fail("Python does not start: it was called without a name");
    hold_interrupts();
    set_signals();
    reserve();
    void *library = load_python(argv);
    int (*python_main)(int, char **) = (int (*)(int, char **))dlsym(library, "Py_BytesMain");
    if (!python_main) fail("Python does not start: %s", dlerror());
    if (on_disk) load_files();
    give_back();
    set_environment(base.path);
    /* no site module, no user's packages, no byte code written, no docstrings; always UTF-8 */
    char *first[] = {argv[0], "-sSBOO", "-Xutf8", "-c", (char *)boot_source, describe()};
    int n = sizeof first / sizeof *first;
    char **args = memory((n + argc) * sizeof *args);
    memcpy(args, first, sizeof first);
    memcpy(args + n, argv + 1, (argc - 1) * sizeof *args);
    return python_main(n + argc - 1, args);
}

#if PRELOADED
typedef int Main(int, char **, char **);

/* glibc's start-up code calls this with the program's main: launch goes in its place. In what the
   program starts itself RUN_LAUNCHER is gone, and main is left alone. */
int __libc_start_main(Main *program_main, int argc, char **argv, void (*init)(void),
                      void (*fini)(void), void (*loader_fini)(void), void *stack) {
    int (*start)(Main *, int, char **, void (*)(void), void (*)(void), void (*)(void), void *);
    *(void **)&start = dlsym(RTLD_NEXT, "__libc_start_main");
    return start(getenv("RUN_LAUNCHER") ? launch : program_main, argc, argv, init, fini,
                 loader_fini, stack);
}
#else
int main(int argc, char **argv, char **environment) { return launch(argc, argv, environment); }
#endif
