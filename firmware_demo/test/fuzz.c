/* Random and mutated frames against the whole protocol, under the sanitizers.
 *
 * usage: fuzz [FRAMES [SEED]]
 * What is asserted besides: an observation is acted on exactly when its frame was intact, of the
 * open session, next in sequence and of the right length; whatever the board sends are frames.
 */
#include <string.h>

#include "check.h"
#include "control.h"
#include "fake.h"
#include "frame.h"
#include "link.h"

#define MAX_PAYLOAD 300u

static uint64_t state;

static uint32_t random_u32(void)
{
    state ^= state << 13; /* xorshift64, Marsaglia 2003 */
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32);
}

static uint32_t below(uint32_t n)
{
    return random_u32() % n;
}

typedef struct {
    uint32_t bad_output; /* bytes outside of intact frames */
    uint32_t frames;
} output_check;

static void check_output(output_check *seen)
{
    static uint8_t bytes[1024];
    frame_decoder decoder;
    frame_header header;
    frame_decoder_init(&decoder, bytes, sizeof bytes);
    for (uint32_t i = 0; i < fake.sent; i++) {
        const frame_result result = frame_decode(&decoder, fake.output[i], &header);
        CHECK(result == FRAME_NONE || result == FRAME_GOOD);
        seen->frames += result == FRAME_GOOD;
        seen->bad_output += result == FRAME_DAMAGED;
    }
    fake.sent = 0;
}

static uint32_t mutate(uint8_t *wire, uint32_t n)
{
    for (uint32_t edits = 1u + below(3); edits; edits--) {
        const uint32_t at = below(n);
        switch (below(4)) {
        case 0: /* flip a bit */
            wire[at] ^= (uint8_t)(1u << below(8));
            break;
        case 1: /* another byte */
            wire[at] = (uint8_t)random_u32();
            break;
        case 2: /* lose a byte */
            memmove(wire + at, wire + at + 1, n - at - 1u);
            n = n > 1u ? n - 1u : n;
            break;
        default: /* a byte too many */
            memmove(wire + at + 1, wire + at, n - at);
            wire[at] = (uint8_t)random_u32();
            n++;
            break;
        }
    }
    return n;
}

static uint16_t random_payload(uint8_t *payload, uint8_t type)
{
    uint16_t right = 0;
    if (type == LINK_OBSERVE || type == LINK_OUTPUTS) {
        right = (uint16_t)CONTROL_OBSERVATION_BYTES;
    } else if (type == LINK_OPEN || type == LINK_ENABLE) {
        right = type == LINK_OPEN ? 4 : 1;
    }
    const uint16_t n = below(8) ? right : (uint16_t)below(MAX_PAYLOAD);
    for (uint16_t i = 0; i < n; i++) {
        payload[i] = (uint8_t)random_u32();
    }
    if (type == LINK_OPEN && n == 4) {
        put_u32(payload, below(20000));
    }
    return n;
}

static bool mutated(const uint8_t *wire, uint32_t n, const uint8_t *original, uint32_t size)
{
    return n != size || memcmp(wire, original, n) != 0;
}

static void frame(serial_link *line, controller *control)
{
    static uint8_t payload[MAX_PAYLOAD], wire[FRAME_WIRE(MAX_PAYLOAD) + 8u], original[sizeof wire];
    frame_header header;
    header.type = below(16) ? (uint8_t)(1u + below(6)) : (uint8_t)random_u32();
    header.session = below(16) ? line->session : (uint16_t)random_u32();
    header.sequence = (uint16_t)(below(16) ? line->sequence + 1u : random_u32());
    if (header.type == LINK_OPEN) {
        header.session = (uint16_t)random_u32();
    }
    const uint16_t n = random_payload(payload, header.type);
    const uint32_t size = frame_encode(original, header, payload, n);
    uint32_t sent = size;
    memcpy(wire, original, size);
    if (below(2)) {
        sent = mutate(wire, size);
    }
    const bool intact = !mutated(wire, sent, original, size);
    const bool due = intact && header.type == LINK_OBSERVE && n == CONTROL_OBSERVATION_BYTES &&
                     line->session != 0 && header.session == line->session &&
                     header.sequence == (uint16_t)(line->sequence + 1u);
    const uint32_t steps = control->steps;
    for (uint32_t i = 0; i < sent; i++) {
        (void)link_receive(line, wire[i]);
    }
    (void)link_receive(line, 0); /* ends what a mutation left open */
    /* A change that a delimiter cuts off, or that a lost leading zero is, leaves it intact. */
    CHECK(control->steps - steps <= 1u);
    CHECK(!intact || control->steps - steps == due);
    if (control->steps != steps) {
        CHECK(memcmp(frame_payload(&line->decoder), payload, n) == 0);
    }
}

int main(int count, char **arguments)
{
    static controller control;
    static serial_link line;
    output_check seen = {0, 0};
    const uint32_t frames = count > 1 ? (uint32_t)strtoul(arguments[1], NULL, 10) : 1000000u;
    state = 0x9E3779B97F4A7C15u + (count > 2 ? strtoul(arguments[2], NULL, 10) : 0u);
    port_init();
    fake.step = 1;
    control_init(&control);
    link_init(&line, &control, false);
    for (uint32_t i = 0; i < frames; i++) {
        if (below(4) == 0) { /* noise */
            for (uint32_t n = below(80); n; n--) {
                (void)link_receive(&line, (uint8_t)random_u32());
            }
            (void)link_receive(&line, 0);
        } else {
            frame(&line, &control);
        }
        const uint32_t silence = control_check_timeout(&control, port_now());
        if (silence) {
            link_timed_out(&line, silence);
        }
        check_output(&seen);
    }
    printf("%u frames: %u steps, %u damaged, %u refused, %u replies\n", frames, control.steps,
           line.damaged, line.refused, seen.frames);
    CHECK(control.steps > frames / 50u && line.damaged > frames / 20u);
    return 0;
}
