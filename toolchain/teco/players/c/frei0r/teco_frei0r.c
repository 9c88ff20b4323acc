/* teco as a frei0r filter, which stock ffmpeg, mpv and GStreamer load.
 *
 * frei0r cannot change a picture's size: the player enlarges it by nearest neighbour first, as many
 * times as the model does; this filter reads one pixel of each block and fills the whole picture.
 *
 *   ffmpeg -i in.mp4 -vf scale=iw*4:ih*4:flags=neighbor,format=rgba,frei0r=filter_name=teco out.mp4
 *
 * (iw*2 and ih*2 for a model that enlarges twice).
 *
 * The model is the parameter `model`, else $TECO_MODEL, else model.onnx beside this plugin.
 * $TECO_THREADS limits the CPU threads of a step.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * This file is built with frei0r.h, which is GPL-2.0-or-later, and is licensed like it; the rest of
 * teco is Apache-2.0. See LICENCE.md beside it. */
#define _GNU_SOURCE /* dladdr, RTLD_DEFAULT */
#include <dlfcn.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#pragma GCC visibility push(default) /* players look these up */
#include <frei0r.h>
#pragma GCC visibility pop

#include "teco.h"

#define LONGEST 2.0  /* seconds that a picture may stay without the next one being a new scene */
#define RATIO 8.0    /* ... and so many times the interval before */

enum { MODEL, LIBRARY, SCENE_CUTS, PARAMETERS };

typedef struct {
    int full_width, full_height; /* of the picture as the player enlarged it */
    int scale, width, height;    /* of the model, and of the small picture; 0 before it is open */
    char *text[2];     /* MODEL, LIBRARY; "" where not given */
    bool scene_cuts;
    teco *handle;
    bool failed; /* said so already; pictures pass through */
    uint8_t *small;
    bool has_time;
    double time, interval; /* of the picture before, in the player's unit; interval 0: not known */
    bool milliseconds;
} filter;

static void complain(const char *text) { fprintf(stderr, "teco (frei0r): %s\n", text); }

static char *copy(const char *text) {
    char *out = malloc(strlen(text) + 1);
    return out ? strcpy(out, text) : NULL;
}

int f0r_init(void) { return 1; }
void f0r_deinit(void) {}

void f0r_get_plugin_info(f0r_plugin_info_t *info) {
    *info = (f0r_plugin_info_t){
        .name = "teco",
        .author = "the authors of teco",
        .plugin_type = F0R_PLUGIN_TYPE_FILTER,
        .color_model = F0R_COLOR_MODEL_RGBA8888,
        .frei0r_version = FREI0R_MAJOR_VERSION,
        .major_version = 0,
        .minor_version = 1,
        .num_params = PARAMETERS,
        .explanation = "Recurrent super-resolution of pictures enlarged by nearest neighbour",
    };
}

void f0r_get_param_info(f0r_param_info_t *info, int index) {
    static const f0r_param_info_t all[PARAMETERS] = {
        {"model", F0R_PARAM_STRING, "ONNX file that teco wrote; empty: $TECO_MODEL, else model.onnx here"},
        {"library", F0R_PARAM_STRING, "ONNX Runtime's shared library or its folder; empty: looked for"},
        {"scene-cuts", F0R_PARAM_BOOL, "start without a past at scene cuts"},
    };
    if (index >= 0 && index < PARAMETERS) *info = all[index];
}

/* The model's path into out; false where none is named anywhere. */
static bool find_model(const filter *f, char *out, size_t room) {
    const char *named = f->text[MODEL], *variable = getenv("TECO_MODEL");
    if (!*named && variable) named = variable;
    if (*named) return (size_t)snprintf(out, room, "%s", named) < room;
    static const char here;
    Dl_info self;
    const char *slash = dladdr(&here, &self) && self.dli_fname ? strrchr(self.dli_fname, '/') : NULL;
    if (!slash) return false;
    const int length = (int)(slash - self.dli_fname);
    return (size_t)snprintf(out, room, "%.*s/model.onnx", length, self.dli_fname) < room &&
           !access(out, F_OK);
}

static void close_model(filter *f) {
    teco_close(f->handle);
    f->handle = NULL;
}

static bool take_scale(filter *f, int scale) {
    f->scale = scale;
    f->width = f->full_width / scale;
    f->height = f->full_height / scale;
    free(f->small);
    f->small = malloc((size_t)f->width * (size_t)f->height * 4);
    return f->small;
}

static bool open_model(filter *f) {
    char model[4096];
    teco_options options;
    teco_options_init(&options);
    options.scene_cuts = f->scene_cuts;
    options.library = *f->text[LIBRARY] ? f->text[LIBRARY] : NULL;
    const char *threads = getenv("TECO_THREADS");
    if (threads && *threads) options.threads = atoi(threads);
    teco_info info = {.size = sizeof info};
    if (!find_model(f, model, sizeof model)) {
        complain(
            "no model is named; set TECO_MODEL=/path/to/model.onnx or the parameter `model` "
            "(`teco export` writes one)");
    } else if (teco_open(model, &options, &f->handle)) {
        complain(teco_last_error());
    } else if (teco_get_info(f->handle, &info)) {
        complain(teco_last_error());
    } else if (f->full_width % info.scale || f->full_height % info.scale) {
        fprintf(
            stderr,
            "teco (frei0r): pictures are %dx%d, expected multiples of %d: enlarge them %d times first, "
            "scale=iw*%d:ih*%d:flags=neighbor\n",
            f->full_width, f->full_height, info.scale, info.scale, info.scale, info.scale);
    } else if (!take_scale(f, info.scale)) {
        complain("there is no memory for a picture");
    } else if (f->width < info.minimum || f->height < info.minimum ||
               (info.width && (f->width != info.width || f->height != info.height))) {
        fprintf(
            stderr, "teco (frei0r): pictures were %dx%d before they were enlarged, the model takes ",
            f->width, f->height);
        if (info.width)
            fprintf(stderr, "%dx%d\n", info.width, info.height);
        else
            fprintf(stderr, "%dx%d and larger\n", info.minimum, info.minimum);
    } else {
        return true;
    }
    close_model(f);
    return false;
}

