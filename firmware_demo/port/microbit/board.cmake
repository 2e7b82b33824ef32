set(CPU_FLAGS -mcpu=cortex-m0 -mthumb)
set(SHARED reset.c small.c)
