/* ONNX Runtime, opened with dlopen, so that nothing binds to one version of it, and its headers,
 * which come with neither its wheels nor most distributions, are not needed.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TECO_ORT_H
#define TECO_ORT_H

#include "contract.h"
#include "teco.h"

typedef struct ort ort;         /* the library, an environment, a session */
typedef struct ort_value ort_value; /* a tensor over memory of ours */

/* Find the library and load a model. Gives the manifest inside it, to be freed by the caller. */
teco_status ort_open(
    ort **out, const char *library, const char *model, int threads, char **manifest);

/* Whether the graph has the contract's ports, with its types. */
teco_status ort_check_ports(ort *o, const contract *c, const char *model);

/* A tensor; bytes must be what the dimensions make. */
teco_status ort_tensor(
    ort *o, void *data, size_t bytes, element type, const int64_t *dimensions, int rank,
    ort_value **out);
void ort_release(ort *o, ort_value *value);

teco_status ort_run(
    ort *o, const char *const *input_names, const ort_value *const *inputs, size_t input_count,
    const char *const *output_names, size_t output_count, ort_value **outputs);

const char *ort_version(const ort *o);
const char *ort_library(const ort *o);
void ort_close(ort *o);

#endif
