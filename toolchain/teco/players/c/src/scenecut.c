/* SPDX-License-Identifier: Apache-2.0 */
#include "scenecut.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The names and the reasons are those of teco/scenecut.py. Where OpenCV computes there, its
 * arithmetic is repeated here: integer or float32, and rounded as there, since a level more or less
 * can decide a cut. This file is compiled without fused multiplications for the same reason. */
#define BLOCK 16
#define REACH 8
#define GAIN 2
#define FLOOR_ 2.0
#define RELIT 2.5
#define UNKNOWN 0.75
#define THRESHOLD 0.6
#define CAUTION 0.4

static int minimum(int a, int b) { return a < b ? a : b; }

/* --- shrinking ------------------------------------------------------------------------------- */

/* A thinned view of a picture: every step-th pixel from an offset. */
typedef struct {
    const uint8_t *rgb;
    int stride, step, offset, width, height;
} thinned;

static const uint8_t *pixel(const thinned *t, int x, int y) {
    return t->rgb + (size_t)(y * t->step + t->offset) * (size_t)t->stride +
           (size_t)(x * t->step + t->offset) * 3;
}

static uint8_t rounded(float x) {
    long n = lrintf(x); /* ties to even */
    return (uint8_t)(n < 0 ? 0 : n > 255 ? 255 : n);
}

/* One source cell's share in an output cell, as OpenCV's area resize lists them. */
typedef struct {
    int to, from;
    float share;
} share;

/* At most two partial cells and the whole ones between, for each output cell. */
static int area_shares(int from, int to, double scale, share *list) {
    int n = 0;
    for (int d = 0; d < to; d++) {
        const double begin = d * scale, end = begin + scale;
        const double cell = fmin(scale, from - begin);
        int first = (int)ceil(begin), last = (int)floor(end);
        last = minimum(last, from - 1);
        first = minimum(first, last);
        if (first - begin > 1e-3) list[n++] = (share){d, first - 1, (float)((first - begin) / cell)};
        for (int s = first; s < last; s++) list[n++] = (share){d, s, (float)(1.0 / cell)};
        if (end - last > 1e-3)
            list[n++] = (share){d, last, (float)(fmin(fmin(end - last, 1.0), cell) / cell)};
    }
    return n;
}

/* Both scales whole numbers: the mean of whole cells. */
static void shrink_whole(const thinned *t, int w, int h, int across, int down, uint8_t *out) {
    const float part = 1.f / (float)(across * down);
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++, out += 3) {
            int sum[3] = {0, 0, 0};
            for (int j = 0; j < down; j++)
                for (int i = 0; i < across; i++) {
                    const uint8_t *p = pixel(t, x * across + i, y * down + j);
                    for (int k = 0; k < 3; k++) sum[k] += p[k];
                }
            for (int k = 0; k < 3; k++)
                out[k] = across == 2 && down == 2 ? (uint8_t)((sum[k] + 2) >> 2)
                                                  : rounded((float)sum[k] * part);
        }
}

static void shrink_by_shares(
    const thinned *t, int w, const share *xs, int x_count, const share *ys, int y_count, uint8_t *out) {
    float line[3 * SKETCH_SIDE], sum[3 * SKETCH_SIDE];
    const int n = 3 * w;
    memset(sum, 0, sizeof sum);
    for (int j = 0; j < y_count; j++) {
        memset(line, 0, sizeof line);
        for (int i = 0; i < x_count; i++) {
            const uint8_t *p = pixel(t, xs[i].from, ys[j].from);
            for (int k = 0; k < 3; k++) line[3 * xs[i].to + k] += (float)p[k] * xs[i].share;
        }
        const bool fresh = !j || ys[j].to != ys[j - 1].to;
        for (int i = 0; i < n; i++)
            sum[i] = fresh ? ys[j].share * line[i] : sum[i] + ys[j].share * line[i];
        if (j + 1 == y_count || ys[j + 1].to != ys[j].to)
            for (int i = 0; i < n; i++) out[(size_t)ys[j].to * (size_t)n + (size_t)i] = rounded(sum[i]);
    }
}

/* Where a side is enlarged, OpenCV's area mode is linear between whole cells, in 11-bit shares. */
static void area_taps(int from, int to, double scale, int *at, int *left, int *right) {
    for (int d = 0; d < to; d++) {
        int s = (int)floor(d * scale);
        float f = (float)((d + 1) - (s + 1) * (1.0 / scale));
        f = f <= 0 ? 0.f : f - floorf(f);
        if (s >= from - 1) s = from - 1, f = 0;
        at[d] = s;
        left[d] = (int)lrintf((1.f - f) * 2048.f);
        right[d] = (int)lrintf(f * 2048.f);
    }
}

