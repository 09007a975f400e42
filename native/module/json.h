/* A reader for one small JSON file (RFC 8259), with bounds: the module's configuration. Own, because the libraries for it
 * clash by symbol in programs that load us (docs/explanation/adr/0003). */
#ifndef HSMSIM_JSON_H
#define HSMSIM_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { JSON_SIZE_MAX = 65536, JSON_DEPTH_MAX = 16, JSON_VALUES_MAX = 2048 };
enum json_type { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

struct json {
    enum json_type type;
    const char *name;  /* of a member, else NULL */
    const char *text;  /* of a string, NUL-terminated */
    int64_t number;    /* of a number without fraction or exponent */
    struct json *child, *next;
};

struct json_document;
/* NULL with *line and *why on anything that is not one JSON value. Takes a copy of the text. */
struct json_document *json_parse(const char *text, size_t len, unsigned *line, const char **why);
const struct json *json_root(const struct json_document *document);
void json_free(struct json_document *document);

/* NULL where `object` is NULL or no object, or has no such member. */
const struct json *json_member(const struct json *object, const char *name);
const char *json_text(const struct json *object, const char *name, const char *otherwise);
bool json_flag(const struct json *object, const char *name, bool otherwise);
int64_t json_number(const struct json *object, const char *name, int64_t otherwise);

#endif
