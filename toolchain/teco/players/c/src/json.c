/* SPDX-License-Identifier: Apache-2.0 */
#include "json.h"

#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define DEEPEST 32

static json *value(const char **at, int depth);

static void space(const char **at) { *at += strspn(*at, " \t\r\n"); }

static bool word(const char **at, const char *expected) {
    size_t n = strlen(expected);
    if (strncmp(*at, expected, n)) return false;
    *at += n;
    return true;
}

static int hex4(const char *s) {
    int code = 0;
    for (int i = 0; i < 4; i++) {
        char c = s[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) return -1;
        code = code * 16 + digit;
    }
    return code;
}

/* One character of the basic plane as UTF-8; halves of a pair become the replacement character. */
static char *utf8(char *out, int code) {
    if (code >= 0xd800 && code < 0xe000) code = 0xfffd;
    if (code < 0x80) {
        *out++ = (char)code;
    } else if (code < 0x800) {
        *out++ = (char)(0xc0 | code >> 6);
        *out++ = (char)(0x80 | (code & 0x3f));
    } else {
        *out++ = (char)(0xe0 | code >> 12);
        *out++ = (char)(0x80 | (code >> 6 & 0x3f));
        *out++ = (char)(0x80 | (code & 0x3f));
    }
    return out;
}

/* A string after its opening quote; NULL where it is none. The result is never longer. */
static char *string(const char **at) {
    const char *end = *at;
    for (; *end != '"'; end++) {
        if ((unsigned char)*end < 0x20) return NULL; /* the end of the text included */
        if (*end == '\\' && !*++end) return NULL;
    }
    char *text = malloc((size_t)(end - *at) + 1), *out = text;
    if (!text) return NULL;
    for (const char *s = *at; s < end; s++) {
        if (*s != '\\') {
            *out++ = *s;
            continue;
        }
        static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
        const char *simple = strchr(from, *++s);
        int code = -1;
        if (simple) {
            *out++ = to[simple - from];
        } else if (*s == 'u' && end - s > 4 && (code = hex4(s + 1)) > 0) {
            out = utf8(out, code);
            s += 4;
        } else {
            free(text);
            return NULL;
        }
    }
    *out = '\0';
    *at = end + 1;
    return text;
}

static bool number(const char **at, double *out) {
    const char *s = *at + (**at == '-');
    if (*s < '0' || *s > '9') return false;
    size_t n = strspn(s, "0123456789.eE+-") + (size_t)(s - *at);
    char copy[64], *end;
    if (n >= sizeof copy) return false;
    memcpy(copy, *at, n);
    copy[n] = '\0';
    /* The host may have set a locale in which strtod expects a comma. */
    char *point = strchr(copy, '.');
    *out = strtod(copy, &end);
    if (*end && end == point) {
        *point = ',';
        *out = strtod(copy, &end);
    }
    *at += n;
    return !*end;
}

/* Members until the closing bracket. */
static bool members(const char **at, json *into, char close, int depth) {
    json **last = &into->first;
    space(at);
    if (**at == close) return (*at)++, true;
    for (;;) {
        char *key = NULL;
        if (into->kind == JSON_OBJECT) {
            space(at);
            if (!word(at, "\"") || !(key = string(at))) return false;
            space(at);
            if (!word(at, ":")) return free(key), false;
        }
        json *member = value(at, depth + 1);
        if (!member) return free(key), false;
        member->key = key;
        *last = member;
        last = &member->next;
        space(at);
        if (**at == close) return (*at)++, true;
        if (!word(at, ",")) return false;
    }
}

static json *value(const char **at, int depth) {
    json *v = depth > DEEPEST ? NULL : calloc(1, sizeof *v);
    if (!v) return NULL;
    bool good = true;
    space(at);
    if (word(at, "null")) {
        v->kind = JSON_NULL;
    } else if (word(at, "true") || word(at, "false")) {
        v->kind = JSON_BOOL;
        v->number = (*at)[-2] == 'u';
    } else if (word(at, "\"")) {
        v->kind = JSON_STRING;
        good = (v->text = string(at)) != NULL;
    } else if (word(at, "[")) {
        v->kind = JSON_ARRAY;
        good = members(at, v, ']', depth);
    } else if (word(at, "{")) {
        v->kind = JSON_OBJECT;
        good = members(at, v, '}', depth);
    } else {
        v->kind = JSON_NUMBER;
        good = number(at, &v->number);
    }
    if (good) return v;
    json_free(v);
    return NULL;
}

json *json_parse(const char *text) {
    json *v = value(&text, 0);
    space(&text);
    if (!*text) return v;
    json_free(v);
    return NULL;
}

void json_free(json *v) {
    while (v) {
        json *next = v->next;
        json_free(v->first);
        free(v->key);
        free(v->text);
        free(v);
        v = next;
    }
}

const json *json_member(const json *object, const char *key) {
    if (!object || object->kind != JSON_OBJECT) return NULL;
    for (const json *m = object->first; m; m = m->next)
        if (!strcmp(m->key, key)) return m;
    return NULL;
}

const char *json_string(const json *object, const char *key) {
    const json *m = json_member(object, key);
    return m && m->kind == JSON_STRING ? m->text : NULL;
}

bool json_integer(const json *object, const char *key, int *out) {
    const json *m = json_member(object, key);
    if (!m || m->kind != JSON_NUMBER || m->number != floor(m->number)) return false;
    if (fabs(m->number) > INT_MAX) return false;
    *out = (int)m->number;
    return true;
}
