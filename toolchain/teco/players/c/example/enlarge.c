/* Raw RGB pictures of one size on stdin, enlarged on stdout:
 *
 *   ffmpeg -i in.mp4 -f rawvideo -pix_fmt rgb24 - | teco-example model.onnx 320 180 |
 *     ffmpeg -f rawvideo -pix_fmt rgb24 -video_size 1280x720 -framerate 25 -i - out.mp4
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>

#include "teco.h"

static int fail(const char *what) {
    fprintf(stderr, "teco-example: %s\n", what);
    return EXIT_FAILURE;
}

int main(int argc, char **argv) {
    if (argc != 4) return fail("usage: teco-example MODEL.onnx WIDTH HEIGHT < RGB > RGB");
    const int width = atoi(argv[2]), height = atoi(argv[3]);
    teco *t = NULL;
    if (teco_open(argv[1], NULL, &t)) return fail(teco_last_error());
    teco_info info = {.size = sizeof info};
    teco_get_info(t, &info);
    if (width < info.minimum || height < info.minimum || width > 16384 || height > 16384) {
        teco_close(t);
        return fail("WIDTH or HEIGHT is too small or too large");
    }

    const size_t lr_size = (size_t)width * (size_t)height * 3;
    const size_t hr_size = lr_size * (size_t)(info.scale * info.scale);
    uint8_t *lr = malloc(lr_size), *hr = malloc(hr_size);
    teco_image in = {.format = TECO_RGB, .width = width, .height = height};
    teco_image out = {.format = TECO_RGB, .width = width * info.scale, .height = height * info.scale};
    in.plane[0] = lr;
    in.stride[0] = 3 * (ptrdiff_t)in.width;
    out.plane[0] = hr;
    out.stride[0] = 3 * (ptrdiff_t)out.width;

    int result = lr && hr ? EXIT_SUCCESS : fail("out of memory");
    size_t got = 0;
    while (result == EXIT_SUCCESS && (got = fread(lr, 1, lr_size, stdin)) == lr_size) {
        if (teco_step(t, &in, &out))
            result = fail(teco_last_error());
        else if (fwrite(hr, 1, hr_size, stdout) != hr_size)
            result = fail("the output cannot be written");
    }
    if (result == EXIT_SUCCESS && got) result = fail("the last picture is not whole");
    free(lr);
    free(hr);
    teco_close(t);
    return result;
}
