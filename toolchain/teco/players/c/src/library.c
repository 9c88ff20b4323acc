/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE /* dladdr */
#include "library.h"

#include <dlfcn.h>
#include <glob.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "error.h"

#define FILES "libonnxruntime.so*"
#define ROOM 4096

/* In site-packages and dist-packages of every Python below a folder. */
static const char *const PYTHONS[] = {
    "/lib/python3*/site-packages/onnxruntime/capi/" FILES,
    "/lib/python3*/dist-packages/onnxruntime/capi/" FILES,
    "/lib/python3/dist-packages/onnxruntime/capi/" FILES,
};

static bool try_file(const char *file, void **handle, char **path) {
    /* NODELETE: the library has threads and handlers at exit that do not outlive its code. */
    *handle = dlopen(file, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!*handle) return false;
    if (!dlsym(*handle, "OrtGetApiBase")) {
        dlclose(*handle);
        *handle = NULL;
        return false;
    }
    *path = strdup(file);
    return true;
}

/* The newest of the files of a pattern that loads. */
static bool try_pattern(const char *pattern, void **handle, char **path) {
    glob_t found;
    bool done = false;
    if (glob(pattern, 0, NULL, &found)) return false;
    for (size_t i = found.gl_pathc; i-- > 0 && !done;) done = try_file(found.gl_pathv[i], handle, path);
    globfree(&found);
    return done;
}

/* A folder's name goes into a pattern as it is, whatever its characters mean there. */
static bool try_below(const char *folder, const char *pattern, void **handle, char **path) {
    char whole[ROOM];
    size_t n = 0;
    for (; *folder && n < sizeof whole - 2; folder++) {
        if (strchr("*?[\\", *folder)) whole[n++] = '\\';
        whole[n++] = *folder;
    }
    if (*folder || n + strlen(pattern) >= sizeof whole) return false;
    strcpy(whole + n, pattern);
    return try_pattern(whole, handle, path);
}

static bool try_pythons(const char *prefix, void **handle, char **path) {
    for (size_t i = 0; i < sizeof PYTHONS / sizeof *PYTHONS; i++)
        if (try_below(prefix, PYTHONS[i], handle, path)) return true;
    return false;
}

/* What the user named: it, or nothing. */
static teco_status open_named(const char *name, const char *by, void **handle, char **path) {
    struct stat status;
    if (stat(name, &status))
        return teco_fail(
            TECO_ERROR_LIBRARY, "%s names %s, which does not exist; expected ONNX Runtime's shared "
            "library (libonnxruntime.so, 1.17 or newer) or the folder with it", by, name);
    if (S_ISDIR(status.st_mode)) {
        if (try_below(name, "/" FILES, handle, path)) return TECO_OK;
        return teco_fail(TECO_ERROR_LIBRARY, "%s names %s, which holds no usable " FILES, by, name);
    }
    /* Without a slash dlopen would look along the linker's path instead. */
    char local[ROOM];
    if (snprintf(local, sizeof local, "%s%s", strchr(name, '/') ? "" : "./", name) >= ROOM)
        return teco_fail(TECO_ERROR_ARGUMENT, "%s names too long a path", by);
    if (try_file(local, handle, path)) return TECO_OK;
    const char *why = dlerror();
    return teco_fail(
        TECO_ERROR_LIBRARY, "%s names %s, which is no ONNX Runtime library that can be loaded: %s", by,
        name, why ? why : "it has no OrtGetApiBase");
}

teco_status library_open(const char *named, void **handle, char **path) {
    *handle = NULL;
    *path = NULL;
    if (named && *named) return open_named(named, "the option library", handle, path);
    const char *folder = getenv("TECO_ORT_LIBRARY");
    if (folder && *folder) return open_named(folder, "TECO_ORT_LIBRARY", handle, path);

    Dl_info self;
    /* Through a variable of ours: a function's address is no object pointer in ISO C. */
    static const char here;
    if (dladdr(&here, &self) && self.dli_fname) {
        char own[ROOM];
        const char *slash = strrchr(self.dli_fname, '/');
        int length = slash ? (int)(slash - self.dli_fname) : 1;
        if (snprintf(own, sizeof own, "%.*s", length, slash ? self.dli_fname : ".") < ROOM &&
            try_below(own, "/" FILES, handle, path))
            return TECO_OK;
    }
    if ((folder = getenv("VIRTUAL_ENV")) && *folder && try_pythons(folder, handle, path)) return TECO_OK;
    if (try_file("libonnxruntime.so.1", handle, path) || try_file("libonnxruntime.so", handle, path))
        return TECO_OK;
    if (try_pythons("/usr/local", handle, path) || try_pythons("/usr", handle, path)) return TECO_OK;
    char user[ROOM];
    if ((folder = getenv("HOME")) && *folder &&
        snprintf(user, sizeof user, "%s/.local", folder) < ROOM && try_pythons(user, handle, path))
        return TECO_OK;
    return teco_fail(
        TECO_ERROR_LIBRARY,
        "no ONNX Runtime library was found; `pip install onnxruntime` and set TECO_ORT_LIBRARY to its "
        "onnxruntime/capi folder, or to a libonnxruntime.so of 1.17 or newer");
}
