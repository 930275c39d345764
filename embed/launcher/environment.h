/* The environment: what is taken from it, and what Python and the program find in it.

   README.md has the list. A set-uid or set-gid copy (AT_SECURE) is started by somebody
   whom it must not obey: it reads no other file than itself, and RUN_* is removed for all. */

extern char **environ;

static int is_trusted(void) { return !getauxval(AT_SECURE); }

/* The variable's value; NULL if it is empty or the caller may not decide. */
static const char *asked_for(const char *name) {
    const char *value = secure_getenv(name);
    return value && *value ? value : NULL;
}

/* Whether the universal file started this: then app.pkg is in there, under a name of its own. */
static int is_universal(void) { return asked_for("RUN_ARCHIVE") && asked_for("RUN_PKG"); }

static const char *pkg_name(void) { return is_universal() ? asked_for("RUN_PKG") : "app.pkg"; }

/* Removes entries by how they begin. Not by unsetenv, which wants a name: an entry may be
   of any length and need not hold a '='. */
static void forget(const char *prefix) {
    char **kept = environ;
    for (char **e = environ; *e; e++)
        if (strncmp(*e, prefix, strlen(prefix))) *kept++ = *e;
    *kept = NULL;
}

/* The user's settings for other Pythons are not for this one. */
static void set_environment(const char *base_library) {
    forget("PYTHON");
    setenv("PYTHONHOME", "/nowhere", 1); /* not this machine's Python */
    setenv("PYTHONPATH", base_library, 1);
}

/* Opens the file to read -> its name: the universal file, else this executable, else, without
   /proc, the name that this was started by, which the caller chose. */
static const char *open_file(void) {
    const char *file = is_universal() ? asked_for("RUN_ARCHIVE") : "/proc/self/exe";
    self = open(file, O_RDONLY);
    if (self < 0 && !is_universal() && is_trusted()) {
        file = (const char *)getauxval(AT_EXECFN);
        self = open(file, O_RDONLY);
    }
    if (self < 0) fail("cannot read %s: %s", file, strerror(errno));
    return file;
}

static void open_self(void) {
    char path[PATH_MAX + 1] = "", link[32];
    const char *file = open_file();
    snprintf(link, sizeof link, "/proc/self/fd/%d", self);
    /* Emulators open /proc/self/exe where there is no /proc, but do not say where it leads. */
    const char *started = is_universal() || !is_trusted() ? file : (char *)getauxval(AT_EXECFN);
    if (readlink(link, path, PATH_MAX) < 0 && !realpath(file, path) && !realpath(started, path))
        fail("cannot tell where %s lies: %s", file, strerror(errno));
    open_pkg(pkg_name());
    if (!is_trusted()) forget("RUN_");
    setenv("RUN_SELF", path, 1);
}
