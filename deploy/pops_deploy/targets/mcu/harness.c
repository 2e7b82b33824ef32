/* Runs a generated policy on an emulated Cortex-M: reads observations from a file of the host by
   semihosting, calls the policy on each, and writes what came out and what it cost.

   POLICY_ACT and so on are given on the compiler's command line; policy.h is the policy's own
   header. Instructions are counted by SysTick: under QEMU's -icount the clock advances by the same
   step with each instruction. */
#include <stdint.h>

#include HEADER

extern uint32_t data_start[], data_end[], data_load[], bss_start[], bss_end[], stack_top[], stack_paint[];

#define PAINT 0xa5a5a5a5u
#define PAINTED_CALLS 16

#define SYSTICK_CONTROL (*(volatile uint32_t *)0xe000e010u)
#define SYSTICK_RELOAD (*(volatile uint32_t *)0xe000e014u)
#define SYSTICK_VALUE (*(volatile uint32_t *)0xe000e018u)

typedef struct {
    uint32_t ticks, control, stack, status;
} measurement;

/* Calls function(a, b, c) between two readings of SysTick and notes where the stack was. */
measurement measured;
uint32_t measured_call(const void *a, void *b, void *c, uintptr_t function);
__asm__(
    ".syntax unified\n"
    ".thumb_func\n"
    ".global measured_call\n"
    "measured_call:\n"
    "    push {r4, r5, r6, r7, lr}\n"
    "    sub sp, #4\n"
    "    ldr r5, =0xe000e018\n"
    "    ldr r7, =call_stack\n"
    "    mov r6, sp\n"
    "    str r6, [r7]\n"
    "    mov r7, r3\n"
    "    movs r4, #0\n"
    "    str r4, [r5]\n"      /* the count starts again */
    "    subs r5, #8\n"
    "    nop\n"
    "    nop\n"
    "    ldr r4, [r5]\n"      /* reading clears the flag that it wrapped */
    "    adds r5, #8\n"
    ".global measure_begin\n"
    "measure_begin:\n"
    "    ldr r4, [r5]\n"
    "    blx r7\n"
    ".global measure_end\n"
    "measure_end:\n"
    "    ldr r6, [r5]\n"
    "    ldr r7, =measured\n"
    "    subs r4, r4, r6\n"
    "    str r4, [r7]\n"
    "    str r0, [r7, #12]\n"
    "    subs r5, #8\n"
    "    ldr r6, [r5]\n"      /* SysTick's control: did the count go through zero? */
    "    str r6, [r7, #4]\n"
    "    add sp, #4\n"
    "    pop {r4, r5, r6, r7, pc}\n"
    ".ltorg\n"
    ".thumb_func\n"
    ".global known_0\n"
    "known_0:\n"
    "    bx lr\n"
    ".thumb_func\n"
    ".global known_1000\n"
    "known_1000:\n"
    "    .rept 1000\n"
    "    nop\n"
    "    .endr\n"
    "    bx lr\n");

uint32_t call_stack;
extern void known_0(void), known_1000(void);

#if BYTES
typedef uint8_t observation_type;
#else
typedef float observation_type;
#endif

static union {
    observation_type values[OBSERVATION_SIZE];
    uint32_t align;
} observation;
static union {
    uint8_t bytes[SCRATCH_BYTES];
    uint64_t align;
} scratch;
static struct {
    measurement act;
    uint32_t action[ACTION_SIZE];
    float outputs[OUTPUT_SIZE];
} record;

static int32_t host(int32_t operation, const void *argument)
{
    register int32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static int32_t host_open(const char *name, uint32_t length, uint32_t mode)
{
    uintptr_t block[3] = {(uintptr_t)name, mode, length};
    return host(0x01, block);
}

/* Returns how many bytes were not read or written. */
static int32_t host_move(int32_t operation, int32_t file, void *data, uint32_t bytes)
{
    uintptr_t block[3] = {(uintptr_t)file, (uintptr_t)data, bytes};
    return host(operation, block);
}

static void leave(uintptr_t code)
{
    uintptr_t block[2] = {0x20026u, code}; /* ADP_Stopped_ApplicationExit */
    (void)host(0x20, block);
    for (;;)
        continue;
}

void fault(void);
void fault(void)
{
    leave(70);
}

static uint32_t painted_depth(void)
{
    const volatile uint32_t *at = (const volatile uint32_t *)(call_stack - (uint32_t)stack_paint);
    while ((uintptr_t)at < call_stack && *at == PAINT)
        at++;
    return call_stack - (uint32_t)at;
}

static void paint(void)
{
    volatile uint32_t *at;
    /* The wrapper's frame lies above the place that it notes; stay below this function's own. */
    uintptr_t here = (uintptr_t)__builtin_frame_address(0) - 64;
    for (at = (volatile uint32_t *)(call_stack - (uint32_t)stack_paint); (uintptr_t)at < here; at++)
        *at = PAINT;
}

static void run(int32_t input, int32_t output)
{
    uint32_t count = 0;
    (void)measured_call(0, 0, 0, (uintptr_t)known_0);
    (void)host_move(0x05, output, &measured, sizeof measured);
    (void)measured_call(0, 0, 0, (uintptr_t)known_1000);
    (void)host_move(0x05, output, &measured, sizeof measured);
    while (host_move(0x06, input, observation.values, sizeof observation.values) == 0) {
        if (count++ < PAINTED_CALLS)
            paint();
        (void)measured_call(observation.values, record.action, scratch.bytes, (uintptr_t)ACT);
        record.act = measured;
        record.act.stack = count <= PAINTED_CALLS ? painted_depth() : 0;
        (void)INFER(observation.values, record.outputs, scratch.bytes);
        (void)host_move(0x05, output, &record, sizeof record);
    }
#if GOLDEN_VECTORS && BYTES
    count = (uint32_t)SELF_TEST(observation.values, scratch.bytes);
#elif GOLDEN_VECTORS
    count = (uint32_t)SELF_TEST(scratch.bytes);
#else
    count = 0;
#endif
    (void)host_move(0x05, output, &count, sizeof count);
}

void reset(void);
void reset(void)
{
    uint32_t *to, *from = data_load;
    int32_t input, output;
#if FLOATING_POINT
    *(volatile uint32_t *)0xe000ed88u |= 0xfu << 20;
    __asm__ volatile("dsb\n isb" ::: "memory");
#endif
    for (to = data_start; to != data_end;)
        *to++ = *from++;
    for (to = bss_start; to != bss_end;)
        *to++ = 0;
    SYSTICK_RELOAD = 0xffffffu;
    SYSTICK_VALUE = 0;
    SYSTICK_CONTROL = 5;
    input = host_open("observations.bin", 16, 1);
    output = host_open("results.bin", 11, 5);
    if (input < 0 || output < 0)
        leave(71);
    run(input, output);
    leave(0);
}

__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))stack_top, reset, fault, fault, fault, fault, fault, fault,
    fault, fault, fault, fault, fault, fault, fault, fault};
