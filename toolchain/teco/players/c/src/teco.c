/* The calls of teco.h: what is remembered between two pictures, and how a step is run.
 * SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE /* sched_getaffinity */
#include "teco.h"

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "contract.h"
#include "error.h"
#include "ort.h"
#include "pixels.h"
#include "scenecut.h"

#define MOST_THREADS 1024

typedef struct {
    void *data;
    size_t bytes;
    ort_value *value;
} tensor;

/* Every tensor that outlives a step exists twice and steps take turns: what one step wrote is what
 * the next one reads, and nothing is copied to become state. */
typedef tensor pair[2];

struct teco {
    pthread_mutex_t lock;
    ort *runtime;
    contract contract;
    pair frame, outputs[MAX_OUTPUTS];
    uint8_t *lr, *seen, *hr; /* packed RGB: the picture, the one before it, what is made of it */
    int width, height;       /* that these are for; 0: none */
    int turn;
    bool in_scene; /* the past's side holds the past, not anything */
    bool has_seen;
    const uint8_t *shown; /* what was given out for seen; NULL where nothing was */
    bool scene_cuts;
    scenecut detector;
    uint64_t frames, scenes, repeats;
};

const char *teco_version(void) { return TECO_VERSION; }

void teco_options_init(teco_options *options) {
    if (!options) return;
    *options = (teco_options){.size = sizeof *options, .threads = 0, .scene_cuts = 1, .library = NULL};
}

static int usable_cores(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
}

teco_status teco_open(const char *model, const teco_options *options, teco **out) {
    if (!out) return teco_fail(TECO_ERROR_ARGUMENT, "out is NULL");
    *out = NULL;
    teco_options o;
    teco_options_init(&o);
    if (options && options->size != sizeof o)
        return teco_fail(
            TECO_ERROR_ARGUMENT, "the options' size is %zu, expected %zu; call teco_options_init first",
            options->size, sizeof o);
    if (options) o = *options;
    if (!model || !*model) return teco_fail(TECO_ERROR_ARGUMENT, "no model is named");
    if (o.threads < 0 || o.threads > MOST_THREADS)
        return teco_fail(
            TECO_ERROR_ARGUMENT, "threads is %d, expected 0 to %d", o.threads, MOST_THREADS);
    teco *t = calloc(1, sizeof *t);
    if (!t) return teco_fail(TECO_ERROR_MEMORY, "out of memory");
    pthread_mutex_init(&t->lock, NULL);
    t->scene_cuts = o.scene_cuts != 0;
    scenecut_reset(&t->detector);
    char *manifest = NULL;
    teco_status status =
        ort_open(&t->runtime, o.library, model, o.threads ? o.threads : usable_cores(), &manifest);
    if (!status) status = contract_read(&t->contract, manifest, model);
    if (!status) status = ort_check_ports(t->runtime, &t->contract, model);
    free(manifest);
    if (status)
        teco_close(t);
    else
        *out = t;
    return status;
}

/* --- memory ---------------------------------------------------------------------------------- */

static void free_pair(teco *t, pair p) {
    for (int side = 0; side < 2; side++) {
        ort_release(t->runtime, p[side].value);
        free(p[side].data);
        p[side] = (tensor){0};
    }
}

static teco_status make_pair(teco *t, pair p, const port *of) {
    int64_t dimensions[4];
    size_t bytes;
    if (!port_shape(of, t->width, t->height, dimensions, &bytes))
        return teco_fail(TECO_ERROR_SIZE, "a picture of %dx%d is too large", t->width, t->height);
    for (int side = 0; side < 2; side++) {
        p[side].bytes = bytes;
        if (posix_memalign(&p[side].data, 64, bytes)) {
            p[side].data = NULL;
            return teco_fail(
                TECO_ERROR_MEMORY, "%zu bytes for a picture of %dx%d could not be had", bytes, t->width,
                t->height);
        }
        teco_status status = ort_tensor(
            t->runtime, p[side].data, bytes, of->type, dimensions, of->rank, &p[side].value);
        if (status) return status;
    }
    return TECO_OK;
}

static void free_buffers(teco *t) {
    if (t->runtime) {
        free_pair(t, t->frame);
        for (int i = 0; i < MAX_OUTPUTS; i++) free_pair(t, t->outputs[i]);
    }
    free(t->lr);
    free(t->seen);
    free(t->hr);
    t->lr = t->seen = t->hr = NULL;
    t->shown = NULL;
    t->width = t->height = 0;
    t->in_scene = t->has_seen = false;
}

