#include <Python.h>

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_native_code", NULL, -1, NULL};

PyMODINIT_FUNC PyInit__native_code(void) { return PyModule_Create(&module); }
