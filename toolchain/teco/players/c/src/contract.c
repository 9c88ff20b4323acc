/* SPDX-License-Identifier: Apache-2.0 */
#include "contract.h"

#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "json.h"

#define AGAIN "; make it again with `teco export`"

static bool take_name(char *out, const char *name) {
    if (!name || !*name || strlen(name) >= MAX_NAME) return false;
    strcpy(out, name);
    return true;
}

/* A string member, or what it is where it is not said; NULL where it is no string. */
static const char *text_or(const json *object, const char *key, const char *usual) {
    return json_member(object, key) ? json_string(object, key) : usual;
}

static bool take_type(element *out, const json *object) {
    const char *name = text_or(object, "dtype", "float32");
    if (!name || (strcmp(name, "float32") && strcmp(name, "uint8"))) return false;
    *out = strcmp(name, "uint8") ? FLOAT32 : UINT8;
    return true;
}

/* Whether every member is one of these names, which end with NULL. */
static bool knows_all(const json *object, const char *const *names) {
    for (const json *m = object ? object->first : NULL; m; m = m->next) {
        const char *const *name = names;
        while (*name && strcmp(*name, m->key)) name++;
        if (!*name) return false;
    }
    return true;
}

/* A product of numbers, h and w. */
static bool take_extent(extent *out, const char *s) {
    *out = (extent){1, 0, 0};
    if (!s) return false;
    for (;;) {
        if (*s == 'h') {
            out->high++, s++;
        } else if (*s == 'w') {
            out->wide++, s++;
        } else if (*s >= '1' && *s <= '9') {
            long n = strtol(s, (char **)&s, 10);
            if (n > 1 << 20 || (n *= out->factor) > 1 << 20) return false;
            out->factor = (int)n;
        } else {
            return false;
        }
        if (!*s) return out->high + out->wide <= 2;
        if (*s++ != '*') return false;
    }
}

/* A picture's shape, scaled. */
static void picture_shape(port *p, int scale, bool last_channels) {
    extent one = {1, 0, 0}, three = {3, 0, 0}, high = {scale, 1, 0}, wide = {scale, 0, 1};
    p->rank = 4;
    p->shape[0] = one;
    p->shape[1] = last_channels ? high : three;
    p->shape[2] = last_channels ? wide : high;
    p->shape[3] = last_channels ? three : wide;
}

static bool says(const json *object, const char *key, const char *expected) {
    const char *text = json_string(object, key);
    return text && !strcmp(text, expected);
}

static int find_output(const contract *c, const char *name) {
    for (int i = 0; i < c->output_count; i++)
        if (!strcmp(c->outputs[i].name, name)) return i;
    return -1;
}

static bool read_state(contract *c, const json *s) {
    static const char *const known[] = {"input", "source", "shape", "zero", "dtype", NULL};
    const char *source = json_string(s, "source");
    const json *shape = json_member(s, "shape");
    if (s->kind != JSON_OBJECT || !knows_all(s, known)) return false;
    if (c->state_count == MAX_STATES || !shape || shape->kind != JSON_ARRAY) return false;
    state *into = &c->states[c->state_count];
    port *p = &into->input;
    if (!take_name(p->name, json_string(s, "input"))) return false;
    if (!take_type(&p->type, s)) return false;
    if (!strcmp(p->name, c->frame.name) || !strcmp(p->name, c->outputs[0].name)) return false;
    for (int i = 0; i < c->state_count; i++)
        if (!strcmp(p->name, c->states[i].input.name)) return false;
    for (const json *e = shape->first; e; e = e->next) {
        if (p->rank == 4 || e->kind != JSON_STRING) return false;
        if (!take_extent(&p->shape[p->rank++], e->text)) return false;
    }
    if (p->rank != 4 || !source) return false;
    const port *from = &c->frame;
    into->source = FROM_FRAME;
    if (strcmp(source, c->frame.name)) {
        into->source = find_output(c, source);
        if (into->source < 0) {
            port fresh = *p;
            if (fresh.type != FLOAT32 || !take_name(fresh.name, source)) return false;
            into->source = c->output_count;
            c->outputs[c->output_count++] = fresh; /* room: at most one each, beside the picture */
        }
        from = &c->outputs[into->source];
    }
    /* What it is taken from must fit, since the bytes go over as they are. */
    if (from->type != p->type || memcmp(from->shape, p->shape, sizeof p->shape)) return false;
    c->state_count++;
    return true;
}

static bool read_range(const json *range, double white) {
    const json *low = range && range->kind == JSON_ARRAY ? range->first : NULL;
    return low && low->kind == JSON_NUMBER && low->number == 0 && low->next &&
           low->next->kind == JSON_NUMBER && low->next->number == white && !low->next->next;
}

/* Whether there is such a member, and something in it. */
static bool has_any(const json *object, const char *key) {
    const json *found = json_member(object, key);
    return found && (found->kind != JSON_ARRAY || found->first);
}

static bool integer_is(const json *object, const char *key, int expected) {
    int found;
    return json_integer(object, key, &found) && found == expected;
}

