/* The serial protocol: who may ask what, and what the board answers.
 *
 * One request is in flight. Requests of a session carry sequence numbers 1, 2, 3 ...; a repeated
 * number gets the cached reply, so that nothing is done twice. Payloads are little-endian.
 *
 *   request            payload                       reply (type | 0x80)
 *   HELLO    0x01      -                             who the board is: link_hello()
 *   OPEN     0x02      u32 actuator time-out, ms     -                 starts a session, disabled
 *   OBSERVE  0x03      the observation               u8 policy status, u8 flags, u16 missed,
 *                                                    u32 inference, u32 longest (timer ticks),
 *                                                    the action: i32 or f32 each
 *   ENABLE   0x04      u8: 1 enables, 0 disables     u8 flags
 *   STATUS   0x05      -                             u8 flags, u8[3], u32 steps, missed, longest,
 *                                                    boot, damaged, refused, stack never used
 *   OUTPUTS  0x06      the observation               u8 policy status, u8[3], f32 each output
 *
 * The board alone sends ERROR 0xFE (u8 error) and EVENT 0xFF (u8 event, u8[3], u32 ticks of silence).
 * Damaged frames are counted and get no answer: the computer asks again.
 */
#ifndef LINK_H
#define LINK_H

#include <stdbool.h>
#include <stdint.h>

#include "control.h"
#include "frame.h"

enum {
    LINK_HELLO = 0x01,
    LINK_OPEN = 0x02,
    LINK_OBSERVE = 0x03,
    LINK_ENABLE = 0x04,
    LINK_STATUS = 0x05,
    LINK_OUTPUTS = 0x06,
    LINK_REPLY = 0x80,
    LINK_ERROR = 0xFE,
    LINK_EVENT = 0xFF
};

enum { LINK_FLAG_ENABLED = 1, LINK_FLAG_TIMED_OUT = 2, LINK_FLAG_STOPPED = 4 };

enum {
    LINK_ERROR_VERSION = 1,  /* another protocol version */
    LINK_ERROR_TYPE = 2,     /* no such request */
    LINK_ERROR_LENGTH = 3,   /* the payload does not fit the request */
    LINK_ERROR_SESSION = 4,  /* not the open session */
    LINK_ERROR_SEQUENCE = 5, /* neither the next number nor the last one */
    LINK_ERROR_VALUE = 6,    /* a time-out of 0 or over 10,000 ms */
    LINK_ERROR_STOPPED = 7   /* the self-test failed; the board does not act */
};

enum { LINK_EVENT_TIMEOUT = 1 };

#define LINK_MAX_TIMEOUT_MS 10000u
#define LINK_OBSERVE_REPLY (12u + CONTROL_ACTION_BYTES)
#define LINK_OUTPUTS_REPLY (4u + POLICY_OUTPUT_SIZE * sizeof(float))
#define LINK_STATUS_REPLY 32u
#define LINK_MAX(a, b) ((a) > (b) ? (a) : (b))
#define LINK_MAX_REPLY \
    LINK_MAX(LINK_STATUS_REPLY, LINK_MAX(LINK_OBSERVE_REPLY, LINK_OUTPUTS_REPLY))
#define LINK_MAX_REQUEST LINK_MAX(4u, CONTROL_OBSERVATION_BYTES)
#define LINK_FRAME_BYTES (FRAME_HEADER + LINK_MAX_REQUEST + FRAME_CRC)

typedef struct {
    controller *control;
    frame_decoder decoder;
    uint16_t session;  /* 0: none is open */
    uint16_t sequence; /* of the last request that was served */
    uint32_t damaged;  /* frames that were noise */
    uint32_t refused;  /* intact frames that got an ERROR */
    uint32_t boot;     /* ticks from reset to the first control tick */
    bool stopped;      /* the self-test failed */
    bool timed_out;    /* the actuator was disabled by silence, and not enabled since */
    uint16_t cached;   /* bytes of the last reply */
    uint8_t reply[FRAME_WIRE(LINK_MAX_REPLY)];
    /* Aligned, so that the policy reads the observation where it lies: the header has 8 bytes. */
    uint8_t bytes[LINK_FRAME_BYTES] __attribute__((aligned(4)));
} serial_link;

void link_init(serial_link *link, controller *control, bool stopped);

/* Takes one received byte and answers the request that it completes, if it does.
 * True if a session is open. */
bool link_receive(serial_link *link, uint8_t byte);

/* Tells the computer that the actuator was disabled after so many ticks of silence. */
void link_timed_out(serial_link *link, uint32_t silence);

#endif
