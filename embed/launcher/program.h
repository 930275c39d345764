/* A Python that is linked into a program, as cx_Freeze's is, and not a shared library.

   Only the kernel can start a program. So the launcher starts it with itself preloaded, built as
   a shared library (launcher.so, -DPRELOADED=1), and there takes the place of the program's
   main(). Three things cross the exec in RUN_LAUNCHER, one a line: the descriptor of the file that
   holds app.pkg, and where the program and launcher.so have names on disk, to be removed. */

static void start_program(const Entry *program, const Entry *preload, char **argv) {
    static File p, l;
    char *state, *preloaded;
    const char *others = getenv("LD_PRELOAD");
    if (!is_trusted()) /* the loader would ignore LD_PRELOAD, and this be a set-uid Python */
        fail("this program cannot run set-uid or set-gid");
    create(&p, program);
    create(&l, preload);
    fill(&p);
    fill(&l);
    if (asprintf(&state, "%d\n%s\n%s", self, on_disk ? p.path : "", on_disk ? l.path : "") < 0 ||
        asprintf(&preloaded, "%s:%s", l.path, others ? others : "") < 0 ||
        setenv("RUN_LAUNCHER", state, 1) || setenv("LD_PRELOAD", preloaded, 1))
        no_memory();
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

/* The other side of start_program: this code is launcher.so in Python's program. */
static void open_inherited(void) {
    char program[LONGEST_PATH] = "", preload[LONGEST_PATH] = "";
    sscanf(getenv("RUN_LAUNCHER"), "%d\n%1023[^\n]\n%1023[^\n]", &self, program, preload);
    unlink(program);
    unlink(preload);
    unsetenv("RUN_LAUNCHER");
    char *others = strchr(getenv("LD_PRELOAD"), ':') + 1;
    *others ? setenv("LD_PRELOAD", others, 1) : unsetenv("LD_PRELOAD");
    open_pkg(pkg_name());
}
