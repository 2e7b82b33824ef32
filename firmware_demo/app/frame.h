/* Frames on a serial line: COBS between zero bytes, CRC-32 at the end.
 *
 * Before COBS a frame is, little-endian:
 *   version u8, type u8, session u16, sequence u16, length u16, payload[length], crc32 u32
 * The CRC (that of zlib) covers everything before it.
 */
#ifndef FRAME_H
#define FRAME_H

#include <stdint.h>

#define FRAME_VERSION 1u
#define FRAME_HEADER 8u
#define FRAME_CRC 4u
/* Wire size of a frame with n bytes of payload: COBS adds a byte for each 254, and two zeros. */
#define FRAME_WIRE(n) \
    (FRAME_HEADER + (n) + FRAME_CRC + 1u + (FRAME_HEADER + (n) + FRAME_CRC) / 254u + 2u)

typedef struct {
    uint8_t type;
    uint16_t session;
    uint16_t sequence;
} frame_header;

typedef enum {
    FRAME_NONE = 0,    /* no frame has ended yet */
    FRAME_GOOD = 1,    /* a frame is in the decoder: frame_payload() until the next byte */
    FRAME_DAMAGED = 2, /* noise, wrong length or wrong CRC */
    FRAME_OTHER = 3    /* intact, but of another protocol version */
} frame_result;

/* Decodes byte by byte into a buffer of the caller's, which is aligned for float. */
typedef struct {
    uint8_t *bytes;
    uint16_t capacity; /* header, payload and CRC */
    uint16_t size;
    uint8_t block;   /* code of the COBS block that is being read, 0 before the first */
    uint8_t left;    /* bytes left in it */
    uint8_t damaged; /* longer than the buffer: wait for its end and drop it */
} frame_decoder;

uint32_t frame_crc(uint32_t crc, const uint8_t *bytes, uint32_t n);

void frame_decoder_init(frame_decoder *decoder, uint8_t *bytes, uint16_t capacity);

/* Takes one received byte. The header is written where the result is FRAME_GOOD or FRAME_OTHER. */
frame_result frame_decode(frame_decoder *decoder, uint8_t byte, frame_header *header);

/* The payload of the frame that was just decoded, and its length in bytes. */
const uint8_t *frame_payload(const frame_decoder *decoder);
uint16_t frame_payload_size(const frame_decoder *decoder);

/* Writes FRAME_WIRE(n) bytes at most to `wire`; returns how many. */
uint16_t frame_encode(uint8_t *wire, frame_header header, const uint8_t *payload, uint16_t n);

void put_u16(uint8_t *bytes, uint32_t value);
void put_u32(uint8_t *bytes, uint32_t value);
uint16_t get_u16(const uint8_t *bytes);
uint32_t get_u32(const uint8_t *bytes);

#endif
