#include "link.h"

#include <string.h>

#include "port.h"

#ifndef POPS_BUILD
#define POPS_BUILD "unknown"
#endif

#define ID_BYTES 64u
#define HELLO_BYTES (20u + 1u + ID_BYTES + sizeof PORT_NAME + sizeof POPS_BUILD)

void link_init(serial_link *link, controller *control, bool stopped)
{
    memset(link, 0, sizeof *link);
    link->control = control;
    link->stopped = stopped;
    frame_decoder_init(&link->decoder, link->bytes, LINK_FRAME_BYTES);
}

static uint8_t flags(const serial_link *link)
{
    return (uint8_t)((link->control->enabled ? LINK_FLAG_ENABLED : 0) |
                     (link->timed_out ? LINK_FLAG_TIMED_OUT : 0) |
                     (link->stopped ? LINK_FLAG_STOPPED : 0));
}

/* Sends a reply and keeps it for a request that is repeated. */
static void answer(serial_link *link, frame_header header, const uint8_t *payload, uint32_t n)
{
    header.type |= LINK_REPLY;
    link->cached = frame_encode(link->reply, header, payload, (uint16_t)n);
    port_write(link->reply, link->cached);
}

/* Sends what is not a reply to be kept. */
static void notify(frame_header header, const uint8_t *payload, uint16_t n)
{
    uint8_t wire[FRAME_WIRE(8u)];
    port_write(wire, frame_encode(wire, header, payload, n));
}

static void refuse(serial_link *link, frame_header header, uint8_t error)
{
    link->refused++;
    header.type = LINK_ERROR;
    notify(header, &error, 1);
}

/* A length byte, then the characters. */
static uint32_t put_text(uint8_t *bytes, const char *text, uint32_t n)
{
    bytes[0] = (uint8_t)n;
    memcpy(bytes + 1, text, n);
    return n + 1;
}

/* u16 observation values, outputs, action values; u8 continuous, u8 bytes of an observation value;
 * u32 period in microseconds, u32 timer ticks a second, u8 flags, u8 protocol version, u16 0; then
 * policy id, board and build, each a length byte and its characters. */
static void hello(const serial_link *link, frame_header header)
{
    uint8_t payload[HELLO_BYTES];
    uint8_t wire[FRAME_WIRE(HELLO_BYTES)];
    put_u16(payload, POLICY_OBSERVATION_SIZE);
    put_u16(payload + 2, POLICY_OUTPUT_SIZE);
    put_u16(payload + 4, POLICY_ACTION_SIZE);
#ifdef POPS_CONTINUOUS
    payload[6] = 1;
#else
    payload[6] = 0;
#endif
    payload[7] = sizeof(control_observation);
    put_u32(payload + 8, CONTROL_PERIOD_US);
    put_u32(payload + 12, PORT_HZ);
    payload[16] = flags(link);
    payload[17] = FRAME_VERSION;
    put_u16(payload + 18, 0);
    uint32_t n = 20;
    n += put_text(payload + n, policy_id, ID_BYTES);
    n += put_text(payload + n, PORT_NAME, sizeof PORT_NAME - 1u);
    n += put_text(payload + n, POPS_BUILD, sizeof POPS_BUILD - 1u);
    header.type = LINK_HELLO | LINK_REPLY;
    port_write(wire, frame_encode(wire, header, payload, (uint16_t)n));
}

static void open_session(serial_link *link, frame_header header)
{
    const uint32_t timeout = get_u32(frame_payload(&link->decoder));
    if (timeout == 0 || timeout > LINK_MAX_TIMEOUT_MS || header.session == 0) {
        refuse(link, header, LINK_ERROR_VALUE);
        return;
    }
    link->control->timeout = timeout * (PORT_HZ / 1000u);
    control_enable(link->control, false, port_now());
    link->timed_out = false;
    link->session = header.session;
    link->sequence = header.sequence;
    answer(link, header, NULL, 0);
}

static void observe(serial_link *link, frame_header header, uint32_t arrived)
{
    uint8_t payload[LINK_OBSERVE_REPLY];
    controller *control = link->control;
    const void *observation = frame_payload(&link->decoder);
    const policy_status status = control_step(control, observation, arrived);
    control_account(control, arrived, arrived);
    payload[0] = (uint8_t)status;
    payload[1] = flags(link);
    put_u16(payload + 2, control->missed < 0xFFFFu ? control->missed : 0xFFFFu);
    put_u32(payload + 4, control->inference);
    put_u32(payload + 8, control->longest);
    memcpy(payload + 12, control->action, CONTROL_ACTION_BYTES);
    answer(link, header, payload, sizeof payload);
}

