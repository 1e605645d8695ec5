// What the library can do on the processor it was compiled for.
extern "C" int relic_has_bfloat16() {
#if defined(__AVX512BF16__)
    return 1;
#else
    return 0;
#endif
}
