/* SPDX-License-Identifier: Apache-2.0 */
#include "pixels.h"

#include <math.h>
#include <string.h>

/* Y'CbCr with 8 bits, ITU-R BT.601, BT.709 and BT.2020: how R, G and B weigh in luma, and which
 * codes stand for black, white and the largest chroma. */
typedef struct {
    float red, green, blue;
    float black, luma, chroma; /* code of black; codes from black to white; from none to +-0.5 */
} system_;

static system_ system_of(const teco_image *image) {
    static const float red[] = {0.299f, 0.2126f, 0.2627f}, blue[] = {0.114f, 0.0722f, 0.0593f};
    bool full = image->range == TECO_FULL;
    float r = red[image->matrix], b = blue[image->matrix];
    return (system_){r, 1 - r - b, b, full ? 0.0f : 16.0f, full ? 255.0f : 219.0f, full ? 255.0f : 224.0f};
}

static uint8_t level(float x) {
    x = x < 0 ? 0 : x > 255 ? 255 : x;
    return (uint8_t)(x + 0.5f);
}

static const uint8_t *row(const teco_image *image, int plane, int y) {
    return image->plane[plane] + y * image->stride[plane];
}

static int clamp(int x, int most) { return x < 0 ? 0 : x > most ? most : x; }

static void nv12_to_rgb(const teco_image *in, uint8_t *rgb) {
    const system_ s = system_of(in);
    const int width = in->width, height = in->height, cw = (width + 1) / 2, ch = (height + 1) / 2;
    const float gain = 255 / s.luma, swing = 255 / s.chroma;
    const float from_cr = 2 * (1 - s.red) * swing, from_cb = 2 * (1 - s.blue) * swing;
    for (int y = 0; y < height; y++) {
        const uint8_t *luma = row(in, 0, y);
        /* A chroma row lies between two luma rows: three quarters of the nearer one. */
        const uint8_t *near = row(in, 1, y / 2);
        const uint8_t *far = row(in, 1, clamp(y / 2 + (y % 2 ? 1 : -1), ch - 1));
        for (int x = 0; x < width; x++, rgb += 3) {
            /* ... and on the left luma column: odd columns lie between two. */
            const int a = 2 * (x / 2), b = 2 * clamp(x / 2 + x % 2, cw - 1);
            const float cb = (3 * (near[a] + near[b]) + far[a] + far[b]) * 0.125f - 128;
            const float cr =
                (3 * (near[a + 1] + near[b + 1]) + far[a + 1] + far[b + 1]) * 0.125f - 128;
            const float light = ((float)luma[x] - s.black) * gain;
            rgb[0] = level(light + from_cr * cr);
            rgb[1] = level(light - (s.red * from_cr * cr + s.blue * from_cb * cb) / s.green);
            rgb[2] = level(light + from_cb * cb);
        }
    }
}

static void nv12_from_rgb(const uint8_t *rgb, const teco_image *out) {
    const system_ s = system_of(out);
    const int width = out->width, height = out->height;
    const float gain = s.luma / 255, swing = s.chroma / 255;
    const float to_cb = swing / (2 * (1 - s.blue)), to_cr = swing / (2 * (1 - s.red));
    for (int y = 0; y < height; y++) {
        const uint8_t *p = rgb + (size_t)y * (size_t)width * 3;
        uint8_t *luma = out->plane[0] + y * out->stride[0];
        for (int x = 0; x < width; x++, p += 3)
            luma[x] = level(s.black + gain * (s.red * p[0] + s.green * p[1] + s.blue * p[2]));
    }
    for (int y = 0; y < height; y += 2) {
        uint8_t *chroma = out->plane[1] + y / 2 * out->stride[1];
        const uint8_t *top = rgb + (size_t)y * (size_t)width * 3;
        const uint8_t *bottom = y + 1 < height ? top + (size_t)width * 3 : top;
        for (int x = 0; x < width; x += 2, chroma += 2) {
            /* Weights 1 2 1 around the left column, over both rows. */
            const int left = 3 * clamp(x - 1, width - 1), mid = 3 * x, right = 3 * clamp(x + 1, width - 1);
            float c[3];
            for (int k = 0; k < 3; k++)
                c[k] = (top[left + k] + 2 * top[mid + k] + top[right + k] + bottom[left + k] +
                        2 * bottom[mid + k] + bottom[right + k]) *
                       0.125f;
            const float light = s.red * c[0] + s.green * c[1] + s.blue * c[2];
            chroma[0] = level(128 + to_cb * (c[2] - light));
            chroma[1] = level(128 + to_cr * (c[0] - light));
        }
    }
}

void pixels_to_rgb(const teco_image *in, uint8_t *rgb) {
    if (in->format == TECO_NV12) {
        nv12_to_rgb(in, rgb);
        return;
    }
    const size_t width = (size_t)in->width;
    for (int y = 0; y < in->height; y++, rgb += 3 * width) {
        const uint8_t *from = row(in, 0, y);
        if (in->format == TECO_RGB)
            memcpy(rgb, from, 3 * width);
        else
            for (size_t x = 0; x < width; x++) memcpy(rgb + 3 * x, from + 4 * x, 3);
    }
}

void pixels_from_rgb(const uint8_t *rgb, const teco_image *out, const teco_image *alpha, int scale) {
    if (out->format == TECO_NV12) {
        nv12_from_rgb(rgb, out);
        return;
    }
    const size_t width = (size_t)out->width;
    for (int y = 0; y < out->height; y++, rgb += 3 * width) {
        uint8_t *to = out->plane[0] + y * out->stride[0];
        if (out->format == TECO_RGB) {
            memcpy(to, rgb, 3 * width);
            continue;
        }
        const uint8_t *from = alpha ? row(alpha, 0, y / scale) : NULL;
        for (size_t x = 0; x < width; x++) {
            memcpy(to + 4 * x, rgb + 3 * x, 3);
            to[4 * x + 3] = from ? from[x / (size_t)scale * 4 + 3] : 255;
        }
    }
}

void pixels_to_planes(const uint8_t *rgb, float *planes, int width, int height) {
    const size_t size = (size_t)width * (size_t)height;
    for (int k = 0; k < 3; k++)
        for (size_t i = 0; i < size; i++) planes[k * size + i] = (float)rgb[3 * i + k] / 255.0f;
}

bool pixels_from_planes(const float *planes, uint8_t *rgb, int width, int height) {
    const size_t size = (size_t)width * (size_t)height;
    bool numbers = true;
    for (int k = 0; k < 3; k++)
        for (size_t i = 0; i < size; i++) {
            const float x = planes[k * size + i];
            numbers &= x - x == 0; /* neither infinite nor NaN */
            float scaled = x * 255.0f;
            scaled = scaled > 0 ? scaled : 0; /* NaN becomes 0 */
            scaled = scaled < 255 ? scaled : 255;
            rgb[3 * i + k] = (uint8_t)lrintf(scaled);
        }
    return numbers;
}
