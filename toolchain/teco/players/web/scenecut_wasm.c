/* libteco's scene-cut detector for the page for browsers: WebAssembly without a C library. Pictures are
 * RGBA and lie where the program's own memory ends (__heap_base), which page/scenecut.js makes larger.
 * scripts/build_scenecut_wasm.sh compiles it. SPDX-License-Identifier: Apache-2.0 */

/* Each is one instruction of WebAssembly, or a few. */
double ceil(double), fabs(double), floor(double), rint(double);
float floorf(float), rintf(float);
void *memmove(void *to, const void *from, unsigned long bytes);
typedef unsigned long size_t;

#include "../c/src/scenecut.c"

#define EXPORT(name) __attribute__((export_name(#name)))

extern const uint8_t __heap_base;
static scenecut detector;

EXPORT(pixels) const uint8_t *pixels(void) { return &__heap_base; }
EXPORT(reset) void reset(void) { scenecut_reset(&detector); }
EXPORT(score) double score(void) { return detector.score; }
EXPORT(isCut) int is_cut(int width, int height) {
    return scenecut_is_cut(&detector, &__heap_base, 4, width, height);
}
