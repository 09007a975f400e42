/* A fuzz target without a fuzzer: runs it once on each file of the folders in its arguments, so that every compiler and
 * sanitizer replays the corpora. */
#include <dirent.h>
#include <limits.h>

#include "fuzz.h"

__attribute__((weak)) int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    return 0;
}

static void replay(const char *path)
{
    static uint8_t buffer[1 << 20];
    FILE *file = fopen(path, "rb");
    FUZZ_CHECK(file != NULL);
    size_t len = fread(buffer, 1, sizeof buffer, file);
    FUZZ_CHECK(feof(file));
    fclose(file);
    uint8_t *exact = fuzz_copy(wire_bytes(buffer, (uint32_t)len));
    LLVMFuzzerTestOneInput(exact, len);
    free(exact);
}

int main(int argc, char **argv)
{
    unsigned count = 0;
    LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 1; i < argc; i++) {
        DIR *folder = opendir(argv[i]);
        FUZZ_CHECK(folder != NULL);
        for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
            char path[PATH_MAX];
            if (entry->d_name[0] != '.') {
                snprintf(path, sizeof path, "%s/%s", argv[i], entry->d_name);
                fprintf(stderr, "%s\n", path);
                replay(path);
                count++;
            }
        }
        closedir(folder);
    }
    printf("%u inputs, nothing found\n", count);
    FUZZ_CHECK(count != 0);
    return 0;
}
