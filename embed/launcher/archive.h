/* Finding app.pkg, and what is in it.

   Behind the program stands a zip; app.pkg is a member of it, stored, and is itself PyInstaller's
   archive (CArchive): files, a table of contents, and a cookie at the end that says where the
   table is. A zip's numbers are little-endian, a CArchive's are big-endian. Nothing is unpacked
   here: the bytes of a file are where the table says. */

/* ------------------------------------------------------------------ zip */

enum { /* lengths of the records without their names and comments, and of the longest tail */
       ZIP_END = 22,
       ZIP64_LOCATOR = 20,
       ZIP64_END = 56,
       ZIP_CENTRAL = 46,
       ZIP_LOCAL = 30,
       ZIP_TAIL = ZIP64_LOCATOR + ZIP_END + 65535,
       ZIP64_FIELD = 1, /* an extra field: the numbers that do not fit into 32 bits */
};

typedef struct {
    uint64_t count, start; /* how many members, and where the first record is */
} Directory;

static uint64_t little(const uint8_t *p, int n) {
    uint64_t value = 0;
    while (n--) value = value << 8 | p[n];
    return value;
}

/* The end record, searched backwards as a comment may follow it. 64-bit numbers, if there are
   any, stand in a record of their own, to which a locator just before the end record points. */
static Directory find_directory(const char *wanted) {
    static uint8_t tail[ZIP_TAIL], wide[ZIP64_END];
    struct stat info;
    fstat(self, &info);
    off_t n = info.st_size < ZIP_TAIL ? info.st_size : ZIP_TAIL, at = n - ZIP_END;
    read_at(tail, n, info.st_size - n);
    while (at >= 0 && memcmp(tail + at, "PK\5\6", 4)) at--;
    if (at < 0) fail("there is no %s behind this program: it was cut short", wanted);
    const uint8_t *end = tail + at, *locator = end - ZIP64_LOCATOR;
    if (at >= ZIP64_LOCATOR && !memcmp(locator, "PK\6\7", 4)) {
        read_at(wide, ZIP64_END, little(locator + 8, 8));
        return (Directory){little(wide + 32, 8), little(wide + 48, 8)};
    }
    return (Directory){little(end + 10, 2), little(end + 16, 4)};
}

/* Where a member's local header is. Only this number can need 64 bits: app.pkg is below 4 GB. */
static uint64_t header_offset(const uint8_t *central, const uint8_t *extra, int n_extra) {
    uint64_t offset = little(central + 42, 4);
    if (offset != 0xffffffff) return offset;
    for (const uint8_t *p = extra; p + 12 <= extra + n_extra; p += 4 + little(p + 2, 2))
        if (little(p, 2) == ZIP64_FIELD) return little(p + 4, 8);
    damaged();
    return 0;
}

/* -> offset of a member's bytes; *size is their number. */
static off_t find_member(const char *wanted, off_t *size) {
    Directory directory = find_directory(wanted);
    uint8_t central[ZIP_CENTRAL], local[ZIP_LOCAL], text[2048];
    off_t at = directory.start;
    for (uint64_t i = 0; i < directory.count; i++) {
        read_at(central, ZIP_CENTRAL, at);
        if (memcmp(central, "PK\1\2", 4)) damaged();
        unsigned name = little(central + 28, 2), extra = little(central + 30, 2);
        unsigned known = name + extra <= sizeof text ? name + extra : 0; /* ours is short */
        read_at(text, known, at + ZIP_CENTRAL);
        at += ZIP_CENTRAL + name + extra + little(central + 32, 2);
        if (!known || name != strlen(wanted) || memcmp(text, wanted, name)) continue;
        if (little(central + 10, 2))
            fail("%s is compressed: change the model with zip -0, which stores", wanted);
        off_t header = header_offset(central, text + name, extra);
        read_at(local, ZIP_LOCAL, header);
        *size = little(central + 20, 4);
        return header + ZIP_LOCAL + little(local + 26, 2) + little(local + 28, 2);
    }
    fail("there is no %s in this file", wanted);
    return 0;
}

/* ------------------------------------------------------------------ PyInstaller's CArchive */

typedef struct {     /* a row of the table of contents */
    uint32_t row;    /* its length */
    uint32_t offset; /* of the file, in app.pkg */
    uint32_t packed, size;
    uint8_t compressed;
    char type; /* b: shared library, x: data, z: Python modules, m: one module, s: script */
    char name[];
} __attribute__((packed)) Entry;

typedef struct {
    char magic[8];
    uint32_t length, contents, contents_size, python_version;
    char python_library[64];
} Cookie;

static char *contents; /* the table of contents */
static uint32_t contents_size;

static void open_pkg(const char *name) {
    Cookie cookie;
    off_t size;
    pkg = find_member(name, &size);
    read_at(&cookie, sizeof cookie, pkg + size - (off_t)sizeof cookie);
    if (memcmp(cookie.magic, "MEI\014\013\012\013\016", sizeof cookie.magic))
        fail("%s is not what this program was built with", name);
    contents_size = ntohl(cookie.contents_size);
    contents = memory(contents_size + 1);
    read_at(contents, contents_size, pkg + ntohl(cookie.contents));
}

/* The row after e; the first for NULL; NULL after the last. */
static const Entry *next_entry(const Entry *e) {
    const char *p = e ? (const char *)e + ntohl(e->row) : contents;
    if (e && !e->row) damaged(); /* it would be its own successor */
    return p < contents + contents_size ? (const Entry *)p : NULL;
}

static const Entry *find_entry(const char *name) {
    const Entry *e = next_entry(NULL);
    while (e && strcmp(e->name, name)) e = next_entry(e);
    return e;
}
