/* Where ONNX Runtime's shared library is. SPDX-License-Identifier: Apache-2.0 */
#ifndef TECO_LIBRARY_H
#define TECO_LIBRARY_H

#include "teco.h"

/* dlopen the library that teco_options.library describes.
 *
 * named: option, or NULL to look around.
 * handle: of dlopen.
 * path: where it was found, to be freed. */
teco_status library_open(const char *named, void **handle, char **path);

#endif
