/* Where a new shot begins: teco/scenecut.py, restated, with the same answers. That file says how it
 * works and how good it is. SPDX-License-Identifier: Apache-2.0 */
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

/* Take the next picture, packed RGB; a first one, also at a new size, is no cut. False, and nothing
 * learnt, where memory ran out. */
bool scenecut_is_cut(scenecut *s, const uint8_t *rgb, int width, int height);

#endif
