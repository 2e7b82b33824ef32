"""Generated C on emulated microcontrollers: results, instructions, bytes and stack."""
