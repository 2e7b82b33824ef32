/* Lines of text for a person at a terminal. No printf: it takes more flash than the policy. */
#ifndef TELEMETRY_H
#define TELEMETRY_H

#include <stdint.h>

void telemetry_text(const char *text);
void telemetry_number(const char *name, uint32_t value);
/* With three decimals, cut off; beyond ±2,000,000 that number. */
void telemetry_real(const char *name, float value);
void telemetry_end(void);

#endif
