/* A CPython extension round one generated policy: what Python's call costs on top of the policy is
 * little more than reading a buffer and making an integer.
 *
 * The build passes POPS_HEADER, POPS_PREFIX, POPS_UPPER, POPS_OBSERVATION (float or uint8_t) and
 * POPS_DISCRETE (1 or 0). The scratch and the counts are static: calls hold Python's lock. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include POPS_HEADER

#define POPS_PASTE_(a, b) a##b
#define POPS_PASTE(a, b) POPS_PASTE_(a, b)
#define POLICY(name) POPS_PASTE(POPS_PREFIX, name)
#define SIZE_OF(name) POPS_PASTE(POPS_UPPER, name)

typedef POPS_OBSERVATION observation_t;
#if POPS_DISCRETE
typedef int32_t action_t;
#else
typedef float action_t;
#endif

enum { INPUTS = SIZE_OF(_OBSERVATION_SIZE), OUTPUTS = SIZE_OF(_OUTPUT_SIZE) };
enum { ACTIONS = SIZE_OF(_ACTION_SIZE), STATUSES = 5, BAD_ARGUMENT = 3 };

static unsigned char scratch[SIZE_OF(_SCRATCH_BYTES) + 1] __attribute__((aligned(64)));
static long long counts[STATUSES];

/* Any real buffer of INPUTS numbers, or one number where INPUTS is 1. */
#define CONVERT(type)                                                                              \
    do {                                                                                           \
        for (int i = 0; i < INPUTS; i++) {                                                         \
            type value;                                                                            \
            memcpy(&value, (const char *)view->buf + (size_t)i * sizeof value, sizeof value);      \
            copy[i] = (observation_t)value;                                                        \
        }                                                                                          \
    } while (0)

static char kind_of(const Py_buffer *view)
{
    const char *format = view->format ? view->format : "B";
    if (*format == '@' || *format == '=' || *format == '<') {
        format++;
    }
    if (*format == 'l' || *format == 'q' || *format == 'i') {
        return view->itemsize == 8 ? 'q' : 'i';
    }
    return *format;
}

static const observation_t *convert(const Py_buffer *view, char kind, observation_t *copy)
{
    switch (kind) {
    case 'f': CONVERT(float); return copy;
    case 'd': CONVERT(double); return copy;
    case 'B': CONVERT(uint8_t); return copy;
    case 'i': CONVERT(int32_t); return copy;
    case 'q': CONVERT(int64_t); return copy;
    default:
        PyErr_Format(PyExc_TypeError, "observations of format '%c' are not supported", kind);
        return NULL;
    }
}

/* NULL with an exception set if the object does not fit. The caller releases `view`. */
static const observation_t *read_observation(PyObject *object, Py_buffer *view,
                                             observation_t *copy)
{
    const char native = sizeof(observation_t) == 1 ? 'B' : 'f';
    view->obj = NULL;
    if (INPUTS == 1 && PyNumber_Check(object) && !PyObject_CheckBuffer(object)) {
        double value = PyFloat_AsDouble(object);
        copy[0] = (observation_t)value;
        return value == -1.0 && PyErr_Occurred() ? NULL : copy;
    }
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) != 0) {
        return NULL;
    }
    if (view->len != (Py_ssize_t)INPUTS * view->itemsize) {
        PyErr_Format(PyExc_ValueError, "found an observation of %zd numbers, expected %d",
                     view->len / (view->itemsize ? view->itemsize : 1), (int)INPUTS);
        return NULL;
    }
    char kind = kind_of(view);
    if (kind == native && (uintptr_t)view->buf % sizeof(observation_t) == 0) {
        return (const observation_t *)view->buf;
    }
    return convert(view, kind, copy);
}

static int check(int status)
{
    if (status < 0 || status >= STATUSES) {
        PyErr_Format(PyExc_RuntimeError, "the policy returned status %d", status);
        return -1;
    }
    counts[status]++;
    if (status >= BAD_ARGUMENT) {
        PyErr_Format(PyExc_RuntimeError, "the policy refused its arguments, status %d", status);
        return -1;
    }
    return 0;
}

static PyObject *make_action(const action_t *action)
{
#if POPS_DISCRETE
    return PyLong_FromLong(action[0]);
#else
    return PyBytes_FromStringAndSize((const char *)action, (Py_ssize_t)sizeof(action_t) * ACTIONS);
#endif
}

/* act(observation) -> int; for continuous actions act(observation, out) -> out, float32. */
static PyObject *act(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    Py_buffer view;
    observation_t copy[INPUTS];
    PyObject *result = NULL;
    (void)self;
    if (n != (POPS_DISCRETE ? 1 : 2)) {
        PyErr_SetString(PyExc_TypeError, "act takes one observation");
        return NULL;
    }
    const observation_t *observation = read_observation(args[0], &view, copy);
    if (observation != NULL) {
#if POPS_DISCRETE
        action_t action[1];
        if (check((int)POLICY(_act)(observation, action, scratch)) == 0) {
            result = make_action(action);
        }
#else
        Py_buffer out;
        if (PyObject_GetBuffer(args[1], &out, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) == 0) {
            if (out.len != (Py_ssize_t)sizeof(action_t) * ACTIONS) {
                PyErr_Format(PyExc_ValueError, "out needs %d float32", (int)ACTIONS);
            } else if (check((int)POLICY(_act)(observation, out.buf, scratch)) == 0) {
                result = args[1];
                Py_INCREF(result);
            }
            PyBuffer_Release(&out);
        }
#endif
    }
    if (view.obj != NULL) {
        PyBuffer_Release(&view);
    }
    return result;
}

