/* libteco from beginning to end, for AddressSanitizer and valgrind to watch: every kind of picture,
 * every error, several threads. Ends with 0 and "done" where all of it answered as it must.
 *
 *   exercise MODEL DAMAGED FOREIGN STRANGE LIBRARY FRAMES
 *
 * MODEL is a good file for any size; DAMAGED, FOREIGN (no manifest) and STRANGE (a contract of another
 * kind) are refused; LIBRARY is ONNX Runtime's shared library. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "teco.h"

#define EXPECT(condition)                                                                          \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "line %d: %s; last error: %s\n", __LINE__, #condition,                 \
                    teco_last_error());                                                            \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static teco_image picture(teco_format format, int width, int height) {
    teco_image image = {.format = format, .width = width, .height = height, .matrix = TECO_BT709};
    const int cw = (width + 1) / 2, ch = (height + 1) / 2;
    const int row = format == TECO_NV12 ? width : width * (format == TECO_RGBA ? 4 : 3);
    /* Exactly as large as it must be, so that one byte too far is seen; the last row has no padding. */
    image.stride[0] = row + 5;
    image.plane[0] = malloc((size_t)(image.stride[0] * (height - 1) + row));
    EXPECT(image.plane[0]);
    for (int y = 0; y < height; y++)
        for (int x = 0; x < row; x++)
            image.plane[0][y * image.stride[0] + x] = (uint8_t)(x * 7 + y * 13 + width);
    if (format == TECO_NV12) {
        image.stride[1] = 2 * cw + 3;
        image.plane[1] = malloc((size_t)(image.stride[1] * (ch - 1) + 2 * cw));
        EXPECT(image.plane[1]);
        for (int y = 0; y < ch; y++) memset(image.plane[1] + y * image.stride[1], 120 + y % 16, (size_t)(2 * cw));
    }
    return image;
}

static void drop(teco_image *image) {
    free(image->plane[0]);
    free(image->plane[1]);
    image->plane[0] = image->plane[1] = NULL;
}

static void steps(teco *t, teco_format from, teco_format to, int width, int height, int count) {
    teco_image in = picture(from, width, height), out = picture(to, 4 * width, 4 * height);
    for (int n = 0; n < count; n++) {
        in.plane[0][n % width] ^= (uint8_t)(n * 31); /* never twice the same */
        EXPECT(teco_step(t, &in, &out) == TECO_OK);
    }
    drop(&in);
    drop(&out);
}

static void refusals(teco *t) {
    teco_image in = picture(TECO_RGB, 16, 12), out = picture(TECO_RGB, 64, 48), bad;
    EXPECT(teco_step(NULL, &in, &out) == TECO_ERROR_ARGUMENT);
    EXPECT(teco_step(t, NULL, &out) == TECO_ERROR_ARGUMENT);
    EXPECT(teco_step(t, &in, NULL) == TECO_ERROR_ARGUMENT);
#define BAD(member, value, status)                                                                 \
    bad = in, bad.member = value;                                                                  \
    EXPECT(teco_step(t, &bad, &out) == status && *teco_last_error())
    BAD(plane[0], NULL, TECO_ERROR_ARGUMENT);
    BAD(stride[0], 47, TECO_ERROR_ARGUMENT);
    BAD(stride[0], 0, TECO_ERROR_ARGUMENT);
    BAD(format, (teco_format)9, TECO_ERROR_ARGUMENT);
    BAD(format, TECO_NV12, TECO_ERROR_ARGUMENT); /* it has no second plane */
    BAD(width, 7, TECO_ERROR_SIZE);
    BAD(height, -1, TECO_ERROR_SIZE);
    BAD(width, 15, TECO_ERROR_SIZE); /* the output is for another size */
    EXPECT(teco_reset(NULL) == TECO_ERROR_ARGUMENT && teco_flush(NULL) == TECO_ERROR_ARGUMENT);
    teco_info info = {.size = 1};
    EXPECT(teco_get_info(t, &info) == TECO_ERROR_ARGUMENT);
    EXPECT(teco_step(t, &in, &out) == TECO_OK); /* and none of that did harm */
    drop(&in);
    drop(&out);
    teco_close(NULL);
}

static void *in_thread(void *handle) {
    steps(handle, TECO_RGBA, TECO_RGB, 16, 16, 4);
    return NULL;
}

static void refused(const char *model, const teco_options *options, teco_status status) {
    teco *t = (teco *)&options;
    const teco_status found = teco_open(model, options, &t);
    if (found != status) fprintf(stderr, "%s: %d, not %d\n", model, (int)found, (int)status);
    EXPECT(found == status && t == NULL && *teco_last_error());
}

int main(int argc, char **argv) {
    if (argc != 7) return 2;
    const char *model = argv[1];
    teco_options options;
    teco_options_init(&options);
    options.threads = 1;
    options.library = argv[5];
    refused(NULL, &options, TECO_ERROR_ARGUMENT);
    refused("/nowhere/model.onnx", &options, TECO_ERROR_MODEL);
    refused(argv[2], &options, TECO_ERROR_MODEL);
    refused(argv[3], &options, TECO_ERROR_CONTRACT);
    refused(argv[4], &options, TECO_ERROR_CONTRACT);
    EXPECT(teco_open(model, &options, NULL) == TECO_ERROR_ARGUMENT);
    teco_options wrong = options;
    wrong.size = 3;
    refused(model, &wrong, TECO_ERROR_ARGUMENT);
    wrong = options;
    wrong.threads = -1;
    refused(model, &wrong, TECO_ERROR_ARGUMENT);
    wrong = options;
    wrong.library = "/nowhere";
    refused(model, &wrong, TECO_ERROR_LIBRARY);
    wrong.library = model;
    refused(model, &wrong, TECO_ERROR_LIBRARY);

    teco *t = NULL;
    EXPECT(teco_open(model, &options, &t) == TECO_OK);
    refusals(t);
    steps(t, TECO_RGB, TECO_RGB, 8, 8, atoi(argv[6]));
    steps(t, TECO_RGBA, TECO_RGBA, 17, 13, 2); /* a new size, odd */
    EXPECT(teco_reset(t) == TECO_OK);
    steps(t, TECO_NV12, TECO_NV12, 17, 13, 2);
    steps(t, TECO_NV12, TECO_RGB, 8, 8, 2);
    EXPECT(teco_flush(t) == TECO_OK);
    steps(t, TECO_RGB, TECO_NV12, 9, 8, 2);

    teco *other = NULL;
    EXPECT(teco_open(model, &options, &other) == TECO_OK);
    pthread_t threads[4];
    for (int n = 0; n < 4; n++) EXPECT(!pthread_create(&threads[n], NULL, in_thread, n < 3 ? t : other));
    for (int n = 0; n < 4; n++) pthread_join(threads[n], NULL);
    teco_info info = {.size = sizeof info};
    EXPECT(teco_get_info(t, &info) == TECO_OK);
    EXPECT(info.frames == (uint64_t)atoi(argv[6]) + 1 + 8 + 12 && info.scale == 4);
    teco_close(other);
    teco_close(t);
    puts("done");
    return 0;
}
