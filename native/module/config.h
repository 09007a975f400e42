/* The module's configuration, in the shape of AWS's cloudhsm-pkcs11.cfg: read once, before any fork, and kept. */
#ifndef HSMSIM_CONFIG_H
#define HSMSIM_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { CONFIG_SLOTS = 16, CONFIG_SERVERS = 28, CONFIG_TEXT = 128, CONFIG_PATH = 108, CONFIG_FILE = 4096 };

struct config_server {
    char name[CONFIG_TEXT + 8]; /* for people */
    char socket[CONFIG_PATH];
    char host[CONFIG_TEXT];
    uint16_t port; /* 0: the socket; else TLS to this port of the host */
};

/* One that the configuration names, read with it: a worker that has given up its rights may not be able to. */
struct config_file {
    char path[CONFIG_FILE];
    char *text; /* NULL: not read */
    size_t len;
};

struct config_slot {
    char cluster[CONFIG_TEXT];
    char label[CONFIG_TEXT];
    char partition[CONFIG_TEXT];
    char vantage[CONFIG_TEXT];
    uid_t uid;      /* of the HSM processes */
    struct config_file ca, client_cert, client_key; /* of TLS */
    bool check_off; /* the key availability check */
    struct config_server servers[CONFIG_SERVERS];
    unsigned server_count;
};

enum config_log { LOG_TO_FILE, LOG_TO_TERM, LOG_TO_SYSLOG };

struct config {
    struct config_slot slots[CONFIG_SLOTS];
    unsigned slot_count;
    bool cloudhsm;
    bool socket_only; /* no shared memory */
    bool retry_off; /* what a throttled HSM refuses is not tried again */
    bool async_off;   /* no asynchronous job is paused */
    bool spread_off;  /* one HSM is asked at a time, in the order of the file */
    unsigned timeout_ms;
    enum config_log log_type;
    int log_level;
    char log_file[CONFIG_FILE];
};

/* Reads the file, or finds it if `path` is NULL, and those that it names. false with a sentence in `error`. */
bool config_load(struct config *config, const char *path, char *error, size_t error_len);
/* One text; `where` names it in the sentence. */
bool config_parse(struct config *config, const char *text, size_t len, const char *where, char *error, size_t error_len);

#endif