/* Two contiguous buffers: observations in the policy's own type, and what comes out. */
static int pair(PyObject *args, Py_buffer *in, Py_buffer *out, size_t out_bytes, Py_ssize_t *n)
{
    if (!PyArg_ParseTuple(args, "y*w*", in, out)) {
        return -1;
    }
    *n = in->len / (Py_ssize_t)(sizeof(observation_t) * INPUTS);
    if (in->len != *n * (Py_ssize_t)(sizeof(observation_t) * INPUTS) ||
        out->len != *n * (Py_ssize_t)out_bytes) {
        PyErr_SetString(PyExc_ValueError, "observations and results do not fit");
        PyBuffer_Release(in);
        PyBuffer_Release(out);
        return -1;
    }
    return 0;
}

static PyObject *done(Py_buffer *in, Py_buffer *out, int failed)
{
    PyBuffer_Release(in);
    PyBuffer_Release(out);
    if (failed) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *act_batch(PyObject *self, PyObject *args)
{
    Py_buffer in, out;
    Py_ssize_t n;
    int failed = 0;
    (void)self;
    if (pair(args, &in, &out, sizeof(action_t) * ACTIONS, &n) != 0) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < n && !failed; i++) {
        failed = check((int)POLICY(_act)((const observation_t *)in.buf + i * INPUTS,
                                         (action_t *)out.buf + i * ACTIONS, scratch));
    }
    return done(&in, &out, failed);
}

static PyObject *infer_batch(PyObject *self, PyObject *args)
{
    Py_buffer in, out;
    Py_ssize_t n;
    int failed = 0;
    (void)self;
    if (pair(args, &in, &out, sizeof(float) * OUTPUTS, &n) != 0) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < n && !failed; i++) {
        failed = check((int)POLICY(_infer)((const observation_t *)in.buf + i * INPUTS,
                                           (float *)out.buf + i * OUTPUTS, scratch));
    }
    return done(&in, &out, failed);
}

static double nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return 1e9 * (double)now.tv_sec + (double)now.tv_nsec;
}

/* phases(observations: list, rounds) -> (before, inside, after): nanoseconds a call. Three loops in
 * C: reading each observation's buffer; the policy on plain memory; making each result. */
static PyObject *phases(PyObject *self, PyObject *args)
{
    PyObject *list;
    int rounds;
    (void)self;
    if (!PyArg_ParseTuple(args, "O!i", &PyList_Type, &list, &rounds)) {
        return NULL;
    }
    Py_ssize_t n = PyList_GET_SIZE(list);
    double calls = (double)n * (double)rounds;
    observation_t copy[INPUTS];
    action_t action[ACTIONS];
    volatile int sink = 0;
    Py_buffer view;
    observation_t *plain = calls > 0 ? PyMem_Malloc((size_t)n * sizeof copy) : NULL;
    if (plain == NULL) {
        return PyErr_NoMemory();
    }
    double start = nanoseconds();
    for (int r = 0; r < rounds; r++) {
        for (Py_ssize_t i = 0; i < n; i++) {
            const observation_t *o = read_observation(PyList_GET_ITEM(list, i), &view, copy);
            if (o != NULL && r == 0) {
                memcpy(plain + i * INPUTS, o, sizeof copy);
            }
            if (view.obj != NULL) {
                PyBuffer_Release(&view);
            }
            if (o == NULL) {
                PyMem_Free(plain);
                return NULL;
            }
        }
    }
    double before = nanoseconds() - start;
    start = nanoseconds();
    for (int r = 0; r < rounds; r++) {
        for (Py_ssize_t i = 0; i < n; i++) {
            sink += (int)POLICY(_act)(plain + i * INPUTS, action, scratch);
        }
    }
    double inside = nanoseconds() - start;
    start = nanoseconds();
    for (int r = 0; r < rounds; r++) {
        for (Py_ssize_t i = 0; i < n; i++) {
            Py_XDECREF(make_action(action));
        }
    }
    double after = nanoseconds() - start;
    PyMem_Free(plain);
    return Py_BuildValue("ddd", before / calls, inside / calls, after / calls);
}

/* statuses() -> calls so far by status: ok, out of range, not finite, bad argument, self-test. */
static PyObject *statuses(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
    return Py_BuildValue("LLLLL", counts[0], counts[1], counts[2], counts[3], counts[4]);
}

static PyObject *self_test(PyObject *self, PyObject *args)
{
    (void)self;
    (void)args;
#if SIZE_OF(_BYTES)
    static uint8_t image[SIZE_OF(_OBSERVATION_SIZE)];
    return PyLong_FromLong((long)POLICY(_self_test)(image, scratch));
#else
    return PyLong_FromLong((long)POLICY(_self_test)(scratch));
#endif
}

static PyMethodDef methods[] = {
    {"act", (PyCFunction)(void (*)(void))act, METH_FASTCALL, NULL},
    {"act_batch", act_batch, METH_VARARGS, NULL},
    {"infer_batch", infer_batch, METH_VARARGS, NULL},
    {"phases", phases, METH_VARARGS, NULL},
    {"statuses", statuses, METH_NOARGS, NULL},
    {"self_test", self_test, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "pops_policy", NULL, 0, methods,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_pops_policy(void)
{
    PyObject *self = PyModule_Create(&module);
    if (self != NULL && (PyModule_AddIntConstant(self, "inputs", INPUTS) != 0 ||
                         PyModule_AddIntConstant(self, "outputs", OUTPUTS) != 0 ||
                         PyModule_AddIntConstant(self, "actions", ACTIONS) != 0 ||
                         PyModule_AddStringConstant(self, "id", POLICY(_id)) != 0)) {
        Py_DECREF(self);
        return NULL;
    }
    return self;
}
