/* SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L /* strdup */
#include "ort.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "library.h"

/* ONNX Runtime's C interface is a table of functions. Slots are only ever added at its end, so a
 * slot's place is its name. These are the ones used here, at the places they have had since 1.1
 * (counted in onnxruntime_c_api.h; the same order is in NativeMethods.shared.cs). check_table()
 * tries the table before it is relied on. */
enum {
    CREATE_STATUS = 0,
    GET_ERROR_CODE = 1,
    GET_ERROR_MESSAGE = 2,
    CREATE_ENV = 3,
    CREATE_SESSION = 7,
    RUN = 9,
    CREATE_SESSION_OPTIONS = 10,
    SET_SESSION_LOG_SEVERITY_LEVEL = 22,
    SET_INTRA_OP_NUM_THREADS = 24,
    SESSION_GET_INPUT_COUNT = 30,
    SESSION_GET_OUTPUT_COUNT = 31,
    SESSION_GET_INPUT_TYPE_INFO = 33,
    SESSION_GET_OUTPUT_TYPE_INFO = 34,
    SESSION_GET_INPUT_NAME = 36,
    SESSION_GET_OUTPUT_NAME = 37,
    CREATE_TENSOR_WITH_DATA = 49,
    CAST_TYPE_INFO_TO_TENSOR_INFO = 55,
    GET_TENSOR_ELEMENT_TYPE = 60,
    GET_DIMENSIONS_COUNT = 61,
    CREATE_CPU_MEMORY_INFO = 69,
    ALLOCATOR_FREE = 76,
    GET_ALLOCATOR_WITH_DEFAULT_OPTIONS = 78,
    RELEASE_ENV = 92,
    RELEASE_STATUS = 93,
    RELEASE_MEMORY_INFO = 94,
    RELEASE_SESSION = 95,
    RELEASE_VALUE = 96,
    RELEASE_TYPE_INFO = 98,
    RELEASE_SESSION_OPTIONS = 100,
    SESSION_GET_MODEL_METADATA = 111,
    MODEL_METADATA_LOOKUP = 116,
    RELEASE_MODEL_METADATA = 118,
    SLOTS_USED
};

#define API_VERSION 17 /* what GetApi is asked for: ONNX Runtime 1.17 and newer have it */

typedef void (*slot)(void);
typedef struct OrtStatus OrtStatus; /* NULL: it went well */

typedef struct {
    const slot *(*get_api)(uint32_t version);
    const char *(*get_version_string)(void);
} api_base;

/* Log levels, allocator kinds and element types of the C interface. */
enum { LOG_ERROR = 3, LOG_FATAL = 4 };
enum { DEVICE_ALLOCATOR = 0, MEMORY_DEFAULT = 0 };
enum { ELEMENT_FLOAT = 1, ELEMENT_UINT8 = 2 };
enum { CODE_INVALID_ARGUMENT = 2 };

struct ort {
    void *handle;
    char *path;
    char version[32];
    const slot *table;
    void *env, *session, *memory, *allocator;
};

/* Call a slot that gives an OrtStatus. Every argument must have the declared type already. */
#define CALL(o, place, types, ...) (((OrtStatus * (*)types)(o)->table[place])(__VA_ARGS__))

static void release(const ort *o, int place, void *thing) {
    if (thing) ((void (*)(void *))o->table[place])(thing);
}

/* Turn a failed status into ours, with ONNX Runtime's own words. */
static teco_status failed(const ort *o, OrtStatus *status, teco_status code, const char *what) {
    if (!status) return TECO_OK;
    const char *words = ((const char *(*)(const OrtStatus *))o->table[GET_ERROR_MESSAGE])(status);
    teco_fail(code, "%s: %.400s", what, words ? words : "no reason given");
    release(o, RELEASE_STATUS, status);
    return code;
}

/* That the table is laid out as we believe: a status goes in through the first slot, and comes back
 * whole through two others; the allocator slots find theirs. */
static teco_status check_table(ort *o) {
    static const char words[] = "teco asks whether it is understood";
    for (int i = 0; i < SLOTS_USED; i++)
        if (!o->table[i]) goto strange;
    OrtStatus *made = ((OrtStatus * (*)(int, const char *)) o->table[CREATE_STATUS])(
        CODE_INVALID_ARGUMENT, words);
    if (!made) goto strange;
    int code = ((int (*)(const OrtStatus *))o->table[GET_ERROR_CODE])(made);
    const char *back = ((const char *(*)(const OrtStatus *))o->table[GET_ERROR_MESSAGE])(made);
    int same = code == CODE_INVALID_ARGUMENT && back && !strcmp(back, words);
    release(o, RELEASE_STATUS, made);
    if (same) return TECO_OK;
strange:
    return teco_fail(
        TECO_ERROR_LIBRARY, "%s (ONNX Runtime %s) has another table of functions than expected", o->path,
        o->version);
}

