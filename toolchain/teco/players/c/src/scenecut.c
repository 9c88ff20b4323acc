/* SPDX-License-Identifier: Apache-2.0 */
#include "scenecut.h"

#ifndef __wasm__ /* what is used of it, web/scenecut_wasm.c declares */
#include <math.h>
#include <string.h>
#endif

/* The names and the reasons are those of teco/inference/scene_cuts.py. Where OpenCV computes there, its
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
static double smaller(double a, double b) { return a < b ? a : b; }
static double larger(double a, double b) { return a > b ? a : b; }

/* --- shrinking ------------------------------------------------------------------------------- */

/* A thinned view of a picture: every step-th pixel from an offset. */
typedef struct {
    const uint8_t *pixels;
    int channels, stride, step, offset, width, height;
} thinned;

static const uint8_t *pixel(const thinned *t, int x, int y) {
    return t->pixels + (size_t)(y * t->step + t->offset) * (size_t)t->stride +
           (size_t)((x * t->step + t->offset) * t->channels);
}

static uint8_t rounded(float x) {
    int n = (int)rintf(x); /* ties to even */
    return (uint8_t)(n < 0 ? 0 : n > 255 ? 255 : n);
}

/* What an output cell covers: a share of the source cell before first, whole cells up to last, a share
 * of last. As OpenCV's area resize has them; a share that is 0 is left out. */
typedef struct {
    int first, last;
    float before, whole, after;
} cover;

static void take_covers(int from, int to, double scale, cover *list) {
    for (int d = 0; d < to; d++) {
        const double begin = d * scale, end = begin + scale;
        const double cell = smaller(scale, from - begin);
        const int last = minimum((int)floor(end), from - 1), first = minimum((int)ceil(begin), last);
        list[d] = (cover){
            first, last, first - begin > 1e-3 ? (float)((first - begin) / cell) : 0.f,
            (float)(1.0 / cell),
            end - last > 1e-3 ? (float)(smaller(smaller(end - last, 1.0), cell) / cell) : 0.f};
    }
}

/* The share that an output cell has of a source cell from first - 1 to last. */
static float share_of(const cover *c, int at) {
    return at < c->first ? c->before : at < c->last ? c->whole : c->after;
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
    const thinned *t, int w, int h, const cover *xs, const cover *ys, uint8_t *out) {
    for (int y = 0; y < h; y++, out += 3 * w) {
        float sum[3 * SKETCH_SIDE];
        bool fresh = true;
        for (int v = ys[y].first - 1; v <= ys[y].last; v++) {
            const float down = share_of(&ys[y], v);
            if (down == 0) continue;
            for (int x = 0; x < w; x++) {
                float line[3] = {0, 0, 0};
                for (int u = xs[x].first - 1; u <= xs[x].last; u++) {
                    const float across = share_of(&xs[x], u);
                    if (across == 0) continue;
                    const uint8_t *p = pixel(t, u, v);
                    for (int k = 0; k < 3; k++) line[k] += (float)p[k] * across;
                }
                for (int k = 0; k < 3; k++)
                    sum[3 * x + k] = fresh ? down * line[k] : sum[3 * x + k] + down * line[k];
            }
            fresh = false;
        }
        for (int i = 0; i < 3 * w; i++) out[i] = rounded(sum[i]);
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
        left[d] = (int)rintf((1.f - f) * 2048.f);
        right[d] = (int)rintf(f * 2048.f);
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
static void shrink(const thinned *t, int w, int h, uint8_t *out) {
    /* OpenCV takes the inverse of the inverse. */
    const double across = 1.0 / ((double)w / t->width), down = 1.0 / ((double)h / t->height);
    const int whole_x = (int)rint(across), whole_y = (int)rint(down);
    if (across < 1 || down < 1) {
        enlarge(t, w, h, across, down, out);
    } else if (
        fabs(across - whole_x) < 2.220446049250313e-16 && fabs(down - whole_y) < 2.220446049250313e-16) {
        shrink_whole(t, w, h, whole_x, whole_y, out);
    } else {
        cover xs[SKETCH_SIDE], ys[SKETCH_SIDE];
        take_covers(t->width, w, across, xs);
        take_covers(t->height, h, down, ys);
        shrink_by_shares(t, w, h, xs, ys, out);
    }
}

/* --- sketches -------------------------------------------------------------------------------- */

/* Half the mean distance of the levels from 128; every sum here is a whole number below 2^24. */
static void take_amount(sketch *s, int count) {
    int sum = 0;
    for (int i = 0; i < count; i++) sum += s->detail[i] > 128 ? s->detail[i] - 128 : 128 - s->detail[i];
    s->amount = (double)((float)sum / (float)count) / GAIN;
}

static int reflected(int x, int n) { return x < 0 ? -x : x >= n ? 2 * n - 2 - x : x; }

static void make_sketch(
    const uint8_t *pixels, int channels, int width, int height, int w, int h, sketch *s) {
    const int fewest = minimum(height / h, width / w) / 4, step = fewest > 1 ? fewest : 1;
    const thinned t = {
        pixels, channels, channels * width, step, step / 2, (width - step / 2 + step - 1) / step,
        (height - step / 2 + step - 1) / step};
    uint8_t small[3 * SKETCH_SIDE * SKETCH_SIDE];
    int luma[SKETCH_SIDE * SKETCH_SIDE];
    shrink(&t, w, h, small);
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
        dim(current, larger(1 / ratio, 1 / RELIT), w * h, &dimmed);
        current = &dimmed;
    } else {
        dim(previous, larger(ratio, 1 / RELIT), w * h, &dimmed);
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

bool scenecut_is_cut(scenecut *s, const uint8_t *pixels, int channels, int width, int height) {
    if (width != s->width || height != s->height) {
        scenecut_reset(s);
        const double scale = (double)SKETCH_SIDE / (width > height ? width : height);
        s->width = width;
        s->height = height;
        s->w = sketch_side(width, scale);
        s->h = sketch_side(height, scale);
    }
    sketch current;
    make_sketch(pixels, channels, width, height, s->w, s->h, &current);
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
