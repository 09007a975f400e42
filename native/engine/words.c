#include "words.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

const _Atomic int64_t *words_map(const char *path, size_t count)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    struct stat found;
    if (fd < 0) {
        return NULL;
    }
    void *mapped = MAP_FAILED;
    if (fstat(fd, &found) == 0 && S_ISREG(found.st_mode) && found.st_size == (off_t)(count * sizeof(int64_t))) {
        mapped = mmap(NULL, count * sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
    }
    close(fd);
    return mapped == MAP_FAILED ? NULL : mapped;
}