static teco_status load(ort *o, const char *library) {
    teco_status status = library_open(library, &o->handle, &o->path);
    if (status) return status;
    if (!o->path) return teco_fail(TECO_ERROR_MEMORY, "out of memory");
    const api_base *(*get_base)(void);
    *(void **)&get_base = dlsym(o->handle, "OrtGetApiBase"); /* POSIX's own way */
    const api_base *base = get_base();
    if (!base) return teco_fail(TECO_ERROR_LIBRARY, "%s gives no interface", o->path);
    snprintf(o->version, sizeof o->version, "%s", base->get_version_string());
    unsigned major = 0, minor = 0;
    /* Older ones answer an unknown number with a line on stderr, so they are not asked. */
    if (sscanf(o->version, "%u.%u", &major, &minor) == 2 && major == 1 && minor >= API_VERSION)
        o->table = base->get_api(API_VERSION);
    if (!o->table)
        return teco_fail(
            TECO_ERROR_LIBRARY, "%s is ONNX Runtime %s, expected 1.%d or newer", o->path, o->version,
            API_VERSION);
    return check_table(o);
}

static teco_status make_session(ort *o, const char *model, int threads) {
    void *options = NULL;
    OrtStatus *bad = CALL(o, CREATE_ENV, (int, const char *, void **), LOG_FATAL, "teco", &o->env);
    if (!bad)
        bad = CALL(
            o, CREATE_CPU_MEMORY_INFO, (int, int, void **), DEVICE_ALLOCATOR, MEMORY_DEFAULT, &o->memory);
    if (!bad) bad = CALL(o, GET_ALLOCATOR_WITH_DEFAULT_OPTIONS, (void **), &o->allocator);
    if (!bad) bad = CALL(o, CREATE_SESSION_OPTIONS, (void **), &options);
    if (!bad) bad = CALL(o, SET_SESSION_LOG_SEVERITY_LEVEL, (void *, int), options, LOG_FATAL);
    if (!bad) bad = CALL(o, SET_INTRA_OP_NUM_THREADS, (void *, int), options, threads);
    teco_status status = failed(o, bad, TECO_ERROR_LIBRARY, "ONNX Runtime cannot be set up");
    if (!status) {
        bad = CALL(
            o, CREATE_SESSION, (void *, const char *, void *, void **), o->env, model, options,
            &o->session);
        status = failed(o, bad, TECO_ERROR_MODEL, "the model cannot be loaded");
    }
    release(o, RELEASE_SESSION_OPTIONS, options);
    return status;
}

static teco_status read_manifest(ort *o, const char *model, char **manifest) {
    void *metadata = NULL;
    char *text = NULL;
    OrtStatus *bad = CALL(o, SESSION_GET_MODEL_METADATA, (void *, void **), o->session, &metadata);
    if (!bad)
        bad = CALL(
            o, MODEL_METADATA_LOOKUP, (void *, void *, const char *, char **), metadata, o->allocator,
            METADATA_KEY, &text);
    teco_status status = failed(o, bad, TECO_ERROR_MODEL, "the model's metadata cannot be read");
    if (!status && !text)
        status = teco_fail(
            TECO_ERROR_CONTRACT,
            "%s was not exported by teco: it has no manifest inside, so nothing says what its inputs "
            "are; export from the weights with `teco export`",
            model);
    if (!status && !(*manifest = strdup(text))) status = teco_fail(TECO_ERROR_MEMORY, "out of memory");
    if (text) bad = CALL(o, ALLOCATOR_FREE, (void *, void *), o->allocator, text);
    release(o, RELEASE_MODEL_METADATA, metadata);
    return status;
}

teco_status ort_open(
    ort **out, const char *library, const char *model, int threads, char **manifest) {
    *manifest = NULL;
    ort *o = *out = calloc(1, sizeof *o);
    if (!o) return teco_fail(TECO_ERROR_MEMORY, "out of memory");
    teco_status status = load(o, library);
    if (!status) status = make_session(o, model, threads);
    if (!status) status = read_manifest(o, model, manifest);
    if (status) {
        ort_close(o);
        *out = NULL;
    }
    return status;
}