static void enlarge(const thinned *t, int w, int h, double across, double down, uint8_t *out) {
    int xs[SKETCH_SIDE], xl[SKETCH_SIDE], xr[SKETCH_SIDE];
    int ys[SKETCH_SIDE], yl[SKETCH_SIDE], yr[SKETCH_SIDE];
    area_taps(t->width, w, across, xs, xl, xr);
    area_taps(t->height, h, down, ys, yl, yr);
    for (int y = 0; y < h; y++) {
        const int below = minimum(ys[y] + 1, t->height - 1);
        for (int x = 0; x < w; x++, out += 3) {
            const int beside = minimum(xs[x] + 1, t->width - 1);
            for (int k = 0; k < 3; k++) {
                const int top = pixel(t, xs[x], ys[y])[k] * xl[x] + pixel(t, beside, ys[y])[k] * xr[x];
                const int low = pixel(t, xs[x], below)[k] * xl[x] + pixel(t, beside, below)[k] * xr[x];
                out[k] = (uint8_t)(((yl[y] * (top >> 4) >> 16) + (yr[y] * (low >> 4) >> 16) + 2) >> 2);
            }
        }
    }
}

/* cv2.resize(..., INTER_AREA) */
static bool shrink(const thinned *t, int w, int h, uint8_t *out) {
    /* OpenCV takes the inverse of the inverse. */
    const double across = 1.0 / ((double)w / t->width), down = 1.0 / ((double)h / t->height);
    if (across < 1 || down < 1) {
        enlarge(t, w, h, across, down, out);
        return true;
    }
    const int whole_x = (int)lrint(across), whole_y = (int)lrint(down);
    if (fabs(across - whole_x) < 2.220446049250313e-16 && fabs(down - whole_y) < 2.220446049250313e-16) {
        shrink_whole(t, w, h, whole_x, whole_y, out);
        return true;
    }
    share *xs = malloc(sizeof *xs * 2 * ((size_t)t->width + (size_t)t->height));
    if (!xs) return false;
    share *ys = xs + 2 * (size_t)t->width;
    const int x_count = area_shares(t->width, w, across, xs);
    const int y_count = area_shares(t->height, h, down, ys);
    shrink_by_shares(t, w, xs, x_count, ys, y_count, out);
    free(xs);
    return true;
}

/* --- sketches -------------------------------------------------------------------------------- */

/* Half the mean distance of the levels from 128; every sum here is a whole number below 2^24. */
static void take_amount(sketch *s, int count) {
    long sum = 0;
    for (int i = 0; i < count; i++) sum += labs((long)s->detail[i] - 128);
    s->amount = (double)((float)sum / (float)count) / GAIN;
}

static int reflected(int x, int n) { return x < 0 ? -x : x >= n ? 2 * n - 2 - x : x; }

static bool make_sketch(const uint8_t *rgb, int width, int height, int w, int h, sketch *s) {
    const int fewest = minimum(height / h, width / w) / 4, step = fewest > 1 ? fewest : 1;
    const thinned t = {
        rgb, 3 * width, step, step / 2, (width - step / 2 + step - 1) / step,
        (height - step / 2 + step - 1) / step};
    uint8_t small[3 * SKETCH_SIDE * SKETCH_SIDE];
    int luma[SKETCH_SIDE * SKETCH_SIDE];
    if (!shrink(&t, w, h, small)) return false;
    for (int i = 0; i < w * h; i++) {
        const uint8_t *p = small + 3 * i;
        luma[i] = (9798 * p[0] + 19235 * p[1] + 3735 * p[2] + (1 << 14)) >> 15;
    }
    const int radius = BLOCK / 2 - 1, side = BLOCK - 1;
    int columns[SKETCH_SIDE];
    for (int y = 0; y < h; y++) {
        for (int x = 0; x < w; x++) {
            columns[x] = 0;
            for (int j = -radius; j <= radius; j++) columns[x] += luma[reflected(y + j, h) * w + x];
        }
        for (int x = 0; x < w; x++) {
            int sum = 0;
            for (int i = -radius; i <= radius; i++) sum += columns[reflected(x + i, w)];
            /* Whole numbers over 225 are never within 1/450 of where the level changes, so that any
             * float arithmetic gives this one. */
            const double detail = luma[y * w + x] - sum / (double)(side * side);
            const double shifted = detail * GAIN + 128.5;
            s->detail[y * w + x] = (uint8_t)(shifted < 0 ? 0 : shifted > 255 ? 255 : shifted);
        }
    }
    take_amount(s, w * h);
    return true;
}

