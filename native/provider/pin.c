/* PINs: where they come from, and the page that keeps one. */
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "provider.h"

enum { PAGE = 4096 };

static struct pin *page_make(void)
{
    void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) {
        return NULL;
    }
    _Static_assert(sizeof(struct pin) <= PAGE, "one page");
    mlock(page, PAGE); /* where the limit allows */
    madvise(page, PAGE, MADV_DONTDUMP);
    return page;
}

void pin_free(struct pin *pin)
{
    if (pin != NULL) {
        OPENSSL_cleanse(pin, sizeof *pin);
        munmap(pin, PAGE);
    }
}

static bool put(struct pin *pin, const void *text, size_t len)
{
    bool fits = len > 0 && len <= sizeof pin->text;
    if (fits) {
        memcpy(pin->text, text, len);
        pin->len = len;
    }
    return fits;
}

/* The first line. */
static bool read_source(struct pin *pin, const char *path)
{
    static const char scheme[] = "file:";
    path += strncmp(path, scheme, sizeof scheme - 1) == 0 ? sizeof scheme - 1 : 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, pin->text, sizeof pin->text);
    if (fd >= 0) {
        close(fd);
    }
    pin->len = 0;
    while (got > 0 && pin->len < (size_t)got && pin->text[pin->len] != '\n' && pin->text[pin->len] != '\r') {
        pin->len++;
    }
    return pin->len > 0;
}

static bool fill(struct pin *pin, const struct provider *provider, const struct uri *uri)
{
    char path[sizeof uri->pin_source.data + 1] = "";
    const char *environment = secure_getenv("HSMSIM_PIN");
    if (uri->pin_value.given) {
        return put(pin, uri->pin_value.data, uri->pin_value.len);
    }
    if (uri->pin_source.given) {
        memcpy(path, uri->pin_source.data, uri->pin_source.len);
        return read_source(pin, path);
    }
    if (provider->pin_source != NULL) {
        return read_source(pin, provider->pin_source);
    }
    return environment != NULL && put(pin, environment, strlen(environment));
}

struct pin *pin_get(const struct provider *provider, const struct uri *uri)
{
    struct pin *pin = page_make();
    if (pin != NULL && fill(pin, provider, uri)) {
        return pin;
    }
    pin_free(pin);
    FAIL(provider, REASON_PIN, "%s",
         uri->pin_source.given || provider->pin_source != NULL
             ? "the file of pin-source cannot be read or its first line is no PIN (user:password)"
             : "no PIN: set HSMSIM_PIN (`hsmsim env`), or pin-source in the provider's section of openssl.cnf or in the key's name");
    return NULL;
}
