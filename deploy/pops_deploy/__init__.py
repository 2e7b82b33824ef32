"""Run and measure exported policies on a computer, a Raspberry Pi or a microcontroller."""