static void dim(const sketch *full, double part, int count, sketch *out) {
    const float factor = (float)(part / GAIN);
    for (int i = 0; i < count; i++) {
        const float detail = ((float)full->detail[i] - 128) * factor;
        const float shifted = detail * GAIN + 128.5f;
        out->detail[i] = (uint8_t)(shifted < 0 ? 0 : shifted > 255 ? 255 : shifted);
    }
    take_amount(out, count);
}

/* Mean absolute difference of two blocks, rounded, ties to even. */
static int distance(const uint8_t *a, int a_stride, const uint8_t *b, int b_stride) {
    int sum = 0;
    for (int y = 0; y < BLOCK; y++, a += a_stride, b += b_stride)
        for (int x = 0; x < BLOCK; x++) sum += a[x] > b[x] ? a[x] - b[x] : b[x] - a[x];
    return rounded((float)sum / (BLOCK * BLOCK));
}

static double unexplained(const sketch *target, const sketch *source, int w, int h) {
    uint8_t padded[(SKETCH_SIDE + 2 * REACH) * (SKETCH_SIDE + 2 * REACH)];
    const int wide = w + 2 * REACH, high = h + 2 * REACH;
    for (int y = 0; y < high; y++)
        for (int x = 0; x < wide; x++) {
            const int from_y = y < REACH ? 0 : minimum(y - REACH, h - 1);
            const int from_x = x < REACH ? 0 : minimum(x - REACH, w - 1);
            padded[y * wide + x] = source->detail[from_y * w + from_x];
        }
    double best = 0;
    for (int top = 0; top < h; top += BLOCK) {
        int sum = 0;
        for (int left = 0; left < w; left += BLOCK) {
            int least = 255;
            for (int y = 0; y <= 2 * REACH && least; y++)
                for (int x = 0; x <= 2 * REACH && least; x++)
                    least = minimum(
                        least, distance(
                                   target->detail + top * w + left, w,
                                   padded + (top + y) * wide + left + x, wide));
            sum += least;
        }
        best += sum / (double)(w / BLOCK);
    }
    return best * BLOCK / h / GAIN;
}

static double change(const sketch *previous, const sketch *current, int w, int h) {
    sketch dimmed;
    const double ratio = (current->amount + FLOOR_) / (previous->amount + FLOOR_);
    if (ratio > 1) {
        dim(current, fmax(1 / ratio, 1 / RELIT), w * h, &dimmed);
        current = &dimmed;
    } else {
        dim(previous, fmax(ratio, 1 / RELIT), w * h, &dimmed);
        previous = &dimmed;
    }
    double sum = unexplained(current, previous, w, h);
    sum += unexplained(previous, current, w, h);
    return sum / (current->amount + previous->amount + 2 * FLOOR_);
}

/* --- the detector ---------------------------------------------------------------------------- */

static void forget_changes(scenecut *s) {
    s->recent[0] = UNKNOWN;
    s->recent_count = 1;
}

void scenecut_reset(scenecut *s) {
    s->score = 0;
    s->has_previous = false;
    forget_changes(s);
}

static int sketch_side(int side, double scale) {
    const int blocks = (int)rint(side * scale / BLOCK); /* ties to even, as Python's round */
    return (blocks > 1 ? blocks : 1) * BLOCK;
}

bool scenecut_is_cut(scenecut *s, const uint8_t *rgb, int width, int height) {
    if (width != s->width || height != s->height) {
        scenecut_reset(s);
        const double scale = (double)SKETCH_SIDE / (width > height ? width : height);
        s->width = width;
        s->height = height;
        s->w = sketch_side(width, scale);
        s->h = sketch_side(height, scale);
    }
    sketch current;
    if (!make_sketch(rgb, width, height, s->w, s->h, &current)) return false;
    const bool first = !s->has_previous;
    s->score = first ? 0 : change(&s->previous, &current, s->w, s->h);
    s->previous = current;
    s->has_previous = true;
    if (first) return false;
    double usual = 0;
    for (int i = 0; i < s->recent_count; i++) usual += s->recent[i];
    usual /= s->recent_count;
    if (s->score > THRESHOLD + CAUTION * usual) {
        forget_changes(s);
        return true;
    }
    if (s->recent_count == SKETCH_MEMORY)
        memmove(s->recent, s->recent + 1, sizeof *s->recent * --s->recent_count);
    s->recent[s->recent_count++] = s->score;
    return false;
}
