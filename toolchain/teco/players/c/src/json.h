/* A reader of JSON, as far as a manifest needs one: it keeps libteco free of dependencies. The text
 * comes from a file that anyone may have made, so nothing about it is trusted.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TECO_JSON_H
#define TECO_JSON_H

#include <stdbool.h>

typedef enum { JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT } json_kind;

typedef struct json {
    json_kind kind;
    char *key;          /* within an object, else NULL */
    char *text;         /* of a string */
    double number;      /* of a number; 1 for true */
    struct json *first; /* of an array or an object */
    struct json *next;
} json;

/* The value that a text holds, or NULL: no JSON, nested deeper than 32, or no memory. */
json *json_parse(const char *text);
void json_free(json *value);

/* A member of an object; NULL where there is none or value is no object (or NULL). */
const json *json_member(const json *object, const char *key);

/* The text of a string member, NULL where it is none. */
const char *json_string(const json *object, const char *key);

/* A whole number within the range of int into *out; false where the member is none. */
bool json_integer(const json *object, const char *key, int *out);

#endif