f0r_instance_t f0r_construct(unsigned int width, unsigned int height) {
    if (!width || !height || width > 65536 || height > 65536) {
        fprintf(stderr, "teco (frei0r): pictures are %ux%u, expected 1 to 65536\n", width, height);
        return NULL;
    }
    filter *f = calloc(1, sizeof *f);
    if (!f) return NULL;
    f->full_width = (int)width;
    f->full_height = (int)height;
    f->scene_cuts = true;
    f->text[MODEL] = copy("");
    f->text[LIBRARY] = copy("");
    bool good = f->text[MODEL] && f->text[LIBRARY];
    /* A player hears of a failure here and nowhere else, so what is known already is opened now. Not
     * in GStreamer: it makes one of every filter merely to ask for its parameters, and remembers a
     * refusal in its registry for good. */
    char model[4096];
    if (good && !dlsym(RTLD_DEFAULT, "gst_init") && find_model(f, model, sizeof model))
        good = open_model(f);
    if (good) return f;
    f0r_destruct(f);
    return NULL;
}

void f0r_destruct(f0r_instance_t instance) {
    filter *f = instance;
    if (!f) return;
    close_model(f);
    free(f->text[MODEL]);
    free(f->text[LIBRARY]);
    free(f->small);
    free(f);
}

void f0r_set_param_value(f0r_instance_t instance, f0r_param_t value, int index) {
    filter *f = instance;
    if (index == SCENE_CUTS) {
        const bool cuts = *(double *)value >= 0.5;
        if (cuts == f->scene_cuts) return;
        f->scene_cuts = cuts;
    } else if (index == MODEL || index == LIBRARY) {
        const char *text = *(char **)value;
        if (!text) text = "";
        if (!strcmp(text, f->text[index])) return;
        char *fresh = copy(text);
        if (!fresh) return;
        free(f->text[index]);
        f->text[index] = fresh;
    } else {
        return;
    }
    close_model(f); /* the next picture opens it with what is said now */
    f->failed = false;
}

void f0r_get_param_value(f0r_instance_t instance, f0r_param_t value, int index) {
    filter *f = instance;
    if (index == SCENE_CUTS)
        *(double *)value = f->scene_cuts;
    else if (index == MODEL || index == LIBRARY)
        *(char **)value = f->text[index];
}

/* Whether a picture does not follow the one before. frei0r says nothing of seeks; the time does, in
 * milliseconds from ffmpeg and mpv and in seconds from GStreamer, against frei0r's own text. Going
 * back needs no unit. Going ahead does, and an interval tells it: below half a thousandth of a
 * second nothing is shown, and pictures seldom stay for longer than a second. */
static bool jumped(filter *f, double time) {
    if (!isfinite(time)) return false;
    const bool known = f->has_time;
    const double interval = time - f->time;
    f->has_time = true;
    f->time = time;
    if (!known || interval == 0) return false;
    if (interval < 0) {
        f->interval = 0;
        return true;
    }
    if (f->interval == 0) f->milliseconds = interval >= 1;
    if (interval < 0.5) f->milliseconds = false;
    const double usual = f->interval, second = f->milliseconds ? 1000 : 1;
    if (usual > 0 && interval > RATIO * usual && interval > LONGEST * second) return true;
    f->interval = interval;
    return false;
}

void f0r_update(f0r_instance_t instance, double time, const uint32_t *in, uint32_t *out) {
    filter *f = instance;
    const size_t row = (size_t)f->full_width;
    if (!f->handle && !f->failed) f->failed = !open_model(f);
    if (!f->failed) {
        const size_t width = (size_t)f->width, scale = (size_t)f->scale;
        if (jumped(f, time)) teco_reset(f->handle);
        for (size_t y = 0; y < (size_t)f->height; y++)
            for (size_t x = 0; x < width; x++)
                memcpy(
                    f->small + 4 * (y * width + x),
                    in + (y * scale + scale / 2) * row + x * scale + scale / 2, 4);
        const teco_image small = {
            .format = TECO_RGBA, .width = f->width, .height = f->height, .plane = {f->small},
            .stride = {(ptrdiff_t)(4 * width)}};
        const teco_image large = {
            .format = TECO_RGBA, .width = f->full_width, .height = f->full_height,
            .plane = {(uint8_t *)out}, .stride = {(ptrdiff_t)(4 * row)}};
        if (!teco_step(f->handle, &small, &large)) return;
        complain(teco_last_error());
        f->failed = true;
    }
    if (in != out) memcpy(out, in, 4 * row * (size_t)f->full_height);
}
