/* SPDX-License-Identifier: Apache-2.0 */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char text[1024];

teco_status teco_fail(teco_status status, const char *format, ...) {
    char fresh[sizeof text]; /* an argument may be the text of the error before */
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(fresh, sizeof fresh, format, arguments);
    va_end(arguments);
    size_t n = 0;
    for (; fresh[n] && n < sizeof text - 1; n++)
        text[n] = fresh[n] == '\n' || fresh[n] == '\r' ? ' ' : fresh[n];
    text[n] = '\0';
    return status;
}

const char *teco_last_error(void) { return text; }

const char *teco_status_text(teco_status status) {
    switch (status) {
    case TECO_OK: return "done";
    case TECO_ERROR_ARGUMENT: return "wrong argument";
    case TECO_ERROR_LIBRARY: return "no usable ONNX Runtime library";
    case TECO_ERROR_MODEL: return "no usable model file";
    case TECO_ERROR_CONTRACT: return "not a model that this library can drive";
    case TECO_ERROR_SIZE: return "unsuitable size";
    case TECO_ERROR_MEMORY: return "out of memory";
    case TECO_ERROR_RUN: return "the network failed";
    }
    return "unknown status";
}
