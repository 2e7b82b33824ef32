set(CPU_FLAGS -mcpu=cortex-m0 -mthumb)
