/* The launcher's inflate.h as a filter, for test_launcher.py: damaged data must not end it.

   stdin: any number of (packed size, size, zlib stream); stdout for each: 1 and the bytes, or 0. */

#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

static jmp_buf next;

static void damaged(void) { longjmp(next, 1); }

#include "../../embed/launcher/inflate.h"

int main(void) {
    uint32_t sizes[2];
    while (fread(sizes, sizeof sizes, 1, stdin) == 1) {
        uint8_t *in = malloc(sizes[0]), *out = calloc(1, sizes[1]); /* exact: ASan sees one more */
        if (fread(in, 1, sizes[0], stdin) != sizes[0]) return 1;
        int is_damaged = setjmp(next);
        if (!is_damaged) inflate(in, sizes[0], out, sizes[1]);
        putchar(!is_damaged);
        if (!is_damaged) fwrite(out, 1, sizes[1], stdout);
        free(in);
        free(out);
    }
    return 0;
}
