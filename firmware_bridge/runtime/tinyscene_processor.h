/* The kind of processor that is compiled for: exactly one of TINYSCENE_PLAIN, TINYSCENE_DSP (Cortex-M4, M7, M33),
 * TINYSCENE_MVE (Cortex-M55, M85) and TINYSCENE_SIMD (x86-64, 64-bit Arm, WebAssembly) is defined. The compiler's feature macros
 * select it; -DTINYSCENE_PLAIN overrides that. */
#ifndef TINYSCENE_PROCESSOR_H
#define TINYSCENE_PROCESSOR_H

#if defined(TINYSCENE_PLAIN)
#elif defined(__ARM_FEATURE_MVE)
#define TINYSCENE_MVE
#elif defined(__ARM_FEATURE_DSP) && defined(__arm__)
#define TINYSCENE_DSP
#elif defined(TINYSCENE_HOST) && defined(__GNUC__) && /* only on request */ \
    (defined(__AVX2__) || defined(__wasm_simd128__) || (defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)))
#define TINYSCENE_SIMD
#else
#define TINYSCENE_PLAIN
#endif

/* Where a convolution and a sum of activations may be rescaled in floats: the code generator proves that it is exact. */
#if defined(TINYSCENE_SIMD) && defined(__AVX2__) && defined(__FMA__)
#define TINYSCENE_FLOATS
#endif

/* Arithmetic is in int and int32_t alike. */
typedef char tinyscene_int_has_32_bits[(int)sizeof(int) == 4 && (unsigned char)-1 == 255 ? 1 : -1];

/* 2^n, 0 <= n <= 30. */
#define POWER_OF_2(n) ((int32_t)(UINT32_C(1) << (n)))

/* In C99, >> of a negative number is implementation-defined. All known compilers shift arithmetically. */
typedef char tinyscene_shifts_are_arithmetic[(-3 >> 1) == -2 ? 1 : -1];

/* Where the linker puts the kernels with the rows and the front end (code), what the network has learned (weights), and the
 * constants of the front end (tables): names of sections, such as -DTINYSCENE_CODE_SECTION='".itcm"'. */
#if defined(TINYSCENE_CODE_SECTION) && defined(__GNUC__)
#define TINYSCENE_CODE __attribute__((section(TINYSCENE_CODE_SECTION)))
#else
#define TINYSCENE_CODE
#endif
#if defined(TINYSCENE_WEIGHTS_SECTION) && defined(__GNUC__)
#define TINYSCENE_WEIGHTS __attribute__((section(TINYSCENE_WEIGHTS_SECTION)))
#else
#define TINYSCENE_WEIGHTS
#endif
#if defined(TINYSCENE_TABLES_SECTION) && defined(__GNUC__)
#define TINYSCENE_TABLES __attribute__((section(TINYSCENE_TABLES_SECTION)))
#else
#define TINYSCENE_TABLES
#endif

/* INLINE: at -Os too, where calls would cost a third, and arguments that are constants must become them. NOINLINE: one
 * copy, and all registers for it. ASSEMBLY: its body is all of it, and reads its arguments where the call left them. */
#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline)) TINYSCENE_CODE
#define ASSEMBLY static __attribute__((naked, noinline)) TINYSCENE_CODE
#define ARGUMENT __attribute__((unused))
#else
#define INLINE static inline
#define NOINLINE
#endif

#endif