static teco_status resize(teco *t, int width, int height) {
    if (width == t->width && height == t->height) return TECO_OK;
    free_buffers(t);
    t->width = width;
    t->height = height;
    const contract *c = &t->contract;
    teco_status status = make_pair(t, t->frame, &c->frame);
    for (int i = 0; i < c->output_count && !status; i++)
        status = make_pair(t, t->outputs[i], &c->outputs[i]);
    if (!status) {
        /* No overflow: the tensors, as large, could be had. */
        const size_t size = (size_t)width * (size_t)height * 3;
        t->lr = malloc(size);
        t->seen = malloc(size);
        t->hr = malloc(size * (size_t)(c->scale * c->scale));
        if (!t->lr || !t->seen || !t->hr) status = teco_fail(TECO_ERROR_MEMORY, "out of memory");
    }
    if (status) free_buffers(t);
    return status;
}

/* --- a step ---------------------------------------------------------------------------------- */

static tensor *source_of(teco *t, const state *s, int side) {
    return s->source == FROM_FRAME ? &t->frame[side] : &t->outputs[s->source][side];
}

/* The state of a scene's start: zeros, whatever the contract says they mean. */
static void forget(teco *t) {
    for (int i = 0; i < t->contract.state_count; i++) {
        tensor *past = source_of(t, &t->contract.states[i], 1 - t->turn);
        memset(past->data, 0, past->bytes);
    }
}

static teco_status run(teco *t) {
    const contract *c = &t->contract;
    const char *input_names[MAX_STATES + 1] = {c->frame.name}, *output_names[MAX_OUTPUTS];
    const ort_value *inputs[MAX_STATES + 1] = {t->frame[t->turn].value};
    ort_value *outputs[MAX_OUTPUTS];
    for (int i = 0; i < c->state_count; i++) {
        input_names[i + 1] = c->states[i].input.name;
        inputs[i + 1] = source_of(t, &c->states[i], 1 - t->turn)->value;
    }
    for (int i = 0; i < c->output_count; i++) {
        output_names[i] = c->outputs[i].name;
        outputs[i] = t->outputs[i][t->turn].value;
    }
    return ort_run(
        t->runtime, input_names, inputs, (size_t)c->state_count + 1, output_names,
        (size_t)c->output_count, outputs);
}

/* The packed RGB picture that the last run made, NULL where it is not finite. */
static const uint8_t *picture(teco *t) {
    const contract *c = &t->contract;
    const void *made = t->outputs[0][t->turn].data;
    if (c->frame.type == UINT8)
        return isfinite(*(const float *)t->outputs[c->check][t->turn].data) ? made : NULL;
    return pixels_from_planes(made, t->hr, t->width * c->scale, t->height * c->scale) ? t->hr : NULL;
}

static void give(teco *t, const teco_image *in, const teco_image *out) {
    pixels_from_rgb(t->shown, out, in->format == TECO_RGBA ? in : NULL, t->contract.scale);
    t->frames++;
}

static teco_status check_image(const teco_image *image, const char *name) {
    if (!image) return teco_fail(TECO_ERROR_ARGUMENT, "%s is NULL", name);
    if (image->format != TECO_RGB && image->format != TECO_RGBA && image->format != TECO_NV12)
        return teco_fail(
            TECO_ERROR_ARGUMENT, "the format of %s is %d, expected TECO_RGB, TECO_RGBA or TECO_NV12", name,
            (int)image->format);
    if (image->width < 1 || image->height < 1)
        return teco_fail(
            TECO_ERROR_SIZE, "%s is %dx%d (width x height)", name, image->width, image->height);
    const bool nv12 = image->format == TECO_NV12;
    if (nv12 && ((unsigned)image->matrix > TECO_BT2020 || (unsigned)image->range > TECO_FULL))
        return teco_fail(
            TECO_ERROR_ARGUMENT, "%s has matrix %d and range %d, which are not of teco.h", name,
            (int)image->matrix, (int)image->range);
    for (int plane = 0; plane < 1 + nv12; plane++) {
        const ptrdiff_t stride = image->stride[plane], width = image->width;
        const ptrdiff_t least = nv12 ? (plane ? width + width % 2 : width)
                                     : width * (image->format == TECO_RGBA ? 4 : 3);
        if (!image->plane[plane])
            return teco_fail(TECO_ERROR_ARGUMENT, "plane %d of %s is NULL", plane, name);
        if (stride < least && -stride < least)
            return teco_fail(
                TECO_ERROR_ARGUMENT, "the stride of plane %d of %s is %td, a row has %td bytes", plane,
                name, stride, least);
    }
    return TECO_OK;
}

