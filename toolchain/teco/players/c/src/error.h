/* The text of the last error, one for each thread. SPDX-License-Identifier: Apache-2.0 */
#ifndef TECO_ERROR_H
#define TECO_ERROR_H

#include "teco.h"

/* Keep a sentence for teco_last_error and give the status back, to be returned. */
teco_status teco_fail(teco_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
