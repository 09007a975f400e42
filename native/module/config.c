#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "json.h"
#include "log.h"

enum { FILE_SIZE_MAX = 65536, TIMEOUT_MS = 5000, TIMEOUT_MIN_MS = 100, TIMEOUT_MAX_MS = 600000 };

#define HSM_CA "hsm_ca_file"
#define CLIENT_CERT "client_cert_hsm_tls_path"
#define CLIENT_KEY "client_key_hsm_tls_path"

#define REFUSE(...)                                \
    do {                                           \
        snprintf(error, error_len, __VA_ARGS__);   \
        return false;                              \
    } while (0)

static bool copy(char *out, size_t room, const char *text)
{
    size_t len = strlen(text);
    if (len >= room) {
        return false;
    }
    memcpy(out, text, len + 1);
    return true;
}

/* A member and its type; JSON_TRUE: true or false. */
struct known {
    const char *name;
    enum json_type type;
};

static const char *type_name(enum json_type type)
{
    static const char *const names[] = {[JSON_NULL] = "null",      [JSON_FALSE] = "true or false", [JSON_TRUE] = "true or false",
                                        [JSON_NUMBER] = "a number", [JSON_STRING] = "a string",     [JSON_ARRAY] = "a list",
                                        [JSON_OBJECT] = "an object"};
    return names[type];
}

/* A member that nobody knows is said and ignored: AWS's file has some. One of the wrong type is refused, as is anything
 * else that would be taken for its default. null is as good as absent. */
static bool check_members(const struct json *object, const struct known *known, const char *name, const char *where, char *error,
                          size_t error_len)
{
    if (object == NULL || object->type == JSON_NULL) {
        return true;
    }
    if (object->type != JSON_OBJECT) {
        REFUSE("%s: %s is no object; write the file with `hsmsim configure-pkcs11`", where, name);
    }
    for (const struct json *member = object->child; member != NULL; member = member->next) {
        const struct known *one = known;
        while (one->name != NULL && strcmp(one->name, member->name) != 0) {
            one++;
        }
        enum json_type type = member->type == JSON_FALSE ? JSON_TRUE : member->type;
        if (one->name == NULL) {
            log_line(LEVEL_WARN, "%s: %s.%s is not known here and is ignored", where, name, member->name);
        } else if (type != one->type && type != JSON_NULL) {
            REFUSE("%s: %s.%s wants %s; write the file with `hsmsim configure-pkcs11`", where, name, member->name, type_name(one->type));
        }
    }
    return true;
}
#define CHECK_MEMBERS(object, known, name)                                         \
    do {                                                                           \
        if (!check_members(object, known, name, where, error, error_len)) {        \
            return false;                                                          \
        }                                                                          \
    } while (0)

/* A server with a socket is on this machine; one of AWS's has none, and means TLS. */
static bool read_server(struct config_server *server, const struct json *one, const char *where, char *error, size_t error_len)
{
    const char *socket_path = json_text(one, "socket", NULL), *host = json_text(one, "hostname", socket_path);
    if (socket_path != NULL) {
        if (*socket_path != '/' || !copy(server->socket, sizeof server->socket, socket_path) || !copy(server->name, CONFIG_TEXT, host)) {
            REFUSE("%s: \"socket\" is an absolute path of at most %d bytes: write the file with `hsmsim configure-pkcs11`", where,
                   CONFIG_PATH - 1);
        }
        return true;
    }
    int64_t port = json_number(one, "port", 0);
    if (host == NULL || *host == '\0' || port < 1 || port > UINT16_MAX || !copy(server->host, sizeof server->host, host)) {
        REFUSE("%s: a server needs \"socket\", or \"hostname\" and \"port\": write the file with `hsmsim configure-pkcs11`", where);
    }
    server->port = (uint16_t)port;
    snprintf(server->name, sizeof server->name, "%s:%u", host, (unsigned)server->port);
    return true;
}

static bool read_servers(struct config_slot *slot, const struct json *servers, const char *where, char *error, size_t error_len)
{
    if (servers == NULL || servers->type != JSON_ARRAY) {
        REFUSE("%s: a cluster needs \"servers\": write the file with `hsmsim configure-pkcs11`", where);
    }
    for (const struct json *one = servers->child; one != NULL; one = one->next) {
        static const struct known known[] = {
            {"hostname", JSON_STRING}, {"port", JSON_NUMBER}, {"enable", JSON_TRUE}, {"socket", JSON_STRING}, {NULL, JSON_NULL}};
        CHECK_MEMBERS(one, known, "servers[]");
        if (!json_flag(one, "enable", true)) {
            continue;
        }
        if (slot->server_count == CONFIG_SERVERS) {
            REFUSE("%s: a cluster has at most %d servers", where, CONFIG_SERVERS);
        }
        struct config_server *server = &slot->servers[slot->server_count++];
        if (!read_server(server, one, where, error, error_len)) {
            return false;
        }
        if (server->port != 0 && slot->ca.path[0] != '/') {
            REFUSE("%s: without \"socket\" a server is reached by TLS: \"hsm_ca_file\" is to name the customer's CA, an absolute path",
                   where);
        }
    }
    if (slot->server_count == 0) {
        REFUSE("%s: no server of the cluster is enabled", where);
    }
    return true;
}

