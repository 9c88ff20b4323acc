/* Between pictures as players have them, packed RGB, and the tensors of a network.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TECO_PIXELS_H
#define TECO_PIXELS_H

#include <stdbool.h>

#include "teco.h"

/* A picture -> packed RGB, (height, width, 3). Chroma is interpolated linearly. */
void pixels_to_rgb(const teco_image *in, uint8_t *rgb);

/* Packed RGB -> a picture. alpha: TECO_RGBA to repeat alpha from by the factor scale, or NULL. */
void pixels_from_rgb(const uint8_t *rgb, const teco_image *out, const teco_image *alpha, int scale);

/* Packed RGB -> planes of floats in [0, 1], divided by 255 as in training. */
void pixels_to_planes(const uint8_t *rgb, float *planes, int width, int height);

/* Planes of floats -> packed RGB: times 255 in float32, rounded to nearest (ties to even), clipped,
 * as teco does it everywhere. False where a value is no finite number. */
bool pixels_from_planes(const float *planes, uint8_t *rgb, int width, int height);

#endif