static teco_status step(teco *t, const teco_image *in, const teco_image *out) {
    const contract *c = &t->contract;
    teco_status status = contract_check_size(c, in->width, in->height);
    if (status) return status;
    if (out->width != (int64_t)in->width * c->scale || out->height != (int64_t)in->height * c->scale)
        return teco_fail(
            TECO_ERROR_SIZE, "out is %dx%d for a picture of %dx%d (width x height), expected %d times that",
            out->width, out->height, in->width, in->height, c->scale);
    if ((status = resize(t, in->width, in->height))) return status;
    pixels_to_rgb(in, t->lr);
    /* A held frame costs nothing, does not flicker, and leaves the past as if it had not been. */
    const size_t lr_size = (size_t)in->width * (size_t)in->height * 3;
    const bool repeats = t->has_seen && !memcmp(t->lr, t->seen, lr_size);
    if (repeats && t->shown) {
        give(t, in, out);
        t->repeats++;
        return TECO_OK;
    }
    const bool cut = t->scene_cuts && !repeats && scenecut_is_cut(&t->detector, t->lr, 3, in->width, in->height);
    const bool starts = cut || !t->in_scene;
    if (starts) forget(t);
    t->in_scene = true; /* the past is what it must be, also where the run fails */
    uint8_t *other = t->seen;
    t->seen = t->lr;
    t->lr = other;
    t->has_seen = true;
    t->shown = NULL;
    void *frame = t->frame[t->turn].data;
    if (c->frame.type == UINT8)
        memcpy(frame, t->seen, lr_size);
    else
        pixels_to_planes(t->seen, frame, in->width, in->height);
    if ((status = run(t))) return status;
    if (!(t->shown = picture(t)))
        return teco_fail(
            TECO_ERROR_RUN, "the model gave values that are not finite at frame %llu",
            (unsigned long long)t->frames);
    t->turn = 1 - t->turn;
    t->scenes += starts;
    give(t, in, out);
    return TECO_OK;
}

teco_status teco_step(teco *t, const teco_image *in, const teco_image *out) {
    if (!t) return teco_fail(TECO_ERROR_ARGUMENT, "the handle is NULL");
    teco_status status = check_image(in, "in");
    if (!status) status = check_image(out, "out");
    if (status) return status;
    pthread_mutex_lock(&t->lock);
    status = step(t, in, out);
    pthread_mutex_unlock(&t->lock);
    return status;
}

/* --- the rest -------------------------------------------------------------------------------- */

teco_status teco_reset(teco *t) {
    if (!t) return teco_fail(TECO_ERROR_ARGUMENT, "the handle is NULL");
    pthread_mutex_lock(&t->lock);
    t->in_scene = t->has_seen = false;
    scenecut_reset(&t->detector);
    pthread_mutex_unlock(&t->lock);
    return TECO_OK;
}

teco_status teco_flush(teco *t) {
    teco_status status = teco_reset(t);
    if (status) return status;
    pthread_mutex_lock(&t->lock);
    free_buffers(t);
    pthread_mutex_unlock(&t->lock);
    return TECO_OK;
}

teco_status teco_get_info(teco *t, teco_info *info) {
    if (!t || !info) return teco_fail(TECO_ERROR_ARGUMENT, "the handle or info is NULL");
    if (info->size != sizeof *info)
        return teco_fail(
            TECO_ERROR_ARGUMENT, "info's size is %zu, expected %zu", info->size, sizeof *info);
    const contract *c = &t->contract;
    pthread_mutex_lock(&t->lock);
    *info = (teco_info){
        .size = sizeof *info,
        .scale = c->scale,
        .minimum = MINIMUM,
        .multiple_of = 1,
        .width = c->width,
        .height = c->height,
        .frames = t->frames,
        .scenes = t->scenes,
        .repeats = t->repeats,
        .variant = c->variant,
        .runtime = ort_version(t->runtime),
        .library = ort_library(t->runtime),
    };
    pthread_mutex_unlock(&t->lock);
    return TECO_OK;
}

void teco_close(teco *t) {
    if (!t) return;
    free_buffers(t);
    ort_close(t->runtime);
    pthread_mutex_destroy(&t->lock);
    free(t);
}