/* What is wrong with it, or NULL. */
static const char *read_contract(contract *c, const json *j) {
    static const char *const known[] = {
        "frame", "picture", "states", "scale", "reset", "warm_up", "multiple_of", "minimum", "colour",
        "range", "dtype", "layout", "check", "chroma", "conversion", NULL};
    if (!j || j->kind != JSON_OBJECT) return "form";
    if (!knows_all(j, known)) return "field";
    if (!take_name(c->frame.name, json_string(j, "frame"))) return "frame";
    if (!take_name(c->outputs[0].name, json_string(j, "picture"))) return "picture";
    if (!strcmp(c->outputs[0].name, c->frame.name)) return "picture";
    c->output_count = 1;
    if (!take_type(&c->frame.type, j)) return "dtype";
    c->outputs[0].type = c->frame.type;
    const char *layout = text_or(j, "layout", "NCHW");
    bool pictures = c->frame.type == UINT8;
    if (!layout || strcmp(layout, pictures ? "NHWC" : "NCHW")) return "layout";
    if (has_any(j, "chroma") || has_any(j, "conversion")) return "chroma or conversion";
    if (!json_integer(j, "scale", &c->scale) || (c->scale != 2 && c->scale != 4)) return "scale";
    if (!integer_is(j, "minimum", MINIMUM)) return "minimum";
    if (!integer_is(j, "multiple_of", 1)) return "multiple_of";
    if (!says(j, "colour", "RGB")) return "colour";
    if (!read_range(json_member(j, "range"), pictures ? 255 : 1)) return "range";
    if (!integer_is(j, "warm_up", 0)) return "warm_up"; /* frames that are run and not shown */
    picture_shape(&c->frame, 1, pictures);
    picture_shape(&c->outputs[0], c->scale, pictures);
    const json *states = json_member(j, "states");
    if (!states || states->kind != JSON_ARRAY) return "states";
    for (const json *s = states->first; s; s = s->next)
        if (!read_state(c, s)) return "states";
    for (int i = 0; i < c->state_count; i++) /* of the graph's inputs, the frame alone is kept */
        if (find_output(c, c->states[i].input.name) >= 0) return "states";
    const char *check = text_or(j, "check", "");
    c->check = -1;
    if (!check || !!*check != pictures) return "check";
    if (pictures) {
        for (int i = 0; i < c->state_count; i++)
            if (!strcmp(check, c->states[i].input.name)) return "check";
        if (!strcmp(check, c->frame.name) || find_output(c, check) >= 0) return "check";
        port *p = &c->outputs[c->check = c->output_count++];
        if (!take_name(p->name, check)) return "check";
        p->shape[0] = (extent){1, 0, 0};
        p->rank = 1;
    }
    return NULL;
}

/* "dynamic", or height and width in at most five digits each. */
static bool read_size(contract *c, const char *size) {
    if (!size || !strcmp(size, "dynamic")) return size;
    const char *digits = "0123456789";
    size_t high = strspn(size, digits), wide = size[high] ? strspn(size + high + 1, digits) : 0;
    if (high > 5 || size[high] != 'x' || wide > 5 || size[high + 1 + wide]) return false;
    c->height = atoi(size);
    c->width = atoi(size + high + 1);
    return c->height >= MINIMUM && c->width >= MINIMUM;
}

teco_status contract_read(contract *c, const char *manifest, const char *model) {
    memset(c, 0, sizeof *c);
    json *root = json_parse(manifest);
    teco_status status = TECO_OK;
    const char *wrong = NULL;
    int schema = 0;
    if (!root)
        status = teco_fail(TECO_ERROR_CONTRACT, "the manifest inside %s is damaged" AGAIN, model);
    else if (!json_integer(root, "schema", &schema) || schema != SCHEMA)
        status = teco_fail(
            TECO_ERROR_CONTRACT, "%s has manifest schema %d, this libteco reads %d" AGAIN, model,
            schema, SCHEMA);
    else if (!take_name(c->variant, json_string(root, "variant")))
        status = teco_fail(TECO_ERROR_CONTRACT, "the manifest inside %s names no variant" AGAIN, model);
    else if ((wrong = read_contract(c, json_member(root, "contract"))))
        status = teco_fail(
            TECO_ERROR_CONTRACT,
            "the stream contract of %s has a %s that libteco " TECO_VERSION
            " cannot drive (it drives RGB with float32 or uint8 ports, and shows every frame)" AGAIN,
            model, wrong);
    else if (!read_size(c, json_string(root, "size")))
        status = teco_fail(TECO_ERROR_CONTRACT, "the size in the manifest of %s is damaged" AGAIN, model);
    json_free(root);
    return status;
}

teco_status contract_check_size(const contract *c, int width, int height) {
    if (width < MINIMUM || height < MINIMUM)
        return teco_fail(
            TECO_ERROR_SIZE,
            "a picture of %dx%d (width x height) is too small; the network needs at least %dx%d", width,
            height, MINIMUM, MINIMUM);
    if (c->width && (width != c->width || height != c->height))
        return teco_fail(
            TECO_ERROR_SIZE,
            "the model was exported for %dx%d pictures (width x height), these are %dx%d; export one "
            "with `teco export --size %dx%d` or --size dynamic",
            c->width, c->height, width, height, height, width);
    return TECO_OK;
}

bool port_shape(const port *p, int width, int height, int64_t dimensions[4], size_t *bytes) {
    uint64_t total = p->type == UINT8 ? 1 : sizeof(float);
    const uint64_t most = (uint64_t)PTRDIFF_MAX;
    for (int i = 0; i < p->rank; i++) {
        uint64_t n = (uint64_t)p->shape[i].factor;
        for (int k = 0; k < p->shape[i].high; k++)
            if ((n *= (uint64_t)height) > INT32_MAX) return false;
        for (int k = 0; k < p->shape[i].wide; k++)
            if ((n *= (uint64_t)width) > INT32_MAX) return false;
        if (total > most / n) return false;
        total *= n;
        dimensions[i] = (int64_t)n;
    }
    *bytes = (size_t)total;
    return true;
}
