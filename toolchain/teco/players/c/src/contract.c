/* SPDX-License-Identifier: Apache-2.0 */
#include "contract.h"

#include <stdio.h>
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

static bool take_type(element *out, const char *name) {
    if (name && strcmp(name, "float32") && strcmp(name, "uint8")) return false;
    *out = name && !strcmp(name, "uint8") ? UINT8 : FLOAT32; /* what is not said is float32 */
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
    const char *source = json_string(s, "source");
    const json *shape = json_member(s, "shape");
    if (c->state_count == MAX_STATES || !shape || shape->kind != JSON_ARRAY) return false;
    state *into = &c->states[c->state_count];
    port *p = &into->input;
    if (!take_name(p->name, json_string(s, "input"))) return false;
    if (!take_type(&p->type, json_string(s, "dtype"))) return false;
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
            if (!take_name(fresh.name, source)) return false;
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

/* What is wrong with it, or NULL. */
static const char *read_contract(contract *c, const json *j) {
    if (!take_name(c->frame.name, json_string(j, "frame"))) return "frame";
    if (!take_name(c->outputs[0].name, json_string(j, "picture"))) return "picture";
    c->output_count = 1;
    if (!take_type(&c->frame.type, json_string(j, "dtype"))) return "dtype";
    c->outputs[0].type = c->frame.type;
    const char *layout = json_string(j, "layout");
    bool pictures = c->frame.type == UINT8;
    if (strcmp(layout ? layout : "NCHW", pictures ? "NHWC" : "NCHW")) return "layout";
    if (!json_integer(j, "scale", &c->scale) || c->scale < 1 || c->scale > 16) return "scale";
    if (!json_integer(j, "minimum", &c->minimum) || c->minimum < 1) return "minimum";
    if (!json_integer(j, "multiple_of", &c->multiple_of) || c->multiple_of < 1) return "multiple_of";
    if (!says(j, "colour", "RGB")) return "colour";
    if (!read_range(json_member(j, "range"), pictures ? 255 : 1)) return "range";
    int warm_up;
    if (!json_integer(j, "warm_up", &warm_up) || warm_up) return "warm_up";
    picture_shape(&c->frame, 1, pictures);
    picture_shape(&c->outputs[0], c->scale, pictures);
    const json *states = json_member(j, "states");
    if (!states || states->kind != JSON_ARRAY) return "states";
    for (const json *s = states->first; s; s = s->next)
        if (!read_state(c, s)) return "states";
    const char *check = json_string(j, "check");
    c->check = -1;
    if ((check && *check) != pictures) return "check";
    if (pictures) {
        port *p = &c->outputs[c->check = c->output_count++];
        if (!take_name(p->name, check)) return "check";
        p->shape[0] = (extent){1, 0, 0};
        p->rank = 1;
    }
    return NULL;
}

teco_status contract_read(contract *c, const char *manifest, const char *model) {
    memset(c, 0, sizeof *c);
    json *root = json_parse(manifest);
    teco_status status = TECO_OK;
    const char *wrong = NULL, *size;
    int schema;
    char end;
    if (!json_integer(root, "schema", &schema) || !take_name(c->variant, json_string(root, "variant")))
        status = teco_fail(TECO_ERROR_CONTRACT, "the manifest inside %s is damaged" AGAIN, model);
    else if (schema != SCHEMA)
        status = teco_fail(
            TECO_ERROR_CONTRACT, "%s has manifest schema %d, this libteco reads %d" AGAIN, model,
            schema, SCHEMA);
    else if ((wrong = read_contract(c, json_member(root, "contract"))))
        status = teco_fail(
            TECO_ERROR_CONTRACT,
            "the stream contract of %s has a %s that libteco " TECO_VERSION
            " cannot drive (it drives RGB with float32 or uint8 ports)" AGAIN,
            model, wrong);
    else if (!(size = json_string(root, "size")) ||
             (strcmp(size, "dynamic") &&
              (sscanf(size, "%dx%d%c", &c->height, &c->width, &end) != 2 || c->height < c->minimum ||
               c->width < c->minimum)))
        status = teco_fail(TECO_ERROR_CONTRACT, "the size in the manifest of %s is damaged" AGAIN, model);
    json_free(root);
    return status;
}

teco_status contract_check_size(const contract *c, int width, int height) {
    if (width < c->minimum || height < c->minimum)
        return teco_fail(
            TECO_ERROR_SIZE,
            "a picture of %dx%d (width x height) is too small; the network needs at least %dx%d", width,
            height, c->minimum, c->minimum);
    if (width % c->multiple_of || height % c->multiple_of)
        return teco_fail(
            TECO_ERROR_SIZE, "a picture is %dx%d (width x height), expected multiples of %d", width,
            height, c->multiple_of);
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