static bool read_cluster(struct config_slot *slot, const struct json *entry, const char *where, char *error, size_t error_len)
{
    static const struct known known[] = {{"type", JSON_STRING}, {"cluster", JSON_OBJECT}, {"hsmsim", JSON_OBJECT}, {NULL, JSON_NULL}};
    static const struct known known_cluster[] = {{"cluster_id", JSON_STRING},      {HSM_CA, JSON_STRING},
                                                 {"servers", JSON_ARRAY},          {"options", JSON_OBJECT},
                                                 {"client_cert_path", JSON_STRING}, {"client_key_path", JSON_STRING},
                                                 {CLIENT_CERT, JSON_STRING},       {CLIENT_KEY, JSON_STRING},
                                                 {NULL, JSON_NULL}};
    static const struct known known_own[] = {
        {"partition", JSON_STRING}, {"vantage", JSON_STRING}, {"uid", JSON_NUMBER}, {"label", JSON_STRING}, {NULL, JSON_NULL}};
    static const struct known known_options[] = {{"disable_key_availability_check", JSON_TRUE}, {NULL, JSON_NULL}};
    const struct json *cluster = json_member(entry, "cluster"), *own = json_member(entry, "hsmsim");
    if (cluster == NULL || cluster->type != JSON_OBJECT) {
        REFUSE("%s: an entry of \"clusters\" needs \"cluster\"", where);
    }
    CHECK_MEMBERS(entry, known, "clusters[]");
    CHECK_MEMBERS(cluster, known_cluster, "cluster");
    CHECK_MEMBERS(json_member(cluster, "options"), known_options, "options");
    CHECK_MEMBERS(own, known_own, "hsmsim");
    slot->check_off = json_flag(json_member(cluster, "options"), "disable_key_availability_check", false);
    int64_t uid = json_number(own, "uid", (int64_t)geteuid());
    if (uid < 0 || uid >= UINT32_MAX) {
        REFUSE("%s: \"uid\" is out of range", where);
    }
    slot->uid = (uid_t)uid;
    bool fits = copy(slot->cluster, sizeof slot->cluster, json_text(cluster, "cluster_id", "")) &&
                copy(slot->label, sizeof slot->label, json_text(own, "label", "hsmsim")) &&
                copy(slot->partition, sizeof slot->partition, json_text(own, "partition", "")) &&
                copy(slot->vantage, sizeof slot->vantage, json_text(own, "vantage", ""));
    if (!fits) {
        REFUSE("%s: names have at most %d bytes", where, CONFIG_TEXT - 1);
    }
    if (!copy(slot->ca.path, CONFIG_FILE, json_text(cluster, HSM_CA, "")) ||
        !copy(slot->client_cert.path, CONFIG_FILE, json_text(cluster, CLIENT_CERT, "")) ||
        !copy(slot->client_key.path, CONFIG_FILE, json_text(cluster, CLIENT_KEY, ""))) {
        REFUSE("%s: names of files have at most %d bytes", where, CONFIG_FILE - 1);
    }
    if (slot->client_cert.path[0] != slot->client_key.path[0] || (slot->client_cert.path[0] != '\0' && slot->client_cert.path[0] != '/')) {
        REFUSE("%s: " CLIENT_CERT " and " CLIENT_KEY " belong together, and are absolute paths", where);
    }
    return read_servers(slot, json_member(cluster, "servers"), where, error, error_len);
}

static bool choice(const char *text, const char *const *names, int *out)
{
    for (int i = 0; names[i] != NULL; i++) {
        if (strcmp(names[i], text) == 0) {
            *out = i;
            return true;
        }
    }
    return false;
}

static bool read_logging(struct config *config, const struct json *logging, const char *where, char *error, size_t error_len)
{
    static const struct known known[] = {
        {"log_type", JSON_STRING}, {"log_file", JSON_STRING}, {"log_level", JSON_STRING}, {"log_interval", JSON_STRING}, {NULL, JSON_NULL}};
    static const char *const types[] = {"file", "term", "syslog", NULL};
    static const char *const levels[] = {"error", "warn", "info", "debug", "trace", NULL};
    int log_type;
    const char *file = json_text(logging, "log_file", "");
    CHECK_MEMBERS(logging, known, "logging");
    if (!choice(json_text(logging, "log_type", *file == '\0' ? "term" : "file"), types, &log_type) ||
        !choice(json_text(logging, "log_level", "warn"), levels, &config->log_level) ||
        !copy(config->log_file, sizeof config->log_file, file) || (log_type == LOG_TO_FILE && *file != '/')) {
        REFUSE("%s: \"logging\" wants log_type file (with an absolute log_file), term or syslog, and log_level error, warn, info, "
               "debug or trace",
               where);
    }
    config->log_type = (enum config_log)log_type;
    return true;
}