/* Find a port by name among the session's and compare its type and rank. */
static teco_status check_port(ort *o, const port *p, int is_output, const char *model) {
    size_t count = 0;
    int count_slot = is_output ? SESSION_GET_OUTPUT_COUNT : SESSION_GET_INPUT_COUNT;
    int name_slot = is_output ? SESSION_GET_OUTPUT_NAME : SESSION_GET_INPUT_NAME;
    int type_slot = is_output ? SESSION_GET_OUTPUT_TYPE_INFO : SESSION_GET_INPUT_TYPE_INFO;
    OrtStatus *bad = CALL(o, count_slot, (void *, size_t *), o->session, &count);
    int type = 0, found = 0;
    size_t rank = 0;
    for (size_t i = 0; i < count && !bad && !found; i++) {
        char *name = NULL;
        bad = CALL(
            o, name_slot, (void *, size_t, void *, char **), o->session, i, o->allocator, &name);
        if (bad) break;
        found = !strcmp(name, p->name);
        bad = CALL(o, ALLOCATOR_FREE, (void *, void *), o->allocator, name);
        if (!found || bad) continue;
        void *info = NULL;
        const void *tensor = NULL; /* a view of info */
        bad = CALL(o, type_slot, (void *, size_t, void **), o->session, i, &info);
        if (!bad) bad = CALL(o, CAST_TYPE_INFO_TO_TENSOR_INFO, (const void *, const void **), info, &tensor);
        if (!bad && tensor) {
            bad = CALL(o, GET_TENSOR_ELEMENT_TYPE, (const void *, int *), tensor, &type);
            if (!bad) bad = CALL(o, GET_DIMENSIONS_COUNT, (const void *, size_t *), tensor, &rank);
        }
        release(o, RELEASE_TYPE_INFO, info);
    }
    if (bad) return failed(o, bad, TECO_ERROR_MODEL, "the model's ports cannot be read");
    if (found && type == (p->type == UINT8 ? ELEMENT_UINT8 : ELEMENT_FLOAT) && rank == (size_t)p->rank)
        return TECO_OK;
    return teco_fail(
        TECO_ERROR_CONTRACT, "%s has no %s %s of the type and rank that its manifest says", model,
        is_output ? "output" : "input", p->name);
}

teco_status ort_check_ports(ort *o, const contract *c, const char *model) {
    teco_status status = check_port(o, &c->frame, 0, model);
    for (int i = 0; i < c->state_count && !status; i++)
        status = check_port(o, &c->states[i].input, 0, model);
    for (int i = 0; i < c->output_count && !status; i++)
        status = check_port(o, &c->outputs[i], 1, model);
    size_t inputs = 0;
    OrtStatus *bad = CALL(o, SESSION_GET_INPUT_COUNT, (void *, size_t *), o->session, &inputs);
    if (bad) return failed(o, bad, TECO_ERROR_MODEL, "the model's ports cannot be read");
    if (!status && inputs != (size_t)c->state_count + 1)
        status = teco_fail(
            TECO_ERROR_CONTRACT, "%s has %zu inputs, its manifest says %d", model, inputs,
            c->state_count + 1);
    return status;
}

teco_status ort_tensor(
    ort *o, void *data, size_t bytes, element type, const int64_t *dimensions, int rank,
    ort_value **out) {
    OrtStatus *bad = CALL(
        o, CREATE_TENSOR_WITH_DATA,
        (const void *, void *, size_t, const int64_t *, size_t, int, ort_value **), o->memory, data, bytes,
        dimensions, (size_t)rank, type == UINT8 ? ELEMENT_UINT8 : ELEMENT_FLOAT, out);
    return failed(o, bad, TECO_ERROR_MEMORY, "a tensor cannot be made");
}

void ort_release(ort *o, ort_value *value) { release(o, RELEASE_VALUE, value); }

teco_status ort_run(
    ort *o, const char *const *input_names, const ort_value *const *inputs, size_t input_count,
    const char *const *output_names, size_t output_count, ort_value **outputs) {
    OrtStatus *bad = CALL(
        o, RUN,
        (void *, const void *, const char *const *, const ort_value *const *, size_t, const char *const *,
         size_t, ort_value **),
        o->session, NULL, input_names, inputs, input_count, output_names, output_count, outputs);
    return failed(o, bad, TECO_ERROR_RUN, "the step failed");
}

const char *ort_version(const ort *o) { return o->version; }
const char *ort_library(const ort *o) { return o->path; }

void ort_close(ort *o) {
    if (!o) return;
    if (o->table) {
        release(o, RELEASE_SESSION, o->session);
        release(o, RELEASE_MEMORY_INFO, o->memory);
        release(o, RELEASE_ENV, o->env);
    }
    if (o->handle) dlclose(o->handle);
    free(o->path);
    free(o);
}
