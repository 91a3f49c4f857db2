/* The constants of the network, as they lie in weights.bin. */
#ifdef __APPLE__
    .const_data
    .balign 64
    .globl _model_weights
_model_weights:
#else
    .section .rodata
    .balign 64
    .globl model_weights
model_weights:
#endif
    .incbin "weights.bin"
    .byte 0
#ifdef __ELF__
    .section .note.GNU-stack,"",%progbits
#endif
