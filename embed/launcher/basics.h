/* What every part uses: the file that is read, and the one way to give up. */

static int self;  /* the file that holds app.pkg, open for reading: as a rule this executable */
static off_t pkg; /* where in it app.pkg begins */

static void remove_files(void); /* in files.h */

/* Ends the process with one line on stderr. Nothing is left behind, and no exit handler runs:
   Python may have started, and this may be another thread than its own. */
static void fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    remove_files();
    fprintf(stderr, "run: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    _exit(1);
}

static void damaged(void) { fail("this file is damaged or cut short: copy it again"); }

static void no_memory(void) { fail("there is no memory left, or less allowed (ulimit -v)"); }

/* Memory that is never freed: this process becomes Python, and what is asked for here stays. */
static void *memory(size_t size) {
    void *found = calloc(1, size);
    if (!found) no_memory();
    return found;
}

/* Reads by offset (pread), so that two threads and Python can share the descriptor. */
static void read_at(void *data, size_t size, off_t offset) {
    char *to = data;
    while (size) {
        ssize_t n = pread(self, to, size, offset);
        if (n <= 0) damaged();
        to += n;
        offset += n;
        size -= n;
    }
}
