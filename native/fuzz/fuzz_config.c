/* The configuration file's reader: what it accepts is within its own bounds. Input: the file. */
#include "config.h"
#include "fuzz.h"
#include "json.h"
#include "log.h"

#define TERMINATED(text) FUZZ_CHECK(memchr(text, '\0', sizeof text) != NULL)

static void check_slot(const struct config_slot *slot)
{
    FUZZ_CHECK(slot->server_count >= 1 && slot->server_count <= CONFIG_SERVERS);
    TERMINATED(slot->cluster);
    TERMINATED(slot->label);
    TERMINATED(slot->partition);
    TERMINATED(slot->vantage);
    for (unsigned i = 0; i < slot->server_count; i++) {
        TERMINATED(slot->servers[i].name);
        TERMINATED(slot->servers[i].socket);
        FUZZ_CHECK(slot->servers[i].port == 0 ? slot->servers[i].socket[0] == '/' : slot->ca.path[0] == '/');
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static const struct config quiet = {.log_type = LOG_TO_FILE, .log_file = "/dev/null"};
    (void)argc;
    (void)argv;
    log_open(&quiet);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct config config;
    char error[512] = "";
    uint8_t *text = fuzz_copy(wire_bytes(data, (uint32_t)size));
    bool fine = config_parse(&config, (const char *)text, size, "input", error, sizeof error);
    free(text);
    FUZZ_CHECK(fine == (error[0] == '\0'));
    if (fine) {
        FUZZ_CHECK(config.slot_count >= 1 && config.slot_count <= CONFIG_SLOTS && config.timeout_ms >= 100);
        TERMINATED(config.log_file);
        for (unsigned i = 0; i < config.slot_count; i++) {
            check_slot(&config.slots[i]);
        }
    }
    return 0;
}
