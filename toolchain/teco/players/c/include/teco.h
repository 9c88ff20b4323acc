/* libteco: recurrent video super-resolution, one picture after the other.
 *
 * A model that `teco export` wrote (or one of those shipped with teco) is opened and then given the
 * pictures of a clip in the order they are shown; each comes back enlarged. What the network
 * remembers of the pictures before stays inside. The file itself says how it is driven.
 *
 *     teco *t;
 *     if (teco_open("model.onnx", NULL, &t) != TECO_OK) { puts(teco_last_error()); return 1; }
 *     teco_image in = {TECO_RGB, 320, 180, {lr}, {3 * 320}};
 *     teco_image out = {TECO_RGB, 1280, 720, {hr}, {3 * 1280}};
 *     while (next_picture(lr))
 *         if (teco_step(t, &in, &out) != TECO_OK) { puts(teco_last_error()); break; }
 *     teco_close(t);
 *
 * The network runs in ONNX Runtime, whose shared library (1.17 or newer) is found when a model is
 * opened and is no dependency of libteco: see teco_options.library.
 *
 * Threads. Different handles are independent. Calls on one handle are put one after the other by a
 * lock inside; their order is the caller's to keep, since the network remembers. teco_close must be
 * the last call on its handle. teco_last_error is of the calling thread. A step uses
 * teco_options.threads threads of its own. Do not use handles of the parent in a forked child.
 *
 * Errors. Every call that can fail returns a teco_status; it never ends the process, and a failed
 * step leaves the past as it was, so that the next one may be tried. NULL where a pointer is
 * needed is TECO_ERROR_ARGUMENT.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TECO_H
#define TECO_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(TECO_API)
/* set by whoever builds libteco into something else, to keep its names to himself */
#elif defined(__GNUC__)
#define TECO_API __attribute__((visibility("default")))
#else
#define TECO_API
#endif

#define TECO_VERSION "0.1.0"

typedef enum teco_status {
    TECO_OK = 0,
    TECO_ERROR_ARGUMENT = 1, /* a pointer, a format, a stride or an option is not as it must be */
    TECO_ERROR_LIBRARY = 2,  /* no usable ONNX Runtime library */
    TECO_ERROR_MODEL = 3,    /* the file is missing, damaged, or no ONNX file */
    TECO_ERROR_CONTRACT = 4, /* an ONNX file that no teco wrote, or one of a kind not known here */
    TECO_ERROR_SIZE = 5,     /* the picture's size does not suit the model or the output */
    TECO_ERROR_MEMORY = 6,
    TECO_ERROR_RUN = 7 /* ONNX Runtime failed, or the network gave values that are not finite */
} teco_status;

typedef enum teco_format {
    TECO_RGB = 1,  /* plane 0: R, G, B bytes */
    TECO_RGBA = 2, /* plane 0: R, G, B, A bytes; alpha is enlarged by repetition, 255 from others */
    TECO_NV12 = 3  /* plane 0: luma; plane 1: Cb, Cr bytes, half the size, rounded up */
} teco_format;

/* For TECO_NV12 only. Chroma lies where H.264 and HEVC put it unless told otherwise: on the left
 * luma column, between two rows. */
typedef enum teco_matrix { TECO_BT601 = 0, TECO_BT709 = 1, TECO_BT2020 = 2 } teco_matrix;
typedef enum teco_range { TECO_LIMITED = 0, TECO_FULL = 1 } teco_range;

/* A picture in the caller's memory. stride is the distance of two rows in bytes; negative for a
 * picture that is stored from below (plane is then its top row). */
typedef struct teco_image {
    teco_format format;
    int width, height;
    uint8_t *plane[2];
    ptrdiff_t stride[2];
    teco_matrix matrix;
    teco_range range;
} teco_image;

typedef struct teco_options {
    size_t size;   /* sizeof(teco_options); teco_options_init sets it */
    int threads;   /* CPU threads of a step; 0: every core this process may use */
    int scene_cuts; /* not 0: at a scene cut the network forgets, as `teco upscale` does */
    /* ONNX Runtime's shared library, or a folder with it. NULL looks, in this order, at
     * $TECO_ORT_LIBRARY (file or folder), the folder that this library lies in, the active virtual
     * environment ($VIRTUAL_ENV), the system's linker path, and the system's and the user's Python
     * packages (pip install onnxruntime). What is named by option or variable must be there. */
    const char *library;
} teco_options;

typedef struct teco_info {
    size_t size;        /* sizeof(teco_info), set by the caller */
    int scale;          /* output is so many times as wide and as high */
    int minimum;        /* least width and height of a picture */
    int multiple_of;    /* width and height must be multiples of it */
    int width, height;  /* the only size that the file takes; 0: any */
    uint64_t frames;    /* pictures given out */
    uint64_t scenes;    /* how often it started without a past */
    uint64_t repeats;   /* of frames, those that were the same as the one before and took no step */
    const char *variant; /* what the model is; lives as long as the handle */
    const char *runtime; /* version of ONNX Runtime; likewise */
    const char *library; /* where it was found; likewise */
} teco_info;

typedef struct teco teco;

/* Version of the library, to compare with TECO_VERSION. */
TECO_API const char *teco_version(void);

/* Why the last call of this thread that failed did: one sentence, "" before the first. It stays
 * valid until the thread's next failure. */
TECO_API const char *teco_last_error(void);

/* What a status means, in a few words. */
TECO_API const char *teco_status_text(teco_status status);

/* The defaults: every core, scene cuts on, library looked for. */
TECO_API void teco_options_init(teco_options *options);

/* Open a model. Takes about as long as a step. *out is NULL where it fails. options may be NULL. */
TECO_API teco_status teco_open(const char *model, const teco_options *options, teco **out);

/* Enlarge the next picture.
 *
 * in: as decoded, at least minimum x minimum; a change of size starts a new scene. The same picture
 *     again, bit for bit, takes no step: what was made of it is given again.
 * out: scale times as wide and as high, in any format; may not overlap in.
 */
TECO_API teco_status teco_step(teco *t, const teco_image *in, const teco_image *out);

/* The next picture does not follow the last one (a seek, a loop, another clip): forget the past. */
TECO_API teco_status teco_reset(teco *t);

/* teco_reset, and give back the memory that depends on the size, as at the end of a clip. */
TECO_API teco_status teco_flush(teco *t);

TECO_API teco_status teco_get_info(teco *t, teco_info *info);

/* Give everything back. NULL is ignored. */
TECO_API void teco_close(teco *t);

#ifdef __cplusplus
}
#endif

#endif
