/* The stream contract: how a model's step is driven, as the file's own manifest says. Python
 * (teco/model/contract.py) and the page for browsers (page/contract.js) read it by the same rules:
 * tests/fixtures/contract. SPDX-License-Identifier: Apache-2.0 */
#ifndef TECO_CONTRACT_H
#define TECO_CONTRACT_H

#include <stdbool.h>

#include "teco.h"

#define METADATA_KEY "teco.manifest"
#define SCHEMA 1
#define MINIMUM 8
#define MAX_STATES 8
#define MAX_OUTPUTS (MAX_STATES + 2)
#define MAX_NAME 64
#define FROM_FRAME (-1) /* of a state: the frame itself, not an output */

typedef enum { FLOAT32, UINT8 } element;

/* factor * h^high * w^wide, such as 4*h */
typedef struct {
    int factor, high, wide;
} extent;

typedef struct {
    char name[MAX_NAME];
    element type;
    extent shape[4];
    int rank;
} port;

typedef struct {
    port input;
    int source; /* which output it was at the step before, or FROM_FRAME */
} state;

typedef struct {
    char variant[MAX_NAME];
    port frame;
    /* What a step must fetch: the picture first, then what only becomes state, then the check. */
    port outputs[MAX_OUTPUTS];
    int output_count;
    state states[MAX_STATES];
    int state_count;
    int check; /* output that is finite exactly where the HR frame is; -1: the frame itself shows it */
    int scale;
    int width, height; /* the only size; 0: any */
} contract;

/* Read and check a manifest: everything that a step relies on is known here, or it is refused. */
teco_status contract_read(contract *c, const char *manifest, const char *model);

/* Whether a picture of this size may go in. */
teco_status contract_check_size(const contract *c, int width, int height);

/* The dimensions of a port for a frame of this size, and the bytes they make; false where they
 * exceed what can be addressed. */
bool port_shape(const port *p, int width, int height, int64_t dimensions[4], size_t *bytes);

#endif