static bool read_all(struct config *config, const struct json *root, const char *where, char *error, size_t error_len)
{
    static const struct known known[] = {{"clusters", JSON_ARRAY}, {"logging", JSON_OBJECT}, {"hsmsim", JSON_OBJECT}, {NULL, JSON_NULL}};
    static const struct known known_own[] = {{"profile", JSON_STRING}, {"timeout_ms", JSON_NUMBER}, {"transport", JSON_STRING},
                                             {"retry_mode", JSON_STRING}, {"async", JSON_TRUE}, {"spread", JSON_TRUE}, {NULL, JSON_NULL}};
    static const char *const profiles[] = {"general", "cloudhsm", NULL};
    static const char *const transports[] = {"auto", "socket", NULL};
    static const char *const retries[] = {"standard", "off", NULL};
    const struct json *clusters = json_member(root, "clusters"), *own = json_member(root, "hsmsim");
    int profile, transport, retry;
    CHECK_MEMBERS(root->type == JSON_OBJECT ? root : NULL, known, "the file");
    CHECK_MEMBERS(own, known_own, "hsmsim");
    if (clusters == NULL || clusters->type != JSON_ARRAY || clusters->child == NULL) {
        REFUSE("%s: \"clusters\" is missing or empty: write the file with `hsmsim configure-pkcs11`", where);
    }
    for (const struct json *entry = clusters->child; entry != NULL; entry = entry->next) {
        if (config->slot_count == CONFIG_SLOTS) {
            REFUSE("%s: at most %d clusters", where, CONFIG_SLOTS);
        }
        if (!read_cluster(&config->slots[config->slot_count], entry, where, error, error_len)) {
            return false;
        }
        config->slot_count++;
    }
    if (!choice(json_text(own, "profile", "general"), profiles, &profile)) {
        REFUSE("%s: \"profile\" is general or cloudhsm", where);
    }
    config->cloudhsm = profile == 1;
    if (!choice(json_text(own, "transport", "auto"), transports, &transport)) {
        REFUSE("%s: \"transport\" is auto (shared memory where there is some) or socket", where);
    }
    config->socket_only = transport == 1;
    if (!choice(json_text(own, "retry_mode", "standard"), retries, &retry)) {
        REFUSE("%s: \"retry_mode\" is standard or off", where);
    }
    config->retry_off = retry == 1;
    config->async_off = !json_flag(own, "async", true);
    config->spread_off = !json_flag(own, "spread", true);
    int64_t timeout = json_number(own, "timeout_ms", TIMEOUT_MS);
    if (timeout < TIMEOUT_MIN_MS || timeout > TIMEOUT_MAX_MS) {
        REFUSE("%s: \"timeout_ms\" is between %d and %d", where, TIMEOUT_MIN_MS, TIMEOUT_MAX_MS);
    }
    config->timeout_ms = (unsigned)timeout;
    return read_logging(config, json_member(root, "logging"), where, error, error_len);
}

bool config_parse(struct config *config, const char *text, size_t len, const char *where, char *error, size_t error_len)
{
    unsigned line;
    const char *why;
    memset(config, 0, sizeof *config);
    struct json_document *document = json_parse(text, len, &line, &why);
    if (document == NULL) {
        REFUSE("%s, line %u: %s; write the file with `hsmsim configure-pkcs11`", where, line, why);
    }
    bool fine = read_all(config, json_root(document), where, error, error_len);
    json_free(document);
    return fine;
}

/* NULL: too large, or errno. The caller frees. */
static char *read_whole(int fd, size_t max, size_t *len)
{
    char *text = malloc(max + 1);
    ssize_t got = 1;
    *len = 0;
    while (text != NULL && got > 0 && *len <= max) {
        got = read(fd, text + *len, max + 1 - *len);
        *len += got > 0 ? (size_t)got : 0;
    }
    if (got < 0) {
        free(text);
        return NULL;
    }
    return text;
}

static void forget_file(struct config_file *file)
{
    if (file->text != NULL) {
        OPENSSL_cleanse(file->text, file->len); /* it may be a key */
        free(file->text);
    }
    file->text = NULL;
}

/* What can be seen from here that is wrong with it, or NULL. */
static const char *file_fault(int fd, bool secret)
{
    struct stat status;
    if (fd < 0 || fstat(fd, &status) != 0) {
        return strerror(errno);
    }
    return secret && (status.st_mode & S_IRWXO) != 0 ? "every user of this machine can: chmod 600" : NULL;
}

