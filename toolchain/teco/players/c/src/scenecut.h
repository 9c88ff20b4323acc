/* Where a new shot begins: teco/inference/scene_cuts.py, restated, with the same answers. That file
 * says how it works and how good it is. Compiled for the page for browsers, too, where there is no C
 * library (web/scenecut_wasm.c). SPDX-License-Identifier: Apache-2.0 */
#ifndef TECO_SCENECUT_H
#define TECO_SCENECUT_H

#include <stdbool.h>
#include <stdint.h>

#define SKETCH_SIDE 64
#define SKETCH_MEMORY 4

typedef struct {
    uint8_t detail[SKETCH_SIDE * SKETCH_SIDE]; /* (h, w), packed */
    double amount;
} sketch;

typedef struct {
    double recent[SKETCH_MEMORY]; /* oldest first */
    int recent_count;
    int width, height; /* of the pictures */
    int w, h;          /* of the sketches */
    bool has_previous;
    double score; /* change of the last picture from the one before; 0 for a first one */
    sketch previous;
} scenecut;

/* The next picture is a first picture. */
void scenecut_reset(scenecut *s);

/* Take the next picture, packed, of RGB (channels 3) or RGBA (4); a first one, also at a new size, is
 * no cut. */
bool scenecut_is_cut(scenecut *s, const uint8_t *pixels, int channels, int width, int height);

#endif
