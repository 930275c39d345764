/* Asks llama2.c's own functions: cc -O3 -I DIRECTORY_OF_RUN_C -o probe probe.c -lm
 *   probe encode TOKENIZER VOCAB_SIZE < text           ids, BOS first
 *   probe sample VOCAB_SIZE TEMPERATURE TOPP SEED COUNT < logits    COUNT draws from the same logits */
#define TESTING
#include "run.c"

static int encode_stdin(char **argv) {
    Tokenizer tokenizer;
    static char text[1 << 16];
    static int ids[1 << 16];
    int n = 0;
    build_tokenizer(&tokenizer, argv[2], atoi(argv[3]));
    text[fread(text, 1, sizeof(text) - 1, stdin)] = 0;
    encode(&tokenizer, text, 1, 0, ids, &n);
    for (int i = 0; i < n; i++) printf("%d ", ids[i]);
    return 0;
}

static int sample_stdin(char **argv) {
    Sampler sampler;
    static float logits[1 << 16], copy[1 << 16];
    int n = atoi(argv[2]), count = atoi(argv[6]);
    if (fread(logits, sizeof(float), n, stdin) != (size_t)n) return 1;
    build_sampler(&sampler, n, atof(argv[3]), atof(argv[4]), atoi(argv[5]));
    for (int i = 0; i < count; i++) {
        memcpy(copy, logits, n * sizeof(float));
        printf("%d ", sample(&sampler, copy));
    }
    return 0;
}

int main(int argc, char **argv) {
    return argc < 4 ? 1 : !strcmp(argv[1], "encode") ? encode_stdin(argv) : sample_stdin(argv);
}
