#include "frame.h"

void put_u16(uint8_t *bytes, uint32_t value)
{
    bytes[0] = (uint8_t)value;
    bytes[1] = (uint8_t)(value >> 8);
}

void put_u32(uint8_t *bytes, uint32_t value)
{
    put_u16(bytes, value);
    put_u16(bytes + 2, value >> 16);
}

uint16_t get_u16(const uint8_t *bytes)
{
    return (uint16_t)(bytes[0] | ((uint32_t)bytes[1] << 8));
}

uint32_t get_u32(const uint8_t *bytes)
{
    return get_u16(bytes) | ((uint32_t)get_u16(bytes + 2) << 16);
}

/* Half a byte at a time: 64 bytes of table where the usual one takes a kilobyte. */
uint32_t frame_crc(uint32_t crc, const uint8_t *bytes, uint32_t n)
{
    static const uint32_t table[16] = {
        0x00000000u, 0x1DB71064u, 0x3B6E20C8u, 0x26D930ACu, 0x76DC4190u, 0x6B6B51F4u,
        0x4DB26158u, 0x5005713Cu, 0xEDB88320u, 0xF00F9344u, 0xD6D6A3E8u, 0xCB61B38Cu,
        0x9B64C2B0u, 0x86D3D2D4u, 0xA00AE278u, 0xBDBDF21Cu};
    crc = ~crc;
    for (uint32_t i = 0; i < n; i++) {
        crc ^= bytes[i];
        crc = (crc >> 4) ^ table[crc & 15u];
        crc = (crc >> 4) ^ table[crc & 15u];
    }
    return ~crc;
}

void frame_decoder_init(frame_decoder *decoder, uint8_t *bytes, uint16_t capacity)
{
    decoder->bytes = bytes;
    decoder->capacity = capacity;
    decoder->size = 0;
    decoder->block = 0;
    decoder->left = 0;
    decoder->damaged = 0;
}

static void append(frame_decoder *decoder, uint8_t byte)
{
    if (decoder->size < decoder->capacity) {
        decoder->bytes[decoder->size++] = byte;
    } else {
        decoder->damaged = 1;
    }
}

static frame_result check(const frame_decoder *decoder, uint16_t size, frame_header *header)
{
    const uint8_t *bytes = decoder->bytes;
    if (size < FRAME_HEADER + FRAME_CRC) {
        return FRAME_DAMAGED;
    }
    const uint32_t body = (uint32_t)size - FRAME_CRC;
    if (frame_crc(0, bytes, body) != get_u32(bytes + body)) {
        return FRAME_DAMAGED;
    }
    header->type = bytes[1];
    header->session = get_u16(bytes + 2);
    header->sequence = get_u16(bytes + 4);
    if (bytes[0] != FRAME_VERSION) {
        return FRAME_OTHER;
    }
    return get_u16(bytes + 6) == body - FRAME_HEADER ? FRAME_GOOD : FRAME_DAMAGED;
}

frame_result frame_decode(frame_decoder *decoder, uint8_t byte, frame_header *header)
{
    if (byte == 0) {
        const int empty = decoder->block == 0;
        const int broken = decoder->damaged || decoder->left;
        const uint16_t size = decoder->size;
        frame_decoder_init(decoder, decoder->bytes, decoder->capacity);
        if (empty) {
            return FRAME_NONE; /* two delimiters in a row */
        }
        return broken ? FRAME_DAMAGED : check(decoder, size, header);
    }
    if (decoder->left) {
        append(decoder, byte);
        decoder->left--;
        return FRAME_NONE;
    }
    if (decoder->block != 0 && decoder->block != 0xFFu) {
        append(decoder, 0);
    }
    decoder->block = byte;
    decoder->left = (uint8_t)(byte - 1u);
    return FRAME_NONE;
}

const uint8_t *frame_payload(const frame_decoder *decoder)
{
    return decoder->bytes + FRAME_HEADER;
}

uint16_t frame_payload_size(const frame_decoder *decoder)
{
    return get_u16(decoder->bytes + 6);
}

typedef struct {
    uint8_t *wire;
    uint32_t size;
    uint32_t code; /* where the code of the open block goes */
} cobs_writer;

static void stuff(cobs_writer *writer, const uint8_t *bytes, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (writer->size - writer->code == 0xFFu) {
            writer->wire[writer->code] = 0xFFu;
            writer->code = writer->size++;
        }
        if (bytes[i] == 0) {
            writer->wire[writer->code] = (uint8_t)(writer->size - writer->code);
            writer->code = writer->size++;
        } else {
            writer->wire[writer->size++] = bytes[i];
        }
    }
}

uint16_t frame_encode(uint8_t *wire, frame_header header, const uint8_t *payload, uint16_t n)
{
    uint8_t head[FRAME_HEADER];
    uint8_t tail[FRAME_CRC];
    head[0] = FRAME_VERSION;
    head[1] = header.type;
    put_u16(head + 2, header.session);
    put_u16(head + 4, header.sequence);
    put_u16(head + 6, n);
    put_u32(tail, frame_crc(frame_crc(0, head, FRAME_HEADER), payload, n));

    /* A zero in front as well: text that came before it ends there and is dropped alone. */
    cobs_writer writer = {wire, 2, 1};
    wire[0] = 0;
    stuff(&writer, head, FRAME_HEADER);
    stuff(&writer, payload, n);
    stuff(&writer, tail, FRAME_CRC);
    wire[writer.code] = (uint8_t)(writer.size - writer.code);
    wire[writer.size++] = 0;
    return (uint16_t)writer.size;
}
