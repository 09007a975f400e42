#include "json.h"

#include <stdlib.h>
#include <string.h>

struct json_document {
    char *text; /* strings are unescaped in place */
    struct json values[JSON_VALUES_MAX];
    size_t used;
};

struct parser {
    struct json_document *document;
    char *at;
    char *end;
    unsigned depth;
    const char *why;
};

static struct json *parse_value(struct parser *parser);

static struct json *fail(struct parser *parser, const char *why)
{
    parser->why = parser->why == NULL ? why : parser->why;
    return NULL;
}

static void skip_space(struct parser *parser)
{
    while (parser->at < parser->end && strchr(" \t\r\n", *parser->at) != NULL && *parser->at != '\0') {
        parser->at++;
    }
}

static bool take(struct parser *parser, char wanted)
{
    skip_space(parser);
    if (parser->at < parser->end && *parser->at == wanted) {
        parser->at++;
        return true;
    }
    return false;
}

static struct json *new_value(struct parser *parser, enum json_type type)
{
    if (parser->document->used == JSON_VALUES_MAX) {
        return fail(parser, "too many values");
    }
    struct json *value = &parser->document->values[parser->document->used++];
    *value = (struct json){.type = type};
    return value;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* \uXXXX of the Basic Multilingual Plane, as UTF-8; surrogates are refused: no path or name of ours needs them. */
static bool take_unicode(struct parser *parser, char **out)
{
    unsigned code = 0;
    if (parser->end - parser->at < 4) {
        return false;
    }
    for (int i = 0; i < 4; i++) {
        int digit = hex_digit(*parser->at++);
        if (digit < 0) {
            return false;
        }
        code = code * 16 + (unsigned)digit;
    }
    if (code == 0 || (code >= 0xD800 && code < 0xE000)) {
        return false;
    }
    if (code >= 0x800) {
        *(*out)++ = (char)(0xE0 | code >> 12);
        *(*out)++ = (char)(0x80 | (code >> 6 & 0x3F));
    } else if (code >= 0x80) {
        *(*out)++ = (char)(0xC0 | code >> 6);
    }
    *(*out)++ = (char)(code < 0x80 ? code : 0x80 | (code & 0x3F));
    return true;
}

static bool take_escape(struct parser *parser, char **out)
{
    static const char names[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    if (parser->at == parser->end) {
        return false;
    }
    char name = *parser->at++;
    if (name == 'u') {
        return take_unicode(parser, out);
    }
    const char *found = name == '\0' ? NULL : strchr(names, name);
    if (found == NULL) {
        return false;
    }
    *(*out)++ = meanings[found - names];
    return true;
}

/* The opening quote is taken; what is unescaped never gets longer. */
static const char *take_string(struct parser *parser)
{
    char *start = parser->at, *out = parser->at;
    while (parser->at < parser->end) {
        char c = *parser->at++;
        if (c == '"') {
            *out = '\0';
            return start;
        }
        if ((unsigned char)c < 0x20) {
            break;
        }
        if (c == '\\') {
            if (!take_escape(parser, &out)) {
                break;
            }
        } else {
            *out++ = c;
        }
    }
    fail(parser, "a string does not end, or has an escape that is not allowed");
    return NULL;
}

static struct json *parse_members(struct parser *parser, struct json *container, char close)
{
    struct json **last = &container->child;
    bool object = container->type == JSON_OBJECT;
    if (take(parser, close)) {
        return container;
    }
    do {
        const char *name = NULL;
        if (object) {
            if (!take(parser, '"')) {
                return fail(parser, "a member needs a name in quotes");
            }
            name = take_string(parser);
            if (name == NULL || !take(parser, ':')) {
                return fail(parser, "a member's name is followed by ':'");
            }
        }
        struct json *value = parse_value(parser);
        if (value == NULL) {
            return NULL;
        }
        value->name = name;
        *last = value;
        last = &value->next;
    } while (take(parser, ','));
    return take(parser, close) ? container : fail(parser, object ? "',' or '}' is missing" : "',' or ']' is missing");
}

static struct json *parse_number(struct parser *parser)
{
    struct json *value = new_value(parser, JSON_NUMBER);
    bool negative = *parser->at == '-';
    parser->at += negative;
    unsigned digits = 0;
    int64_t number = 0;
    for (; parser->at < parser->end && *parser->at >= '0' && *parser->at <= '9' && digits < 16; parser->at++, digits++) {
        number = number * 10 + (*parser->at - '0');
    }
    bool more = parser->at < parser->end && strchr("0123456789.eE", *parser->at) != NULL && *parser->at != '\0';
    if (value == NULL || digits == 0 || more) {
        return fail(parser, "numbers are whole and have at most 16 digits");
    }
    value->number = negative ? -number : number;
    return value;
}

static struct json *parse_word(struct parser *parser)
{
    static const struct {
        const char *word;
        enum json_type type;
    } words[] = {{"null", JSON_NULL}, {"true", JSON_TRUE}, {"false", JSON_FALSE}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t len = strlen(words[i].word);
        if ((size_t)(parser->end - parser->at) >= len && memcmp(parser->at, words[i].word, len) == 0) {
            parser->at += len;
            return new_value(parser, words[i].type);
        }
    }
    return fail(parser, "a value is missing");
}

static struct json *parse_container(struct parser *parser, enum json_type type, char close)
{
    struct json *value = new_value(parser, type);
    if (value == NULL || ++parser->depth > JSON_DEPTH_MAX) {
        return fail(parser, "nested too deeply");
    }
    struct json *done = parse_members(parser, value, close);
    parser->depth--;
    return done;
}

static struct json *parse_value(struct parser *parser)
{
    if (take(parser, '{')) {
        return parse_container(parser, JSON_OBJECT, '}');
    }
    if (take(parser, '[')) {
        return parse_container(parser, JSON_ARRAY, ']');
    }
    if (take(parser, '"')) {
        struct json *value = new_value(parser, JSON_STRING);
        if (value != NULL && (value->text = take_string(parser)) == NULL) {
            return NULL;
        }
        return value;
    }
    if (parser->at == parser->end) {
        return fail(parser, "the file ends in the middle");
    }
    return *parser->at == '-' || (*parser->at >= '0' && *parser->at <= '9') ? parse_number(parser) : parse_word(parser);
}

static unsigned line_of(const char *original, size_t offset)
{
    unsigned line = 1;
    for (size_t i = 0; i < offset; i++) {
        line += original[i] == '\n';
    }
    return line;
}

struct json_document *json_parse(const char *text, size_t len, unsigned *line, const char **why)
{
    *line = 1;
    *why = "larger than 64 KiB";
    struct json_document *document = len > JSON_SIZE_MAX ? NULL : calloc(1, sizeof *document);
    if (document == NULL || (document->text = malloc(len + 1)) == NULL) {
        free(document);
        return NULL;
    }
    memcpy(document->text, text, len);
    document->text[len] = '\0';
    struct parser parser = {.document = document, .at = document->text, .end = document->text + len};
    const struct json *root = parse_value(&parser);
    skip_space(&parser);
    if (root != NULL && parser.at != parser.end) {
        fail(&parser, "something follows the value");
        root = NULL;
    }
    if (root == NULL) {
        *line = line_of(text, (size_t)(parser.at - document->text));
        *why = parser.why;
        json_free(document);
        return NULL;
    }
    return document;
}

const struct json *json_root(const struct json_document *document)
{
    return &document->values[0];
}

void json_free(struct json_document *document)
{
    if (document != NULL) {
        free(document->text);
        free(document);
    }
}

const struct json *json_member(const struct json *object, const char *name)
{
    if (object == NULL || object->type != JSON_OBJECT) {
        return NULL;
    }
    for (const struct json *member = object->child; member != NULL; member = member->next) {
        if (strcmp(member->name, name) == 0) {
            return member;
        }
    }
    return NULL;
}

const char *json_text(const struct json *object, const char *name, const char *otherwise)
{
    const struct json *member = json_member(object, name);
    return member != NULL && member->type == JSON_STRING ? member->text : otherwise;
}

bool json_flag(const struct json *object, const char *name, bool otherwise)
{
    const struct json *member = json_member(object, name);
    return member != NULL && (member->type == JSON_TRUE || member->type == JSON_FALSE) ? member->type == JSON_TRUE : otherwise;
}

int64_t json_number(const struct json *object, const char *name, int64_t otherwise)
{
    const struct json *member = json_member(object, name);
    return member != NULL && member->type == JSON_NUMBER ? member->number : otherwise;
}
