/* Bytes from a receive interrupt to the control loop. One writer, one reader. */
#ifndef RING_H
#define RING_H

#include <stdbool.h>
#include <stdint.h>

#define RING_SIZE 128u /* a power of two; a line of telemetry lasts for 60 bytes at 115,200 baud */

typedef struct {
    volatile uint8_t head; /* moved by the interrupt alone */
    volatile uint8_t tail; /* moved by the loop alone */
    uint8_t bytes[RING_SIZE];
} ring;

/* A full ring drops the byte; the CRC finds out. */
static inline void ring_put(ring *r, uint8_t byte)
{
    const uint8_t head = r->head;
    if ((uint8_t)(head - r->tail) < RING_SIZE) {
        r->bytes[head % RING_SIZE] = byte;
        r->head = (uint8_t)(head + 1u);
    }
}

static inline bool ring_empty(const ring *r)
{
    return r->head == r->tail;
}

static inline bool ring_take(ring *r, uint8_t *byte)
{
    const uint8_t tail = r->tail;
    if (r->head == tail) {
        return false;
    }
    *byte = r->bytes[tail % RING_SIZE];
    r->tail = (uint8_t)(tail + 1u);
    return true;
}

#endif