static bool read_named_file(struct config_file *file, const char *member, const char *meaning, bool secret, char *error, size_t error_len)
{
    int fd = open(file->path, O_RDONLY | O_CLOEXEC);
    const char *fault = file_fault(fd, secret);
    if (fault == NULL) {
        file->text = read_whole(fd, FILE_SIZE_MAX, &file->len);
        fault = file->text == NULL ? strerror(errno) : file->len > FILE_SIZE_MAX ? "it is too large" : NULL;
    }
    if (fault != NULL) {
        snprintf(error, error_len, "%s names %s, which %s read: %s; it is to be %s", member, file->path,
                 fd < 0 || !secret ? "cannot be" : "is not", fault, meaning);
        forget_file(file);
    }
    if (fd >= 0) {
        close(fd);
    }
    return fault == NULL;
}

static bool read_files(struct config_slot *slot, char *error, size_t error_len)
{
    bool by_tcp = false;
    for (unsigned i = 0; i < slot->server_count; i++) {
        by_tcp = by_tcp || slot->servers[i].port != 0;
    }
    const struct {
        struct config_file *file;
        const char *member, *meaning;
        bool secret;
    } all[] = {{&slot->ca, HSM_CA, "the customer's CA, customerCA.crt", false},
               {&slot->client_cert, CLIENT_CERT, "the client's certificate and those above it, PEM", false},
               {&slot->client_key, CLIENT_KEY, "the key of the client's certificate, PEM without a passphrase", true}};
    for (size_t i = 0; by_tcp && i < sizeof all / sizeof *all; i++) {
        if (all[i].file->path[0] != '\0' && !read_named_file(all[i].file, all[i].member, all[i].meaning, all[i].secret, error, error_len)) {
            return false;
        }
    }
    return true;
}

static void forget_files(struct config *config)
{
    for (unsigned i = 0; i < config->slot_count; i++) {
        forget_file(&config->slots[i].ca);
        forget_file(&config->slots[i].client_cert);
        forget_file(&config->slots[i].client_key);
    }
}

static bool read_file(struct config *config, int fd, const char *path, char *error, size_t error_len)
{
    size_t len;
    char *text = read_whole(fd, JSON_SIZE_MAX, &len);
    if (text == NULL) {
        REFUSE("%s cannot be read: %s; write it with `hsmsim configure-pkcs11`", path, strerror(errno));
    }
    forget_files(config); /* of an earlier file */
    bool fine = config_parse(config, text, len, path, error, error_len);
    free(text);
    for (unsigned i = 0; fine && i < config->slot_count; i++) {
        fine = read_files(&config->slots[i], error, error_len);
    }
    if (!fine) {
        forget_files(config);
    }
    return fine;
}

static bool read_named(struct config *config, const char *path, const char *by, char *error, size_t error_len)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        REFUSE("%s%s cannot be opened: %s; write it with `hsmsim configure-pkcs11`", by, path, strerror(errno));
    }
    bool fine = read_file(config, fd, path, error, error_len);
    close(fd);
    return fine;
}

bool config_load(struct config *config, const char *path, char *error, size_t error_len)
{
    if (path != NULL) {
        return read_named(config, path, "", error, error_len);
    }
    const char *named = secure_getenv("HSMSIM_PKCS11_CONFIG"), *xdg = secure_getenv("XDG_CONFIG_HOME"), *home = secure_getenv("HOME");
    char user[4096] = "";
    if (xdg != NULL && *xdg == '/') {
        snprintf(user, sizeof user, "%s/hsmsim/pkcs11.cfg", xdg);
    } else if (home != NULL) {
        snprintf(user, sizeof user, "%s/.config/hsmsim/pkcs11.cfg", home);
    }
    const char *places[] = {user, "/etc/hsmsim/pkcs11.cfg", "/run/hsmsim/pkcs11.cfg"};
    if (named != NULL) {
        return read_named(config, named, "HSMSIM_PKCS11_CONFIG: ", error, error_len);
    }
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        int fd = *places[i] == '\0' ? -1 : open(places[i], O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
            bool fine = read_file(config, fd, places[i], error, error_len);
            close(fd);
            return fine;
        }
        if (*places[i] != '\0' && access(places[i], F_OK) == 0) { /* not passed over: the next one may mean another HSM */
            REFUSE("%s cannot be opened: %s; write it with `hsmsim configure-pkcs11`", places[i], strerror(errno));
        }
    }
    REFUSE("no configuration: looked at $HSMSIM_PKCS11_CONFIG, %s, %s and %s. Start the simulator (scripts/up) and run "
           "`eval \"$(hsmsim env)\"`, or write a file with `hsmsim configure-pkcs11`",
           places[0], places[1], places[2]);
}
