#ifndef FAKE_H
#define FAKE_H

#include "port.h"

#define FAKE_OUTPUT 4096u

typedef struct {
    uint32_t now;         /* what port_now() says */
    uint32_t step;        /* added to it at each call */
    uint32_t sent;        /* bytes in output */
    uint32_t actuations;  /* calls of port_actuate() */
    int32_t last_action;  /* of the last call that was enabled */
    bool enabled;         /* of the last call */
    uint8_t output[FAKE_OUTPUT];
} fake_board;

extern fake_board fake;

#endif