static void outputs(serial_link *link, frame_header header)
{
    uint8_t payload[LINK_OUTPUTS_REPLY] = {0};
    float values[POLICY_OUTPUT_SIZE];
    const void *observation = frame_payload(&link->decoder);
    memset(values, 0, sizeof values);
    payload[0] = (uint8_t)control_outputs(observation, values);
    memcpy(payload + 4, values, sizeof values);
    answer(link, header, payload, sizeof payload);
}

static void enable(serial_link *link, frame_header header)
{
    control_enable(link->control, *frame_payload(&link->decoder) == 1, port_now());
    link->timed_out = false;
    const uint8_t payload = flags(link);
    answer(link, header, &payload, 1);
}

static void report(serial_link *link, frame_header header)
{
    uint8_t payload[LINK_STATUS_REPLY] = {0};
    payload[0] = flags(link);
    put_u32(payload + 4, link->control->steps);
    put_u32(payload + 8, link->control->missed);
    put_u32(payload + 12, link->control->longest);
    put_u32(payload + 16, link->boot);
    put_u32(payload + 20, link->damaged);
    put_u32(payload + 24, link->refused);
    put_u32(payload + 28, port_stack_free());
    answer(link, header, payload, sizeof payload);
}

/* Bytes of payload that a request has; -1 where there is no such request. */
static int32_t expected_size(uint8_t type)
{
    switch (type) {
    case LINK_HELLO:
    case LINK_STATUS:
        return 0;
    case LINK_OPEN:
        return 4;
    case LINK_ENABLE:
        return 1;
    case LINK_OBSERVE:
    case LINK_OUTPUTS:
        return (int32_t)CONTROL_OBSERVATION_BYTES;
    default:
        return -1;
    }
}

static void serve(serial_link *link, frame_header header, uint32_t arrived)
{
    link->sequence = header.sequence;
    link->cached = 0;
    switch (header.type) {
    case LINK_OBSERVE:
        observe(link, header, arrived);
        break;
    case LINK_OUTPUTS:
        outputs(link, header);
        break;
    case LINK_ENABLE:
        enable(link, header);
        break;
    default:
        report(link, header);
        break;
    }
}

static void dispatch(serial_link *link, frame_header header)
{
    const uint32_t arrived = port_now();
    const int32_t expected = expected_size(header.type);
    if (expected < 0) {
        refuse(link, header, LINK_ERROR_TYPE);
    } else if (expected != (int32_t)frame_payload_size(&link->decoder)) {
        refuse(link, header, LINK_ERROR_LENGTH);
    } else if (header.type == LINK_HELLO) {
        hello(link, header);
    } else if (link->stopped) {
        refuse(link, header, LINK_ERROR_STOPPED);
    } else if (header.type == LINK_OPEN) {
        open_session(link, header);
    } else if (link->session == 0 || header.session != link->session) {
        refuse(link, header, LINK_ERROR_SESSION);
    } else if (header.sequence == link->sequence && link->cached) {
        port_write(link->reply, link->cached);
    } else if (header.sequence != (uint16_t)(link->sequence + 1u)) {
        refuse(link, header, LINK_ERROR_SEQUENCE);
    } else {
        serve(link, header, arrived);
    }
}

bool link_receive(serial_link *link, uint8_t byte)
{
    frame_header header = {0, 0, 0};
    switch (frame_decode(&link->decoder, byte, &header)) {
    case FRAME_GOOD:
        dispatch(link, header);
        break;
    case FRAME_DAMAGED:
        link->damaged++;
        break;
    case FRAME_OTHER:
        refuse(link, header, LINK_ERROR_VERSION);
        break;
    case FRAME_NONE:
    default:
        break;
    }
    return link->session != 0;
}

void link_timed_out(serial_link *link, uint32_t silence)
{
    const frame_header header = {LINK_EVENT, link->session, link->sequence};
    uint8_t payload[8] = {LINK_EVENT_TIMEOUT};
    put_u32(payload + 4, silence);
    link->timed_out = true;
    notify(header, payload, sizeof payload);
}
